"""Texts in damaged, hostile and unusual archives are read completely or refused with the reason."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import random
import re
import stat
import tarfile
import zipfile

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data import text_source
from fairseq_resmlp.data.text_source import open_text

LINES = [b"line %d of a text\n" % i for i in range(500)]
TEXT = b"".join(LINES)


def read(directory, place):
    with open_text(place, str(directory)) as lines:
        return list(lines)


def refused(directory, place):
    with pytest.raises(InputError) as error:
        read(directory, place)
    assert str(error.value).isprintable()
    return str(error.value)


def write_tar(path, *members, mode="w:gz"):
    """Write an archive of (name, type, data or link target)."""
    with tarfile.open(path, mode) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, bytes):
                info.size = len(content)
            else:
                info.linkname = content
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)


def write_zip(path, *members, method=zipfile.ZIP_DEFLATED):
    """Write an archive of (name, mode, data)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, mode, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = method
            archive.writestr(info, data)


def patch_zip(path, **fields):
    """Overwrite 16-bit fields of the only member of an archive, in both of its headers."""
    data = bytearray(path.read_bytes())
    for signature, offsets in ((b"PK\x03\x04", {"flags": 6, "method": 8}), (b"PK\x01\x02", {"flags": 8, "method": 10})):
        start = data.index(signature)
        for name, value in fields.items():
            data[start + offsets[name] : start + offsets[name] + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


# Formats


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_every_compression_is_read_alone_and_in_archives(tmp_path, suffix, compress):
    (tmp_path / f"a{suffix}").write_bytes(compress(TEXT))
    write_tar(tmp_path / f"a.tar{suffix}", ("x", tarfile.REGTYPE, TEXT), mode=f"w:{suffix[1:]}")
    write_tar(tmp_path / "b.tar", (f"x{suffix}", tarfile.REGTYPE, compress(TEXT)), mode="w:")
    for place in (f"a{suffix}", f"a.tar{suffix}:x", f"b.tar:x{suffix}"):
        assert read(tmp_path, place) == LINES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_of_zip_is_read(tmp_path, method):
    write_zip(tmp_path / "a.zip", ("x", 0o644, TEXT), method=method)
    assert read(tmp_path, "a.zip:x") == LINES


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../x", "x:y"])
def test_members_are_read_whatever_their_names_and_written_nowhere(tmp_path, name):
    write_tar(tmp_path / "a.tgz", (name, tarfile.REGTYPE, TEXT))
    write_zip(tmp_path / "a.zip", (name, 0o644, TEXT))
    before = sorted(os.walk(tmp_path.parent))
    assert read(tmp_path, f"a.tgz:{name}") == read(tmp_path, f"a.zip:{name}") == LINES
    assert sorted(os.walk(tmp_path.parent)) == before


def test_links_within_an_archive_are_followed(tmp_path):
    members = [("x", tarfile.REGTYPE, TEXT), ("hard", tarfile.LNKTYPE, "x"), ("dir/soft", tarfile.SYMTYPE, "../hard")]
    write_tar(tmp_path / "a.tgz", *members)
    assert read(tmp_path, "a.tgz:dir/soft") == LINES


# Refused


REFUSED_MEMBERS = [
    ("loop", tarfile.SYMTYPE, "loop2", "is a link to loop2, which leads to no file in the archive"),
    ("loop2", tarfile.SYMTYPE, "loop", "is a link to loop, "),
    ("self", tarfile.SYMTYPE, "self", "is a link to self, "),
    ("hard self", tarfile.LNKTYPE, "hard self", "is a link to hard self, "),
    ("absolute", tarfile.SYMTYPE, "/etc/passwd", "is a link to /etc/passwd, "),
    ("parent", tarfile.SYMTYPE, "../../etc/passwd", "is a link to ../../etc/passwd, "),
    ("to directory", tarfile.SYMTYPE, "directory", "is a directory"),
    ("directory", tarfile.DIRTYPE, "", "is a directory: specify a file in it"),
    ("parents/x", tarfile.REGTYPE, b"", ""),
    ("pipe", tarfile.FIFOTYPE, "", "is a device or pipe"),
    ("characters", tarfile.CHRTYPE, "", "is a device or pipe"),
    ("blocks", tarfile.BLKTYPE, "", "is a device or pipe"),
]


def test_members_that_are_no_files_are_refused(tmp_path, record_promise):
    write_tar(tmp_path / "a.tgz", *(member[:3] for member in REFUSED_MEMBERS))
    for name, _, _, message in REFUSED_MEMBERS:
        if message:
            assert f"{name} in {tmp_path}/a.tgz {message}" in refused(tmp_path, f"a.tgz:{name}")
    assert "parents in" in (found := refused(tmp_path, "a.tgz:parents")) and "is a directory" in found
    assert "none not found in" in refused(tmp_path, "a.tgz:none")
    write_zip(tmp_path / "a.zip", ("d/", 0, b""), ("p/x", 0o644, b""), ("l", stat.S_IFLNK | 0o777, b"/etc/passwd"))
    for name, message in (("d/", "a directory"), ("d", "a directory"), ("p", "a directory"), ("l", "a link")):
        assert f"{name} in {tmp_path}/a.zip is {message}: specify" in refused(tmp_path, f"a.zip:{name}")
    record_promise(
        "A link, directory or device in an archive is refused with the reason", f"{len(REFUSED_MEMBERS) + 4} kinds"
    )


def test_an_encrypted_member_is_refused(tmp_path):
    write_zip(tmp_path / "a.zip", ("x", 0o644, TEXT))
    patch_zip(tmp_path / "a.zip", flags=1)
    assert "x in " in (message := refused(tmp_path, "a.zip:x"))
    assert message.endswith("a.zip is encrypted: unpack the archive yourself, and specify the file")


@pytest.mark.parametrize("fields", [{"method": 99}, {"method": 9}, {"flags": 0x20}, {"flags": 0x40}])
def test_an_unknown_compression_is_refused(tmp_path, fields):
    write_zip(tmp_path / "a.zip", ("x", 0o644, TEXT))
    patch_zip(tmp_path / "a.zip", **fields)
    assert "is compressed in a way that Python cannot read" in refused(tmp_path, "a.zip:x")


@pytest.mark.parametrize("name", ["a.tgz", "a.tar", "a.tar.xz", "a.zip", "a.tar.gz"])
def test_an_archive_is_not_taken_for_a_text(tmp_path, name):
    write_tar(tmp_path / name, ("x", tarfile.REGTYPE, TEXT))
    assert f"{name} is an archive: specify a file in it, as {name}:PATH" in refused(tmp_path, name).replace(
        str(tmp_path), ""
    ) or "damaged" in refused(tmp_path, name)


def test_paths_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("none")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for place, message in {
        "none": "none not found",
        "none.tgz:x": "none.tgz not found",
        "loop": "cannot read .*loop: Too many levels of symbolic links",
        "dangling": "cannot read .*dangling: No such file",
        "directory": "directory is a directory: specify a regular file",
        "pipe": "pipe is a pipe: specify a regular file",
        "pipe:x": "pipe is a pipe: specify a regular file",
        "/dev/null": "/dev/null is a device: specify a regular file",
        "x" * 300: "not found",
        "": "is a directory",
    }.items():
        assert re.search(message, refused(tmp_path, place))


# Damage

ARCHIVES = {
    "a.gz": lambda path: path.write_bytes(gzip.compress(TEXT)),
    "a.bz2": lambda path: path.write_bytes(bz2.compress(TEXT)),
    "a.xz": lambda path: path.write_bytes(lzma.compress(TEXT)),
    "a.tgz:x": lambda path: write_tar(path, ("x", tarfile.REGTYPE, TEXT)),
    "a.tar.xz:x": lambda path: write_tar(path, ("x", tarfile.REGTYPE, TEXT), mode="w:xz"),
    "a.tar.bz2:x": lambda path: write_tar(path, ("x", tarfile.REGTYPE, TEXT), mode="w:bz2"),
    "a.tar:x.xz": lambda path: write_tar(path, ("x.xz", tarfile.REGTYPE, lzma.compress(TEXT)), mode="w:"),
    "deflated.zip:x": lambda path: write_zip(path, ("x", 0o644, TEXT)),
    "lzma.zip:x": lambda path: write_zip(path, ("x", 0o644, TEXT), method=zipfile.ZIP_LZMA),
    "bz2.zip:x": lambda path: write_zip(path, ("x", 0o644, TEXT), method=zipfile.ZIP_BZIP2),
}
DAMAGES = 50


@pytest.mark.parametrize("place", ARCHIVES)
def test_a_damaged_archive_gives_its_text_or_one_line(tmp_path, place, record_promise):
    rng = random.Random(place)
    path = tmp_path / place.partition(":")[0]
    ARCHIVES[place](path)
    whole = path.read_bytes()
    for _ in range(DAMAGES):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        try:
            lines = read(tmp_path, place)
        except InputError as error:
            assert str(error).isprintable()
        else:
            assert lines == LINES
    figure = f"{DAMAGES} damages in each of {len(ARCHIVES)} formats"
    record_promise("A damaged archive gives its whole text, or one line that states the damage", figure)


def test_an_error_of_the_reader_is_not_taken_for_damage(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT))
    with pytest.raises(EOFError), open_text("a.gz", str(tmp_path)):
        raise EOFError


