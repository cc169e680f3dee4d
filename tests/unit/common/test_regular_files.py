"""Files that are read as a whole: anything but a regular file, and JSON that cannot be used, ends with one line."""

import os
import socket

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import MAX_DEPTH, check_regular_file, read_json


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.mkdir("directory")
    os.symlink("loop", "loop")
    os.symlink("fifo", "link")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")


@pytest.mark.parametrize(
    "path, message",
    [
        ("fifo", "fifo is a pipe: specify a regular file"),
        ("link", "link is a pipe: specify a regular file"),
        ("directory", "directory is a directory: specify a regular file"),
        ("socket", "socket is a socket: specify a regular file"),
        ("/dev/zero", "/dev/zero is a device: specify a regular file"),
        ("loop", "cannot read loop: Too many levels of symbolic links"),
        ("missing", "cannot read missing: No such file or directory"),
        ("n" * 300, f"cannot read {'n' * 300}: File name too long"),
    ],
    ids=lambda value: value[:9],
)
def test_what_is_not_a_regular_file_is_refused_without_opening_it(path, message, places):
    for read in (check_regular_file, read_json):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value) == message


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "is not JSON: Expecting value"),
        (b"{'a': 1}", "is not JSON: Expecting property name"),
        (b"\xff", "is not JSON: 'utf-8' codec"),
        (b"1" * 5000, "is not JSON: Exceeds the limit"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "is nested more than 100 levels"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "is nested more than 100 levels"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_json_that_cannot_be_used_is_refused(text, message, tmp_path):
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(InputError) as error:
        read_json(str(tmp_path / "file"))
    assert str(error.value).startswith(f"{tmp_path}/file {message}")


def test_json_within_the_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    read_json(str(tmp_path / "file"))
