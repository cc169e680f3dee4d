"""Downloads from servers that fail, change, lie or never end: the right file, or one line that states the reason."""

import base64
import gzip
import hashlib
import os
import random
import re
import socket
import time

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data import download as download_module
from fairseq_resmlp.data import http_source
from fairseq_resmlp.data.download import download, download_all
from support.fake_corpus_server import mirror, raw_server

OLD, NEW = (random.Random(seed).randbytes(200_000) for seed in (1, 2))
CHECKSUM = "sha256:" + hashlib.sha256(NEW).hexdigest()
CUT = 80_000
MONDAY, TUESDAY = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
# Properties of the old and the new version of a file. The headers are those of each response.
VERSIONS = {
    "ETag": (['ETag: "1"'], ['ETag: "2"']),
    "Last-Modified": (
        ["Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"],
        ["Last-Modified: Tue, 02 Jan 2024 00:00:00 GMT"],
    ),
    "weak ETag": (['ETag: W/"1"'], ['ETag: W/"2"']),
    "ETag, the second time only": ([], ['ETag: "2"']),
    "ETag, the first time only": (['ETag: "1"'], []),
    "neither": ([], []),
}


def response(body, *headers, status="200 OK", length=None):
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def rest(data, *headers, content_range=None):
    """Return a response with the bytes from CUT on."""
    content_range = content_range or f"bytes {CUT}-{len(data) - 1}/{len(data)}"
    return response(data[CUT:], *headers, f"Content-Range: {content_range}", status="206 Partial Content")


def cut(data, *headers):
    """Return a response with the first CUT bytes of a longer file."""
    return response(data[:CUT], *headers, length=len(data))


@pytest.fixture
def fetch(tmp_path):
    """Function that downloads from a server of raw answers. Returns the file and the server."""

    def run(*answers, checksum="-", name="a.tgz", **options):
        with raw_server(*answers) as server:
            download(f"{server.url}/{name}", str(tmp_path / name), checksum, wait=0, **options)
        assert sorted(file.name for file in tmp_path.iterdir()) == [name]
        return (tmp_path / name).read_bytes(), server

    return run


# Files that change


@pytest.mark.parametrize("checksum", ["-", CHECKSUM])
@pytest.mark.parametrize("headers", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("honest", [True, False], ids=["If-Range honored", "If-Range ignored"])
def test_two_versions_of_a_file_are_never_joined(fetch, headers, honest, checksum, record_promise):
    old, new = headers
    second = response(NEW, *new) if honest else rest(NEW, *new)
    content, _ = fetch(cut(OLD, *old), second, response(NEW, *new), checksum=checksum)
    assert content == NEW
    figure = f"{len(VERSIONS)} kinds of headers, If-Range honored and ignored, with and without a checksum"
    record_promise("A file that changes on the server during a download is never joined from both versions", figure)


def test_a_change_is_recognized_by_the_size(fetch):
    same = 'ETag: "1"'
    content, _ = fetch(cut(OLD, same), rest(NEW + b"x", same), response(NEW + b"x", same))
    assert content == NEW + b"x"


@pytest.mark.parametrize("header", ['ETag: "1"', f"Last-Modified: {MONDAY}"])
def test_an_unchanged_file_is_continued_on_condition_that_it_is(fetch, header):
    content, server = fetch(cut(NEW, header), rest(NEW, header))
    assert content == NEW
    assert (server.requests[1]["Range"], server.requests[1]["If-Range"]) == (f"bytes={CUT}-", header.split(": ", 1)[1])


def test_an_interrupted_download_is_continued_by_another_process(tmp_path, fetch):
    header = 'ETag: "1"'
    with raw_server(cut(NEW, header), response(b"", status="503 Busy")) as server:
        port = server.listener.getsockname()[1]
        with pytest.raises(InputError, match="503 Busy, 5 times: run again to continue"):
            download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
    assert (tmp_path / "a.tgz.part").stat().st_size == CUT
    record = (tmp_path / "a.tgz.part.json").read_text().replace(str(port), "{port}")
    with raw_server(rest(NEW, header)) as server:
        (tmp_path / "a.tgz.part.json").write_text(record.replace("{port}", str(server.listener.getsockname()[1])))
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
    assert (tmp_path / "a.tgz").read_bytes() == NEW
    assert len(server.requests) == 1


@pytest.mark.parametrize("record", ["", "{", "[]", '{"url": 5}', '{"url": "{url}", "etag": "a\\r\\nb: c"}', "[" * 5000])
def test_a_part_of_unknown_origin_is_not_continued_without_a_checksum(tmp_path, record):
    (tmp_path / "a.tgz.part").write_bytes(OLD[:CUT])
    with raw_server(response(NEW, 'ETag: "1"')) as server:
        (tmp_path / "a.tgz.part.json").write_text(record.replace("{url}", f"{server.url}/a.tgz"))
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
        assert "Range" not in server.requests[0]
    assert (tmp_path / "a.tgz").read_bytes() == NEW


@pytest.mark.parametrize("checksum", ["-", CHECKSUM])
def test_a_stale_part_beyond_the_end_of_the_file_is_discarded(tmp_path, checksum):
    (tmp_path / "a.tgz.part").write_bytes(OLD + b"more")
    answers = (response(b"", status="416 Range Not Satisfiable"), response(NEW))
    with raw_server(*(answers if checksum != "-" else answers[1:])) as server:
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), checksum, wait=0)
    assert (tmp_path / "a.tgz").read_bytes() == NEW


