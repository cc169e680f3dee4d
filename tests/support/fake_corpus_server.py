"""Servers on 127.0.0.1 that stand in for the public archives, and for faulty ones."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serves the files of `directory` at `url`.

    Attributes:
        cuts: file name to list of byte counts; each of the next responses for that file ends after so many bytes
        requests: list of (file name, Range header or None)
        ranges: whether Range requests are honored
        headers: file name to additional headers of its responses. If-Range is compared with ETag and Last-Modified.
        honor_if_range: whether If-Range is honored
    """

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory, self.cuts, self.requests, self.ranges = directory, {}, [], True
        self.headers, self.honor_if_range = {}, True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        requested = self.headers.get("Range")
        self.server.requests.append((name, requested))
        if not (self.server.directory / name).is_file():
            self.send_error(404)
            return
        data = (self.server.directory / name).read_bytes()
        headers = self.server.headers.get(name, {})
        condition = self.headers.get("If-Range")
        met = condition is None or not self.server.honor_if_range or condition in headers.values()
        first = int(re.match(r"bytes=(\d+)-$", requested)[1]) if requested and self.server.ranges and met else 0
        if first and first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for header in headers.items():
            self.send_header(*header)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        cuts = self.server.cuts.get(name)
        self.wfile.write(data[first:][: cuts.pop(0) if cuts else None])
        self.close_connection = True

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def mirror(directory) -> Iterator[Mirror]:
    """Run a `Mirror` in a background thread."""
    server = Mirror(directory)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class RawServer:
    """Answers each connection with the next of `answers`, or with the last one if there are no more.

    Attributes:
        answers: bytes, or functions that take the connection and write to it
        requests: the headers of each request
    """

    def __init__(self, answers: list[bytes | Callable[[socket.socket], None]]):
        self.answers, self.requests = answers, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self.listener.accept()
                with connection, contextlib.suppress(OSError):  # the client has enough
                    with connection.makefile("rb") as request:
                        lines = [line.decode() for line in iter(request.readline, b"\r\n")]
                    self.requests.append(dict(line.strip().split(": ", 1) for line in lines[1:]))
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    connection.sendall(answer) if isinstance(answer, bytes) else answer(connection)


@contextlib.contextmanager
def raw_server(*answers) -> Iterator[RawServer]:
    """Run a `RawServer` in a background thread."""
    server = RawServer(list(answers))
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
