"""Downloads are complete and verified, whatever the connection does."""

import hashlib
import random

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.download import download
from support.fake_corpus_server import mirror

DATA = random.Random(1).getrandbits(8 * 300_000).to_bytes(300_000, "big")
CHECKSUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tgz").write_bytes(DATA)
    with mirror(tmp_path / "served") as server:
        yield server


def download_and_check(server, tmp_path, checksum=CHECKSUM, name="a.tgz"):
    path = tmp_path / "downloads" / name
    sha256 = download(f"{server.url}/{name}", str(path), checksum, wait=0)
    assert path.read_bytes() == DATA and sha256 == CHECKSUM[len("sha256:") :]
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("checksum", [CHECKSUM, "md5:" + hashlib.md5(DATA).hexdigest(), "-"])
def test_a_file_is_complete_and_downloaded_once(server, tmp_path, checksum):
    download_and_check(server, tmp_path, checksum)
    download_and_check(server, tmp_path, checksum)
    assert server.requests == [("a.tgz", None)]


def test_a_connection_that_drops_several_times_is_resumed(server, tmp_path, capsys):
    server.cuts["a.tgz"] = [100_000, 50_000, 10]
    download_and_check(server, tmp_path)
    assert [requested for _, requested in server.requests] == [None, "bytes=100000-", "bytes=150000-", "bytes=150010-"]
    assert "connection closed at 100,000 of 300,000 bytes; continuing at byte 100,000" in capsys.readouterr().out


def test_an_interrupted_download_is_resumed(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tgz.part").write_bytes(DATA[:123_456])
    download_and_check(server, tmp_path)
    assert server.requests == [("a.tgz", "bytes=123456-")]


def test_a_download_interrupted_after_its_last_byte_is_complete(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tgz.part").write_bytes(DATA)
    download_and_check(server, tmp_path)


def test_without_range_requests_the_download_starts_over(server, tmp_path):
    server.ranges = False
    server.cuts["a.tgz"] = [100_000]
    download_and_check(server, tmp_path)


def test_attempts_without_progress_are_limited(server, tmp_path):
    server.cuts["a.tgz"] = [1000] + [0] * 9
    with pytest.raises(InputError, match=r"a\.tgz: connection closed at 1,000 of 300,000 bytes, 5 times: run again"):
        download_and_check(server, tmp_path)
    server.cuts.clear()
    download_and_check(server, tmp_path)


LENGTHS = {"sha256": 64, "md5": 32}


@pytest.mark.parametrize("algorithm", LENGTHS)
def test_a_wrong_checksum_is_an_error(server, tmp_path, algorithm):
    with pytest.raises(InputError, match=rf"a\.tgz\.part differs from .* its {algorithm} is .*, expected 00ff"):
        download_and_check(server, tmp_path, f"{algorithm}:00ff".ljust(len(algorithm) + 1 + LENGTHS[algorithm], "0"))
    assert not (tmp_path / "downloads" / "a.tgz").exists()


def test_a_file_that_was_changed_later_is_detected(server, tmp_path):
    download_and_check(server, tmp_path)
    (tmp_path / "downloads" / "a.tgz").write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="differs from the expected content"):
        download_and_check(server, tmp_path)


def test_a_missing_file_is_not_retried(server, tmp_path):
    with pytest.raises(InputError, match=r"b\.tgz: 404 .*use a mirror"):
        download_and_check(server, tmp_path, name="b.tgz")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url, checksum, message",
    [
        ("http://127.0.0.1:9/a", "sha265:00", "invalid checksum sha265:00"),
        ("a.tgz", "-", "invalid URL a.tgz"),
        ("127.0.0.1:9/a", "-", "invalid URL .*: it must begin with http://"),
    ],
)
def test_invalid_arguments_are_refused_before_any_request(tmp_path, url, checksum, message):
    with pytest.raises(InputError, match=message):
        download(url, str(tmp_path / "a"), checksum)


def test_an_unreachable_server_is_given_up(tmp_path):
    with pytest.raises(InputError, match="refused, 5 times"):
        download("http://127.0.0.1:9/a.tgz", str(tmp_path / "a.tgz"), "-", wait=0)
