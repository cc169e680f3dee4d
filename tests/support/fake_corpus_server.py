"""A file server on 127.0.0.1 that stands in for the public archives and can drop connections."""

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serves the files of `directory` at `url`.

    Attributes:
        cuts: file name to list of byte counts; each of the next responses for that file ends after so many bytes
        requests: list of (file name, Range header or None)
        ranges: whether Range requests are honored
    """

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory, self.cuts, self.requests, self.ranges = directory, {}, [], True
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
        first = int(re.match(r"bytes=(\d+)-$", requested)[1]) if requested and self.server.ranges else 0
        if first and first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
