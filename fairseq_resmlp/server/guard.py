"""Checks of requests before the application sees them, and headers of all answers."""

import asyncio
import logging
import math
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairseq_resmlp.server.clients import client_name
from fairseq_resmlp.server.hosts import HostCheck, is_same_origin
from fairseq_resmlp.server.limits import RateLimit
from fairseq_resmlp.server.metrics import Metrics
from fairseq_resmlp.server.settings import Settings

logger = logging.getLogger(__name__)

UNEXPECTED = "an unexpected error occurred: see the log of the server"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware around the whole application.

    It refuses requests with a Host header that does not name this server, requests of pages of other origins, requests
    above the rate limit, and bodies that are too large or too slow. It sets the security headers, answers and logs
    unexpected errors, and measures requests.

    Args:
        app: the application
        settings: settings of the server
        hosts: the accepted Host headers
        metrics: where to count requests
    """

    def __init__(self, app: ASGIApp, settings: Settings, hosts: HostCheck, metrics: Metrics):
        self.app, self.settings, self.hosts, self.metrics = app, settings, hosts, metrics
        self.rate = RateLimit(settings.rate) if settings.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            start = time.perf_counter()
            body = _Body(scope, receive, self.settings)
            origin = Headers(scope=scope).get("origin")
            answer = _Answer(send, body, origin if origin in self.settings.allowed_origins else None)
            try:
                await (self._refusal(scope, body) or self.app)(scope, body.receive, answer.send)
            except Exception:
                logger.exception("a request failed")
                if not answer.status:
                    await error_response(500, UNEXPECTED)(scope, body.receive, answer.send)
            finally:
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self.metrics.requests.labels(path, str(answer.status or "none")).inc()
                self.metrics.latency.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope, body: "_Body") -> ASGIApp | None:
        """Return the answer to a request that is refused, or None."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.hosts.accepts(host):
            return error_response(421, f"{host!r:.100} is not a name of this server: start it with --allowed-host")
        if origin is not None and not is_same_origin(origin, host) and origin not in self.settings.allowed_origins:
            return error_response(
                403, f"pages of {origin!r:.100} may not use this server: start it with --allow-origin"
            )
        if body.declared_size > self.settings.max_body:
            return error_response(413, body.too_large)
        if self.rate is not None and scope["method"] == "POST":
            wait = self.rate.acquire(client_name(scope, self.settings.trusted_proxies))
            if wait:
                return error_response(
                    429,
                    f"the limit is {self.rate.count} requests per minute: try again in {math.ceil(wait)} seconds",
                    math.ceil(wait),
                )
        return None


def error_response(status: int, message: str, retry_after: int | None = None) -> JSONResponse:
    """Return an error in the format of the API. `retry_after` is in seconds."""
    return JSONResponse({"error": message}, status, {} if retry_after is None else {"retry-after": str(retry_after)})


class _Body:
    """The body of a request, limited in size and time."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings):
        headers = Headers(scope=scope)
        self.declared_size = int(headers.get("content-length", "0"))  # h11 accepts only numbers of up to 20 digits
        self.is_complete = self.declared_size == 0 and "transfer-encoding" not in headers
        self.size, self.limit = 0, settings.max_body
        self.too_large = f"the request is larger than {self.limit:,} bytes: send less text"
        self.timeout = settings.client_timeout
        self.deadline = time.monotonic() + self.timeout
        self._receive = receive

    async def receive(self) -> Message:
        """Return the next message from the client.

        Raises:
            HTTPException: the body is larger than the limit, or not complete in time
        """
        if self.is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self.deadline - time.monotonic())
        except TimeoutError as error:
            raise HTTPException(408, f"the request was not complete within {self.timeout:g} seconds") from error
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise HTTPException(413, self.too_large)
        self.is_complete = not message.get("more_body", False)
        return message


class _Answer:
    """The answer to a request, with the security headers, and with permission for pages of `origin` to read it."""

    def __init__(self, send: Send, body: _Body, origin: str | None):
        self._send, self._body, self._origin = send, body, origin
        self.status = 0  # until the answer starts

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            if self._origin is not None:
                headers.setdefault("access-control-allow-origin", self._origin)
                headers.add_vary_header("Origin")
            if not self._body.is_complete:
                headers["connection"] = "close"  # the rest of the body is not read
        await self._send(message)
