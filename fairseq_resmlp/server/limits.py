"""Limits on the requests of clients: rate, size, and URLs."""

import threading
import time
from collections import deque
from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MINUTE = 60.0
MAX_BODY = 1 << 16  # bytes of a request; the page sends a few hundred in addition to the text
API = "/gradio_api/"
# Gradio has many more routes, for example for uploads, for files of the server and for requests to other servers.
GET_PREFIXES = ("/assets/", "/static/", f"{API}heartbeat/")
GET_PATHS = ("/", "/config", "/theme.css", "/favicon.ico", f"{API}queue/data", f"{API}app_id")
POST_PATHS = (f"{API}queue/join", f"{API}cancel", f"{API}reset")


class RateLimit:
    """At most `count` translations per minute and client.

    Args:
        count: the limit
        clock: returns the time in seconds
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self.count, self.clock = count, clock
        self.calls: deque[tuple[float, str]] = deque()  # of all clients in the last minute
        self.lock = threading.Lock()

    def acquire(self, client: str) -> float:
        """Count a translation of a client, or return the seconds until its next one is allowed.

        Returns:
            0 if the translation is allowed; otherwise the waiting time, and nothing is counted
        """
        with self.lock:
            now = self.clock()
            while self.calls and self.calls[0][0] <= now - MINUTE:
                self.calls.popleft()
            own = [then for then, caller in self.calls if caller == client]
            if len(own) >= self.count:
                return own[-self.count] + MINUTE - now
            self.calls.append((now, client))
            return 0.0


class RequestFilter:
    """ASGI middleware that refuses URLs that the page does not use, and large requests."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            method, path = scope["method"], scope["path"]
            headers = dict(scope["headers"])
            size = headers.get(b"content-length", b"0" if method != "POST" else b"")
            chunked = b"transfer-encoding" in headers  # takes precedence over the stated length
            if method in ("GET", "HEAD"):
                known = path in GET_PATHS or path.startswith(GET_PREFIXES)
            else:
                known = method == "POST" and path in POST_PATHS
            if not known:
                app = PlainTextResponse("Not found.\n", 404)
            elif chunked or not size.isdigit() or int(size) > MAX_BODY:
                app = PlainTextResponse(f"A request must state its Content-Length, at most {MAX_BODY:,} bytes.\n", 413)
        elif scope["type"] != "lifespan":  # the page uses no websockets
            return
        await app(scope, receive, send)
