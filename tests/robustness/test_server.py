"""What clients of the translation server can and cannot do."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPException
from ipaddress import ip_network

import pytest

from fairseq_resmlp.model.export import export_model
from fairseq_resmlp.server.connections import RESERVED_FILES
from support.memory import resident_memory
from support.paths import GOLDEN
from support.server import KING, RunningServer, served

REQUEST = f'{{"q": "{KING}", "source": "en", "target": "de"}}'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "golden"
    export_model(str(GOLDEN), str(path), dtype="float32")
    return path


@pytest.fixture(scope="module")
def server(model):
    """A server whose clients have half a second to send a request and to read its answer."""
    with served(model, client_timeout=0.5, max_connections=40) as running:
        yield running


def send(server, data, source="127.0.0.1"):
    """Open a connection and send bytes. Returns the socket."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=(source, 0))
    connection.sendall(data)
    return connection


def read_all(connection):
    """Return everything that the server sends until it closes the connection."""
    received = b""
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionResetError:
        pass
    return received


def head(method="POST", path="/translate", host="127.0.0.1", **headers):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


# Names and addresses


FOREIGN_HOSTS = [
    *("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example.", "a"),
    *("127.0.0.1@evil.example", "evil.example#127.0.0.1", "127.0.0.1 evil.example", "192.0.2.1", "[2001:db8::1]"),
    *("0.0.0.0", "0x7f000001", "2130706433", "127.1", "xn--localhost-x", "LOCALHOST.EVIL.EXAMPLE"),
]
ADDRESSES = ["/", "/docs", "/openapi.json", "/static/page.js", "/translate", "/models", "/metrics", "/health", "/no"]


def test_a_page_that_rebinds_its_name_to_the_server_is_refused(server, record_promise):
    for host in FOREIGN_HOSTS:
        for path in ADDRESSES if host == "evil.example" else ["/models"]:
            for method in ("GET", "POST"):
                answer = server.request(method, path, headers={"Host": host, "Origin": f"http://{host}"})
                assert answer.status == 421, (host, path, method)
    for data in (
        b"GET /models HTTP/1.0\r\n\r\n",  # no Host at all
        b"GET /models HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ):
        with closing(send(server, data)) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert re.match(rb"HTTP/1.1 (400|421) ", read_all(connection))
    record_promise(
        "The server refuses every Host header that is not one of its names (DNS rebinding)",
        f"{len(FOREIGN_HOSTS) + 4} headers, {len(ADDRESSES)} addresses",
    )


FORWARDED = ["203.0.113.9", "203.0.113.9, 198.51.100.2", "::1", "127.0.0.9", "garbage", "", "203.0.113.9:80"]


def test_no_header_and_no_loopback_address_evades_the_rate_limit(model, record_promise):
    with served(model, rate=3) as server:
        assert [server.translate("").status for _ in range(3)] == [200] * 3
        names = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "CF-Connecting-IP", "True-Client-IP")
        for value in FORWARDED:
            for name in names:
                assert server.translate("", headers={name: value}).status == 429
        sources = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254"]
        for source in sources:
            answer = server.post("/translate", REQUEST, headers={"X-Forwarded-For": "203.0.113.9"}, source=source)
            assert answer.status == 429
    record_promise(
        "A client cannot evade the rate limit with a header or another loopback address",
        f"{len(FORWARDED) * len(names)} headers, {len(sources)} addresses",
    )


def test_only_a_trusted_proxy_names_the_client(model):
    with served(model, rate=2, trusted_proxies=[ip_network("127.0.0.2")]) as server:

        def status(forwarded, source):
            headers = {"X-Forwarded-For": forwarded}
            return server.post("/translate", REQUEST, headers=headers, source=source).status

        assert [status("203.0.113.9", "127.0.0.2") for _ in range(3)] == [200, 200, 429]
        assert status("203.0.113.10", "127.0.0.2") == 200  # another client of the proxy
        assert status("198.51.100.1, 203.0.113.9", "127.0.0.2") == 429  # forged by that client
        assert [status("203.0.113.11", "127.0.0.3") for _ in range(3)] == [200, 200, 429]


FILES = ["/dev/zero", "/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/"]


