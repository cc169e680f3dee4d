"""The log of the server, which clients cannot fill."""

import logging
import time
from collections.abc import Callable

from fairseq_resmlp.server.limits import RateLimit

RECORDS_PER_MINUTE = 20
WITHOUT_CLIENT_TEXT = "fairseq_resmlp.inference"  # its warnings quote the text that is translated


class LogLimit(logging.Filter):
    """Drops records that quote text of clients, and records beyond `RECORDS_PER_MINUTE`, which are counted.

    Args:
        clock: returns the time in seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.rate, self.dropped = RateLimit(RECORDS_PER_MINUTE, clock), 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(WITHOUT_CLIENT_TEXT):
            return False
        if self.rate.acquire("log"):
            self.dropped += 1
            return False
        if self.dropped:
            record.msg, record.args = f"{record.getMessage()} ({self.dropped} earlier messages were dropped)", ()
            self.dropped = 0
        return True


def make_handler() -> logging.Handler:
    """Return a handler that writes the log to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(LogLimit())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
