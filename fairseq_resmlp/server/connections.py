"""The listening socket, and limits on connections."""

import asyncio
import resource
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.server.clients import is_trusted_proxy
from fairseq_resmlp.server.settings import Settings

BACKLOG = 64  # connections that the system queues, and that the event loop accepts at a time
# File descriptors for everything else, and for connections that were accepted but not yet refused
RESERVED_FILES = 4 * BACKLOG + 64
SHUTDOWN_SECONDS = 2  # for requests in progress

_MESSAGE = b'{"error":"too many connections are open: try again later"}'
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
REFUSAL += b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_MESSAGE), _MESSAGE)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        InputError: the address is in use, or does not belong to this machine
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).split(" (")[0]
        raise InputError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from error


def check_file_limit(max_connections: int) -> None:
    """Raise InputError if the process may not open enough files for this number of connections."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and max_connections + RESERVED_FILES > limit:
        raise InputError(
            f"--max-connections {max_connections} requires {max_connections + RESERVED_FILES} open files, but the "
            f"limit of this process is {limit}: raise it with ulimit -n, or use --max-connections "
            f"{max(1, limit - RESERVED_FILES)}"
        )


class LimitedProtocol(H11Protocol):
    """A connection. It is refused if too many are open, and closed if the client makes no progress.

    uvicorn itself waits for the headers of a request without a time limit, and for a client to read its answer.
    """

    settings: Settings  # of the subclass that `make_server` creates
    is_refused = False
    progress = 0.0  # time of the last progress
    unread = 0  # bytes of answers that the client had not accepted then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        others = [other for other in self.connections if isinstance(other, LimitedProtocol) and not other.is_refused]
        super().connection_made(transport)
        self.progress = self.loop.time()
        host = self.client[0] if self.client else ""
        limit = self.settings.max_connections
        own = sum(other.client is not None and other.client[0] == host for other in others)
        is_proxy = is_trusted_proxy(host, self.settings.trusted_proxies)
        self.is_refused = len(others) >= limit or (own >= max(1, limit // 2) and not is_proxy)
        if self.is_refused:
            transport.write(REFUSAL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if not self.is_refused:
            super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request is complete up to its body, for which `Guard` has a time limit
            self.progress = self.loop.time()

    def on_response_complete(self) -> None:
        self.progress = self.loop.time()
        super().on_response_complete()

    def close_if_stalled(self) -> None:
        """Close the connection if it has waited for the client for too long."""
        is_idle = self.cycle is None or self.cycle.response_complete
        unread, before = self.transport.get_write_buffer_size(), self.unread
        self.unread = unread
        if unread != before or not (is_idle or unread or self.transport.is_closing()):
            self.progress = self.loop.time()
        elif self.loop.time() - self.progress > self.settings.client_timeout:
            self.transport.abort()


class Server(uvicorn.Server):
    """An HTTP server.

    Args:
        config: configuration of uvicorn
        on_start: called when the server accepts connections, and signals stop it in an orderly way
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], object]):
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()


def make_server(app: ASGIApp, settings: Settings, on_start: Callable[[], object] = lambda: None) -> Server:
    """Return an HTTP server for an application. `on_start` is that of `Server`."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.settings = settings

    async def close_stalled() -> None:
        for connection in list(server.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.close_if_stalled()

    server = Server(
        uvicorn.Config(
            app,
            http=Protocol,
            loop="asyncio",
            ws="none",
            backlog=BACKLOG,
            callback_notify=close_stalled,
            timeout_notify=0,  # every second
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            proxy_headers=False,
            server_header=False,
            log_config=None,
            log_level="critical",  # a client can cause any number of warnings; `Guard` logs errors
            access_log=False,
        ),
        on_start,
    )
    return server