def test_no_request_reads_a_file_or_an_address(server, record_promise):
    """Gradio's clients could name files and addresses for the server to read: /dev/zero hung it forever."""
    paths = [
        *("/static/../../../etc/hostname", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%5c..%5capp.py"),
        *("/static//etc/hostname", "/static/%00", "/file=/etc/hostname", "/gradio_api/file=/etc/hostname"),
        *("/gradio_api/upload", "/gradio_api/queue/join", "/proxy=http://127.0.0.1:1/", "/models/..%2f..%2fetc/maps"),
    ]
    for path in paths:
        for method in ("GET", "POST"):
            assert server.request(method, path, "{}" if method == "POST" else None).status in (404, 405), path
    for name in FILES:
        data = {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}
        for value in (data, [data], {"q": data}):
            assert server.post("/translate", {"q": value, "source": "en", "target": "de"}).status == 400
        multipart = f'--x\r\nContent-Disposition: form-data; name="q"; filename="{name}"\r\n\r\na\r\n--x--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert server.post("/translate?source=en&target=de", multipart, headers=headers).status == 400
        assert server.translate(name).status == 200  # text like any other
    record_promise(
        "No request makes the server read a file or an address",
        f"{len(paths)} addresses, {4 * len(FILES)} file references",
    )


# Size and time


@contextmanager
def slow_clients(server, count, data):
    """Connections that send nothing further after `data`."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(send(server, data))) for _ in range(count)]


SLOW = {
    "nothing": b"",
    "half of the headers": b"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "half of the body": head(Content_Length=100) + b'{"q": ',
    "a part of a chunk": head(Transfer_Encoding="chunked") + b"10\r\nab",
    "one request, then half of another": head("GET", "/health") + b"GET /hea",
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_client_is_disconnected(server, kind):
    with slow_clients(server, 2, SLOW[kind]) as connections:
        for connection in connections:
            received = read_all(connection)
            if "body" in kind or "chunk" in kind:
                assert received.startswith(b"HTTP/1.1 408 ") and b"not complete within 0.5 seconds" in received
            else:
                assert received.count(b"HTTP/1.1 200 ") == kind.startswith("one request") == received.count(b"HTTP")
    assert server.translate().status == 200


@pytest.mark.parametrize("data", [head("GET", "/x" * 10)[:-2], head(Content_Length=10**6)], ids=["headers", "body"])
def test_a_client_that_sends_a_byte_at_a_time_is_disconnected(server, data):
    with closing(send(server, data)) as connection:
        connection.settimeout(0.05)
        received = []
        for _ in range(600):
            try:
                connection.sendall(b"a")
                received.append(connection.recv(1 << 16))
                if not received[-1]:
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("the connection stayed open")


def test_a_client_that_does_not_read_is_disconnected(server):
    requests = head("GET", "/models/en-de/maps/encoder/1") * 2000
    with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(30)
        with pytest.raises(ConnectionError):  # reset, before everything was sent
            for _ in range(100):
                connection.sendall(requests)
    assert server.translate().status == 200


BODIES = {
    "stated": (head(Content_Length=10**9), b"a" * 0xFFFF),
    "stated, 20 digits": (head(Content_Length=10**19), b"a" * 0xFFFF),
    "chunked": (head(Transfer_Encoding="chunked"), b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n"),
    "refused address": (head(path="/nothing", Transfer_Encoding="chunked"), b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n"),
    "form": (
        head(Transfer_Encoding="chunked", Content_Type="application/x-www-form-urlencoded"),
        b"ffff\r\n" + b"q=a&" * (0xFFFF // 4) + b"q=a\r\n",
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_an_endless_body_ends_with_an_answer(server, kind):
    start, more = BODIES[kind]
    with closing(send(server, start)) as connection:
        try:
            for _ in range(2000):  # 131 MB, if the server reads them
                connection.sendall(more)
            pytest.fail("the server reads everything")
        except (BrokenPipeError, ConnectionResetError):
            pass


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_too_large_is_answered_with_the_reason(server, kind):
    start, more = BODIES[kind]
    with closing(send(server, start + more + more[:0x3000])) as connection:
        received = read_all(connection)
    if kind == "refused address":
        assert received.startswith(b"HTTP/1.1 404 ")
    else:
        assert received.startswith(b"HTTP/1.1 413 ") and b"is larger than 76,384 bytes: send less text" in received
    assert b"connection: close" in received


def test_connections_of_one_client_leave_places_for_others(server, record_promise):
    with slow_clients(server, 35, b"") as connections:
        refused = [connection for connection in connections[20:] if b"503" in read_all(connection)]
        assert len(refused) == 15
        assert server.request("GET", "/health", source="127.0.0.2").status == 200
    record_promise("Slow connections of one client do not keep others out", "35 connections, of 40 possible ones")


# Memory and log


def test_requests_leave_nothing_in_memory(server, record_promise):
    def send_requests(count):
        for number in range(count):
            text = f"{number} {'a b ' * 200}"
            server.post("/detect", {"q": text, "session_hash": str(number)}, headers={"Cookie": f"session={number}"})
            server.get(f"/nothing/{number}")
            server.post(f"/translate?q={number}", "")

    send_requests(20)
    _, before = resident_memory()
    send_requests(60)
    _, after = resident_memory()
    assert after - before < 10  # MiB; with 1 MB per session it would be 60
    paths = re.findall(r'http_requests_total\{path="([^"]*)"', server.get("/metrics").text)
    assert len(set(paths)) < 20
    record_promise("The server keeps nothing of a request", f"{after - before:.0f} MiB more after 180 requests")


@contextmanager
def serving_process(model, *options, files=1024, slow=0.0):
    """A process of `fairseq-resmlp serve`, as a RunningServer with the attribute `process`.

    Args:
        files: number of files that it may open
        slow: seconds that each step of a search takes longer
    """
    code = f"""
import time
from fairseq_resmlp.inference.network import Network
step = Network.step
Network.step = lambda *args: (time.sleep({slow}), step(*args))[1]
from fairseq_resmlp.cli.main import main
main(prog_name="fairseq-resmlp")
"""
    command = [sys.executable, "-c", code, "serve", str(model), "--port", "0", "--threads", "1", *options]
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # noqa: E731
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
    try:
        line = process.stdout.readline()
        running = RunningServer(None, None, int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1]))
        running.process = process
        yield running
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_flood_of_connections_and_bad_requests_exhausts_neither_files_nor_the_log(model, record_promise):
    limit = 64
    with serving_process(model, "--max-connections", str(limit), files=limit + RESERVED_FILES) as server:
        with slow_clients(server, 600, b"GET / HTTP/1.1\r\n") as connections:
            assert server.request("GET", "/health", source="127.0.0.2").status == 200
            assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < limit + RESERVED_FILES
            assert len(connections) == 600
        for number in range(300):
            data = [b"\0\r\n\r\n", head(Content_Length="x"), head("GET", "/%ff"), b"GET / HTTP/9\r\n\r\n"][number % 4]
            with closing(send(server, data, source="127.0.0.3")):
                pass
        assert server.request("GET", "/health", source="127.0.0.2").status == 200
        server.process.send_signal(signal.SIGINT)
        _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0 and len(log) < 2000
    record_promise(
        "A flood of connections and bad requests exhausts neither file descriptors nor the log",
        f"600 connections, 300 bad requests, {len(log)} bytes of log",
    )


@pytest.mark.slow
def test_sigterm_stops_the_server_in_the_middle_of_a_translation(model, record_promise):
    with serving_process(model, slow=0.2) as server:
        text = "a. " * 1000  # an hour, at 0.2 seconds per step

        def translate():
            with suppress(OSError, HTTPException):
                server.translate(text)

        threads = [threading.Thread(target=translate) for _ in range(3)]
        for thread in threads:
            thread.start()
        while server.metric('waiting_requests{model="en-de"}') < 3:
            time.sleep(0.05)
        server.process.terminate()
        server.process.wait(30)
        for thread in threads:
            thread.join()
    record_promise("SIGTERM stops the server in the middle of a translation", "3 requests of 1,000 sentences")


def test_a_client_that_leaves_in_the_middle_of_a_request_is_not_logged(server, caplog):
    start = b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with closing(send(server, start)):
        pass
    for _ in range(200):
        if server.metric('http_requests_total{path="/translate",status="499"}'):
            break
        time.sleep(0.05)
    assert server.metric('http_requests_total{path="/translate",status="499"}') == 1
    assert "a request failed" not in caplog.text
