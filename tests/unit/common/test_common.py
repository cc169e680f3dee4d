"""Helpers shared by every layer: lines of text, distinct names."""

import io
import sys

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import read_lines, replace_surrogates
from fairseq_resmlp.common.unique_names import unique_names

TEXT = b"one \r\n\n\x85two\rthree\xe2\x80\xa8four\nf\xffve"
LINES = ["one", "", "\ufffdtwo\rthree\u2028four", "f\ufffdve"]


def test_only_a_line_feed_ends_a_line_and_invalid_bytes_are_replaced_with_a_warning(tmp_path, caplog):
    (tmp_path / "text").write_bytes(TEXT)
    assert list(read_lines(str(tmp_path / "text"), 3)) == [LINES[:3], LINES[3:]]
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "line 3 is not valid UTF-8",
        "line 4 is not valid UTF-8",
    ]


def test_lines_of_standard_input_are_read_without_closing_it(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(TEXT)
    with open(tmp_path / "text", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert list(read_lines("-", 10)) == [LINES]
        assert file.seekable() and not file.closed


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "text").write_bytes(b"")
    assert list(read_lines(str(tmp_path / "text"), 3)) == []


@pytest.mark.parametrize(
    "text, expected",
    [("Grüße \U0001f600", "Grüße \U0001f600"), ("a\ud800b", "a\ufffdb"), ("\udc00\ud800", "\ufffd\ufffd"), ("", "")],
)
def test_unpaired_surrogates_are_replaced(text, expected):
    assert replace_surrogates(text) == expected
    assert replace_surrogates(text).encode("utf-8") == expected.encode("utf-8")


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["/a/model"], ["model"]),
        (["/a/model", "/a/other/"], ["model", "other"]),
        (["/a/model", "/b/model", "/b/x"], ["a/model", "b/model", "b/x"]),
    ],
)
def test_names_are_the_shortest_distinct_path_suffixes(paths, expected):
    assert unique_names(paths) == expected


def test_one_directory_under_two_names_is_rejected(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link is given twice: specify each directory once"):
        unique_names([str(tmp_path / "link"), str(tmp_path)])
