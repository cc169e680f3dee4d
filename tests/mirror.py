"""A server of files on 127.0.0.1 whose connections break off when told to, in place of the public addresses."""

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator


class Mirror(ThreadingHTTPServer):
    """Serves the files of `folder` at `url`.

    cuts: for a file's name, after how many bytes each of its next answers breaks off
    requests: (name, Range header or None) of every request
    ranges: whether it continues a download in the middle
    """

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.cuts, self.requests, self.ranges = folder, {}, [], True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        if not (self.server.folder / name).is_file():
            self.send_error(404)
            return
        data = (self.server.folder / name).read_bytes()
        first = int(re.match(r"bytes=(\d+)-$", asked)[1]) if asked and self.server.ranges else 0
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
def mirror(folder) -> Iterator[Mirror]:
    server = Mirror(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