def test_a_part_of_another_file_is_replaced_when_the_checksum_differs(tmp_path):
    (tmp_path / "a.tgz.part").write_bytes(OLD[:CUT])
    with raw_server(rest(NEW), response(NEW)) as server:
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), CHECKSUM, wait=0)
    assert (tmp_path / "a.tgz").read_bytes() == NEW


def test_a_checksum_in_capitals_is_accepted(fetch):
    assert fetch(response(NEW), checksum=CHECKSUM.upper())[0] == NEW


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes {CUT - 1}-{len(NEW) - 1}/{len(NEW)}",
        f"bytes -{CUT}-{len(NEW) - 1}/{len(NEW)}",
        f"bytes 0-{len(NEW) - 1}/{len(NEW)}",
        "bytes */5",
        "bytes",
        "lines 1-2/3",
        "bytes " + "9" * 5000 + "-1/2",
    ],
)
def test_another_range_than_the_requested_one_is_not_appended(fetch, content_range):
    header = 'ETag: "1"'
    answers = (cut(NEW, header), rest(OLD, header, content_range=content_range), response(NEW, header))
    assert fetch(*answers)[0] == NEW


# Bodies without an end


def stream(first, piece, pause=0.0, count=2000):
    """Return an answer that sends `first`, and then `piece` many times, as if there were no end."""

    def answer(connection: socket.socket):
        connection.sendall(first)
        for _ in range(count):
            connection.sendall(piece)
            time.sleep(pause)

    return answer


ENDLESS = {
    "no length": stream(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096),
    "chunked": stream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "length that is no number": stream(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", b"x" * 4096),
    "negative length": stream(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"x" * 4096),
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_body_ends_at_the_limit(tmp_path, fetch, monkeypatch, answer, record_promise):
    monkeypatch.setattr(download_module, "LONGEST_UNANNOUNCED", 1 << 20)
    with pytest.raises(InputError, match=r"a\.tgz: the server sends more than 1,048,576 bytes: use a mirror"):
        fetch(answer)
    assert list(tmp_path.iterdir()) == []
    record_promise("An endless response ends at 8 GiB, and leaves no file", f"{len(ENDLESS)} kinds of response")


HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n"


DRIPPING = {
    "body": stream(HEADERS + b"\r\n", b"x", 0.01),
    "chunk": stream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1; a=", b"b", 0.01),
    "header": stream(HEADERS + b"A: ", b"b", 0.01),
    "headers": stream(HEADERS, b"a: b\r\n", 0.01),
    "status": stream(b"HTTP/1.1 ", b"1", 0.01),
}


@pytest.mark.parametrize("answer", DRIPPING.values(), ids=DRIPPING)
def test_a_response_that_drips_ends_after_the_window(fetch, monkeypatch, answer, record_promise):
    monkeypatch.setattr(http_source, "WINDOW", 0.05)
    monkeypatch.setattr(http_source, "MINIMUM_RATE", 100_000)
    with pytest.raises(InputError, match="slower than 100,000 bytes per second for 0 s, 2 times: run again"):
        fetch(answer, attempts=2)
    figure = f"{len(DRIPPING)} parts of a response"
    record_promise("A response that arrives at less than 1,024 bytes per second for 60 s is given up", figure)


def test_a_connection_that_is_cut_after_every_few_bytes_is_given_up(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tgz").write_bytes(NEW)
    with mirror(tmp_path / "served") as server:
        server.cuts["a.tgz"] = [100] * 2000
        with pytest.raises(InputError, match="closed at 500 of 200,000 bytes, 5 times"):
            download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), CHECKSUM, wait=0)


def test_cuts_at_varying_places_without_ranges_are_given_up(tmp_path):
    answers = [response(NEW[:size], length=len(NEW)) for size in (100_000, 10) * 20]
    with raw_server(*answers) as server, pytest.raises(InputError, match="5 times"):
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)


