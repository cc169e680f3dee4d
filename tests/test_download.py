"""Files arrive whole and checked, whatever happens on the way."""

import hashlib
import random

import pytest
from mirror import mirror

from fairseq_resmlp.download import download
from fairseq_resmlp.errors import InputError

DATA = random.Random(1).getrandbits(8 * 300_000).to_bytes(300_000, "big")
CHECKSUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tgz").write_bytes(DATA)
    with mirror(tmp_path / "served") as server:
        yield server


def fetch(server, tmp_path, checksum=CHECKSUM, name="a.tgz"):
    path = tmp_path / "downloads" / name
    sha256 = download(f"{server.url}/{name}", str(path), checksum, wait=0)
    assert path.read_bytes() == DATA and sha256 == CHECKSUM[len("sha256:") :]
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("checksum", [CHECKSUM, "md5:" + hashlib.md5(DATA).hexdigest(), "-"])
def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path, checksum):
    fetch(server, tmp_path, checksum)
    fetch(server, tmp_path, checksum)
    assert server.requests == [("a.tgz", None)]


def test_a_connection_cut_several_times_goes_on_where_it_was(server, tmp_path, capsys):
    server.cuts["a.tgz"] = [100_000, 50_000, 10]
    fetch(server, tmp_path)
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-", "bytes=150010-"]
    assert "cut off at 100,000 of 300,000 bytes; going on at byte 100,000" in capsys.readouterr().out


def test_a_download_that_was_killed_goes_on(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tgz.part").write_bytes(DATA[:123_456])
    fetch(server, tmp_path)
    assert server.requests == [("a.tgz", "bytes=123456-")]


def test_a_download_killed_after_its_last_byte_is_whole(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tgz.part").write_bytes(DATA)
    fetch(server, tmp_path)


def test_a_server_that_cannot_continue_begins_again(server, tmp_path):
    server.ranges = False
    server.cuts["a.tgz"] = [100_000]
    fetch(server, tmp_path)


def test_a_connection_that_gives_nothing_is_given_up(server, tmp_path):
    server.cuts["a.tgz"] = [1000] + [0] * 9
    with pytest.raises(InputError, match=r"a\.tgz: cut off at 1,000 of 300,000 bytes, 5 times: run again to go on"):
        fetch(server, tmp_path)
    server.cuts.clear()
    fetch(server, tmp_path)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_another_checksum_stops(server, tmp_path, algorithm):
    with pytest.raises(InputError, match=rf"a\.tgz\.part is not the file .* its {algorithm} is .*, expected 00ff"):
        fetch(server, tmp_path, f"{algorithm}:00ff")
    assert not (tmp_path / "downloads" / "a.tgz").exists()


def test_a_file_changed_afterwards_is_found_out(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / "downloads" / "a.tgz").write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="is not the file"):
        fetch(server, tmp_path)


def test_a_missing_file_stops_at_once(server, tmp_path):
    with pytest.raises(InputError, match=r"b\.tgz: 404 .*take a mirror"):
        fetch(server, tmp_path, name="b.tgz")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url, checksum, message",
    [
        ("http://127.0.0.1:9/a", "sha265:00", "sha265:00 is no checksum"),
        ("a.tgz", "-", "a.tgz is no address"),
        ("127.0.0.1:9/a", "-", "is no address: it begins with http://"),
    ],
)
def test_a_mistake_is_named_before_anything_is_fetched(tmp_path, url, checksum, message):
    with pytest.raises(InputError, match=message):
        download(url, str(tmp_path / "a"), checksum)


def test_a_dead_server_stops(tmp_path):
    with pytest.raises(InputError, match="refused, 5 times"):
        download("http://127.0.0.1:9/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