# Text


@pytest.mark.parametrize("line", ["sch\xf6n".encode("latin-1"), b"\xed\xa0\x80", b"\xc0\x80"])
def test_sgml_in_another_encoding_is_refused_naming_the_line(tmp_path, line):
    write_tar(tmp_path / "a.tgz", ("x.sgm", tarfile.REGTYPE, b'<seg id="1">a</seg>\n<seg id="2">' + line + b"</seg>\n"))
    message = refused(tmp_path, "a.tgz:x.sgm")
    assert re.search(r"x\.sgm in \S+a\.tgz has invalid UTF-8 in line 2 \(.*\): convert it to UTF-8$", message)


def test_segments_are_found_as_by_the_regular_expression(tmp_path):
    parts = ["<seg", "<seg id='1'", ">", "</seg>", "a <b> c", " ", "<", "&amp;"]
    lines = ["".join(words) for words in itertools.product(parts, repeat=4)]
    (tmp_path / "a.sgm").write_text("\n".join(lines) + "\n")
    found = [re.search("<seg[^>]*>(.*)</seg>", line) for line in lines]
    assert read(tmp_path, "a.sgm") == [" ".join(match[1].split()).encode() for match in found if match]


def test_the_time_for_a_line_of_sgml_does_not_grow_with_its_square(tmp_path):
    (tmp_path / "a.sgm").write_bytes(b"<seg" * 3_000_000 + b"\n<seg>a</seg>\n")  # the regular expression takes hours
    assert read(tmp_path, "a.sgm") == [b"a"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.en", gzip.compress(b"a", mtime=0), "is compressed with gzip: rename it to NAME.gz"),
        ("a.en.gz", gzip.compress(b"\x28\xb5\x2f\xfdabc", mtime=0), "is compressed with zstd: decompress it"),
        ("a.SGM", b"<doc>a</doc>\n", "has no line with <seg>...</seg>"),
    ],
)
def test_what_is_not_text_is_refused_by_its_content(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path, name)


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".xz", lzma.compress), ("", bytes)])
def test_a_line_of_unlimited_length_is_refused(tmp_path, monkeypatch, suffix, compress):
    monkeypatch.setattr(text_source, "LONGEST_LINE", 1 << 16)
    (tmp_path / f"a{suffix}").write_bytes(compress(b"x\n" + b"x" * (1 << 20)))
    assert "line 2 of " in (message := refused(tmp_path, f"a{suffix}")) and "more than 65,536 bytes" in message