def test_a_file_that_does_not_fit_on_the_disk_is_refused_at_once(tmp_path, fetch):
    with pytest.raises(InputError, match=rf"has 900,000,.* bytes, but only .* are free in {tmp_path}: free space"):
        fetch(response(b"x", length=900_000_000_000_000_000))


# Odd responses


@pytest.mark.parametrize("length", ["many", "-1", "", "1e3", "0x10", "9" * 5000, "\xb2"])
def test_a_content_length_that_is_no_number_is_ignored(fetch, length):
    assert fetch(response(NEW, length=length), checksum=CHECKSUM)[0] == NEW


UNUSABLE = [
    (
        response(b"", "Location: file:///etc/passwd", status="302 Found"),
        "302 .*'file:///etc/passwd' is not allowed",
    ),
    (response(b"", "Location: gopher://x/a", status="301 Moved"), "301 .* is not allowed"),
    (response(b"", "Location: /a.tgz", status="302 Found"), "redirect error .* infinite loop"),
    (response(b"", "Location: http://[/a.tgz", status="302 Found"), "Invalid IPv6 URL"),
    (response(b"", status="302 Found"), "302 Found"),
    (response(b"", status="204 No Content"), "unexpected status 204"),
    (response(b"", status="401 Unauthorized"), "401 Unauthorized"),
    (response(b"", status="416 Range Not Satisfiable"), "416"),
    (response(b"", status="404 \x1b[31mred\x07"), "404  \\[31mred"),
    (response(b"x", "Content-Encoding: br"), "the server sends it in another encoding, br"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2, 2 times"),
    (b"", "closed connection without response, 2 times"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "got more than 100 headers, 2 times"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead.*, 2 times"),
    (response(b"", status="503 Busy"), "503 Busy, 2 times"),
]


@pytest.mark.parametrize("answer, message", UNUSABLE)
def test_an_unusable_response_is_described_in_one_line(fetch, answer, message, record_promise):
    with pytest.raises(
        InputError, match=rf"^http://127\.0\.0\.1:\d+/a\.tgz: .*{message}.*: (run again|use a mirror)"
    ) as e:
        fetch(answer, attempts=2)
    assert str(e.value).isprintable()


def test_a_compressed_transfer_is_never_stored_under_the_name_of_the_file(fetch):
    with pytest.raises(InputError, match="the server sends it in another encoding, gzip"):
        fetch(response(gzip.compress(NEW), "Content-Encoding: gzip"), name="a.zip")
    # This describes the file itself.
    assert fetch(response(NEW, "Content-Encoding: x-gzip"), name="a.tgz")[0] == NEW


# Passwords


def test_a_password_is_sent_to_its_server_and_never_printed(tmp_path, capsys):
    found = []
    with raw_server(response(NEW)) as other:
        redirect = response(b"", f"Location: {other.url}/elsewhere", status="302 Found")
        with raw_server(response(b"", status="503 Busy"), redirect) as server:
            address = server.url.replace("http://", "http://me:s%40cret@") + "/x"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(download_module.time, "sleep", lambda seconds: None)
                download_all([("http://a.example/a.tgz", "-")], str(tmp_path), address, found.append)
    assert server.requests[0]["Authorization"] == "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert "Authorization" not in other.requests[0]
    printed = capsys.readouterr().out + "\n".join(found)
    assert "503 Busy" in printed and "cret" not in printed and "me" not in re.sub("a.tgz from", "", printed)


WITH_PASSWORD = [
    "http://me:secret@127.0.0.1:9/a.tgz",
    "http://secret@127.0.0.1:9/a.tgz",
    "http://me:sec/secret@127.0.0.1/a.tgz",
    "http://me:sec#secret@127.0.0.1/a.tgz",
    "http://me:sec?secret@127.0.0.1/a.tgz",
    "http://me:12/secret@127.0.0.1/a.tgz",
    "http://me:secret@[/a.tgz",
    "http://me:secret@/a.tgz",
    "http://me:secret@127.0.0.1:port/a.tgz",
    "http://127.0.0.1:9/a.tgz?token=secret",
    "ftp://me:secret@127.0.0.1/a.tgz",
    "http://me:secret@127.0.0.1:9/",
    "http://me:secret@127.0.0.1:9/a\nb.tgz",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_no_error_contains_a_password(tmp_path, url, capsys, record_promise):
    with pytest.raises(InputError) as error:
        download(url, str(tmp_path / "a.tgz"), "-", attempts=2, wait=0)
    assert "secret" not in str(error.value) + capsys.readouterr().out
    with pytest.raises(InputError) as error:
        download_all([(url, "-"), (url, "-")], str(tmp_path), None, print)
    assert "secret" not in str(error.value) + capsys.readouterr().out
    record_promise("A password in an address is never printed", f"{len(WITH_PASSWORD)} addresses that fail")


# Local files


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "FIFO", "directory", "device"])
def test_a_part_that_is_no_file_of_an_interrupted_download_is_left_alone(tmp_path, fetch, kind):
    part, other = tmp_path / "a.tgz.part", tmp_path / "other"
    if kind != "dangling link":
        other.write_bytes(OLD)
    if kind in ("link", "dangling link"):
        part.symlink_to(other)
    elif kind == "hard link":
        part.hardlink_to(other)
    elif kind == "FIFO":
        os.mkfifo(part)
    elif kind == "directory":
        part.mkdir()
    else:
        part.symlink_to("/dev/null")
    before = part.lstat()
    with pytest.raises(InputError, match=r"a\.tgz\.part is not a file that an interrupted download has left: remove"):
        fetch(response(NEW))
    assert part.lstat() == before
    assert not other.exists() if kind == "dangling link" else other.read_bytes() == OLD


def test_a_record_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("important")
    (tmp_path / "a.tgz.part.json").symlink_to(tmp_path / "other")
    with raw_server(cut(NEW, 'ETag: "1"'), response(NEW, 'ETag: "2"')) as server:
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
    assert (tmp_path / "other").read_text() == "important"
    assert (tmp_path / "a.tgz").read_bytes() == NEW


def test_a_second_download_of_the_same_file_is_refused(tmp_path):
    def answer(connection):  # while the first download waits
        try:
            download("http://127.0.0.1:9/a.tgz", str(tmp_path / "a.tgz"), "-", attempts=1)
        except InputError as error:
            refused.append(str(error))
        connection.sendall(response(NEW))

    refused = []
    with raw_server(answer) as server:
        download(f"{server.url}/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
    assert (tmp_path / "a.tgz").read_bytes() == NEW
    assert refused == [f"another process is writing {tmp_path}/a.tgz.part: wait until it has ended"]


@pytest.mark.parametrize("kind", ["directory", "FIFO", "dangling link"])
def test_a_target_that_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.tgz"
    {"directory": path.mkdir, "FIFO": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("x")}[kind]()
    with pytest.raises(InputError, match=r"a\.tgz is not a file: remove it"):
        download("http://127.0.0.1:9/a.tgz", str(path), "-", wait=0)


def test_a_full_disk_is_not_reported_as_trouble_of_the_network(tmp_path, fetch, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(InputError, match=r"^cannot write \S+a\.tgz\.part: File too large: free space, or use"):
            fetch(response(NEW), checksum=CHECKSUM)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.tgz.part").read_bytes() == NEW[:CUT]
    assert fetch(rest(NEW), checksum=CHECKSUM)[0] == NEW  # continued


@pytest.mark.parametrize("url", ["file:///dev/zero", "file:///nonexistent/a", "file://host/a", "file:///", "file:a"])
def test_only_files_are_copied_from_this_machine(tmp_path, url):
    with pytest.raises(InputError, match="file not found: specify file:///PATH|invalid URL file:"):
        download(url, str(tmp_path / "a"), "-", wait=0)


def test_a_local_file_is_copied(tmp_path):
    (tmp_path / "with space").write_bytes(NEW)
    download(f"file://{tmp_path}/with%20space", str(tmp_path / "a"), CHECKSUM)
    assert (tmp_path / "a").read_bytes() == NEW


@pytest.mark.parametrize("name", ["ü.tgz", "a b.tgz", "a%20b.tgz"])
def test_addresses_with_other_characters_are_encoded(tmp_path, name):
    with raw_server(response(NEW)) as server:
        download(f"{server.url}/{name}", str(tmp_path / "a"), CHECKSUM, wait=0)
    assert (tmp_path / "a").read_bytes() == NEW
