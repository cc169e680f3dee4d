"""Rate limits."""

import threading
import time
from collections.abc import Callable

MINUTE = 60.0


class RateLimit:
    """At most `count` units per minute and client, as a token bucket: unused units accumulate up to `count`.

    The state of a client is two numbers, and is forgotten when its bucket is full.

    Args:
        count: units per minute
        clock: returns the time in seconds
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self.count, self.clock = count, clock
        self._full_at: dict[str, float] = {}  # when the bucket of a client will be full
        self._next_cleanup = clock() + MINUTE
        self._lock = threading.Lock()

    def acquire(self, client: str, cost: int = 1) -> float:
        """Take units of a client, or return the seconds until there are enough.

        Args:
            client: any name
            cost: units to take, at most `count`

        Returns:
            0 if the units were taken; otherwise the waiting time, and nothing is taken
        """
        with self._lock:
            now = self.clock()
            self._forget_idle(now)
            full_at = max(now, self._full_at.get(client, now)) + cost * MINUTE / self.count
            if full_at > now + MINUTE * (1 + 1e-9):  # rounding errors of the sum
                return full_at - now - MINUTE
            self._full_at[client] = full_at
            return 0.0

    def __len__(self) -> int:
        """Number of clients that are remembered."""
        return len(self._full_at)

    def _forget_idle(self, now: float) -> None:
        if now >= self._next_cleanup:
            self._full_at = {client: full_at for client, full_at in self._full_at.items() if full_at > now}
            self._next_cleanup = now + MINUTE