def test_an_archive_that_expands_without_limit_is_refused(tmp_path, monkeypatch, record_promise):
    monkeypatch.setattr(text_source, "ALWAYS_ALLOWED", 1 << 16)
    bomb = (b"x" * 63 + b"\n") * (1 << 15)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bomb))
    write_zip(tmp_path / "a.zip", ("x", 0o644, bomb))
    write_tar(tmp_path / "a.tgz", ("x", tarfile.REGTYPE, bomb))
    write_tar(tmp_path / "b.tgz", ("bomb", tarfile.REGTYPE, bomb), ("x", tarfile.REGTYPE, b"x\n"))
    write_tar(tmp_path / "c.tar", ("x.gz", tarfile.REGTYPE, gzip.compress(bomb)), mode="w:")
    with tarfile.open(tmp_path / "d.tgz", "w:gz", pax_headers={"comment": "x" * (1 << 21)}) as archive:
        archive.addfile(tarfile.TarInfo("x"))
    places = ("a.gz", "a.zip:x", "a.tgz:x", "b.tgz:x", "c.tar:x.gz", "d.tgz:x")
    for place in places:
        assert "expands to more than " in refused(tmp_path, place)
    (tmp_path / "a").write_bytes(bomb)
    assert len(read(tmp_path, "a")) == 1 << 15
    record_promise(
        "An archive that expands to more than 1 GiB and 100 times its size is refused", f"{len(places)} kinds"
    )
