"""What a stranger may ask of a page: how often, how much, and for what. Needs Starlette, which comes with Gradio."""

import threading
import time
from collections import deque
from typing import Callable, Deque, Tuple

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MINUTE = 60.0
BODY = 1 << 16  # bytes of a request; the page's own have some hundreds beside the text
API = "/gradio_api/"
# Gradio has routes for much more, among them uploads, files of the server and requests to other servers.
GET = ("/assets/", "/static/", f"{API}heartbeat/")  # and what begins with these
GET_EXACTLY = ("/", "/config", "/theme.css", "/favicon.ico", f"{API}queue/data", f"{API}app_id")
POST_EXACTLY = (f"{API}queue/join", f"{API}cancel", f"{API}reset")


class Rate:
    """At most `count` calls a minute of each client.

    Args:
        count: how many
        clock: gives seconds
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self.count, self.clock = count, clock
        self.calls: Deque[Tuple[float, str]] = deque()  # of the last minute, all clients'
        self.lock = threading.Lock()

    def wait(self, client: str) -> float:
        """Seconds until this client may call; 0: now, and this counts as its call."""
        with self.lock:
            now = self.clock()
            while self.calls and self.calls[0][0] <= now - MINUTE:
                self.calls.popleft()
            own = [then for then, caller in self.calls if caller == client]
            if len(own) >= self.count:
                return own[-self.count] + MINUTE - now
            self.calls.append((now, client))
            return 0.0


class OnlyThePage:
    """Lets through what the page itself asks for, in requests of a size that it can have; the rest is refused."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            method, path = scope["method"], scope["path"]
            headers = dict(scope["headers"])
            size = headers.get(b"content-length", b"0" if method != "POST" else b"")
            chunked = b"transfer-encoding" in headers  # which would count for more than the size that is told
            if method in ("GET", "HEAD"):
                known = path in GET_EXACTLY or path.startswith(GET)
            else:
                known = method == "POST" and path in POST_EXACTLY
            if not known:
                app = PlainTextResponse("The page has no such address.\n", 404)
            elif chunked or not size.isdigit() or int(size) > BODY:
                app = PlainTextResponse(f"A request holds at most {BODY:,} bytes, and says how many.\n", 413)
        elif scope["type"] != "lifespan":  # websockets, of which the page has none
            return
        await app(scope, receive, send)
