"""Archives and documents of every kind become one file per split and language, without losing or shifting a line."""

import bz2
import gzip
import io
import tarfile
import zipfile

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.corpus import REMOVED, extract_corpus
from support.files import write_files

EN = "A man.\nTwo\u2028dogs.\r\n\nLast line without a line feed"
DE = "Ein Mann.\nZwei\x85Hunde.\n\nLetzte Zeile\n"
LINES = {"en": b"A man.\nTwo\xe2\x80\xa8dogs.\n\nLast line without a line feed\n", "de": DE.encode()}
SGM = """<refset setid="newstest2014" srclang="any" trglang="de">
<doc sysid="ref" docid="1">
<hl>
<seg id="1">A  "quoted" &amp; word</seg>
</hl>
<p>
<seg id="2"> Second.</seg>
</p>
</doc>
</refset>
"""


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, text in members.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def downloads(tmp_path):
    directory = tmp_path / "downloads"
    directory.mkdir()
    members = {"training/a.en": EN, "training/a.de": DE, "training/short.de": "Ein Mann.\n", "x.sgm": SGM}
    write_tar(directory / "a.tgz", members)
    write_tar(directory / "b.tar", {"b.en.gz": gzip.compress(EN.encode()), "b.de.gz": gzip.compress(DE.encode())}, "w")
    with zipfile.ZipFile(directory / "c.zip", "w") as archive:
        archive.writestr("in/c.en", EN)
        archive.writestr("in/c.de", DE)
    for language, text in (("en", EN), ("de", DE)):
        (directory / f"d.{language}.gz").write_bytes(gzip.compress(text.encode()))
        (directory / f"e.{language}").write_bytes(text.encode())
    return directory


def extract(downloads, tmp_path, *texts):
    pairs = extract_corpus(texts, ("en", "de"), str(downloads), str(tmp_path / "raw"))
    return pairs, {file.name: file.read_bytes() for file in sorted((tmp_path / "raw").iterdir())}


@pytest.mark.parametrize(
    "location", ["a.tgz:training/a.{}", "b.tar:b.{}.gz", "c.zip:in/c.{}", "d.{}.gz", "e.{}", "{{downloads}}/e.{}"]
)
def test_every_layout_gives_the_same_lines(downloads, tmp_path, location):
    location = location.replace("{{downloads}}", str(downloads))
    pairs, files = extract(downloads, tmp_path, ("train", location.format("en"), location.format("de")))
    assert pairs == {"train": 4}
    assert files == {"train.en": LINES["en"], "train.de": LINES["de"]}


def test_several_texts_of_a_split_are_concatenated_in_order(downloads, tmp_path):
    texts = [("train", "e.en", "e.de"), ("valid", "e.en", "e.de"), ("train", "d.en.gz", "d.de.gz")]
    pairs, files = extract(downloads, tmp_path, *texts)
    assert pairs == {"train": 8, "valid": 4}
    assert files["train.de"] == LINES["de"] * 2 and files["valid.de"] == LINES["de"]


def test_extracting_again_replaces_the_files(downloads, tmp_path):
    texts = [("train", "e.en", "e.de"), ("train", "e.en", "e.de")]
    assert extract(downloads, tmp_path, *texts) == extract(downloads, tmp_path, *texts)


def test_sgm_segments_equal_those_of_sacrebleu(downloads, tmp_path):
    from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

    (tmp_path / "x.en.sgm").write_text(SGM)
    (tmp_path / "sacrebleu").mkdir()
    FakeSGMLDataset("x", langpairs={})._convert_format(str(tmp_path / "x.en.sgm"), str(tmp_path / "sacrebleu" / "x"))
    (downloads / "two.de").write_text("eins\nzwei\n")
    _, files = extract(downloads, tmp_path, ("test", "a.tgz:x.sgm", "two.de"))
    assert files["test.en"] == b'A "quoted" &amp; word\nSecond.\n' == (tmp_path / "sacrebleu" / "x").read_bytes()


def test_sides_of_different_length_are_refused_naming_the_line(downloads, tmp_path):
    with pytest.raises(InputError, match=r"training/a\.en has 4 lines and .*short\.de 1; .* counterpart is 2$"):
        extract(downloads, tmp_path, ("train", "a.tgz:training/a.en", "a.tgz:training/short.de"))


@pytest.mark.parametrize(
    "location, message",
    [
        ("f.tgz:a.en", r"f\.tgz not found"),
        ("a.tgz:training/b.en", r"training/b\.en not found in .*a\.tgz"),
        ("c.zip:c.en", r"c\.en not found in .*c\.zip"),
    ],
)
def test_a_missing_file_or_member_is_named(downloads, tmp_path, location, message):
    with pytest.raises(InputError, match=message):
        extract(downloads, tmp_path, ("train", location, location))


@pytest.mark.parametrize("archive, member", [("a.tgz", ":training/a.en"), ("c.zip", ":in/c.en"), ("d.en.gz", "")])
@pytest.mark.parametrize("damage", ["truncated", "changed", "not an archive"])
def test_a_damaged_archive_is_always_refused(downloads, tmp_path, archive, member, damage):
    data = bytearray((downloads / archive).read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "changed":
        for i in range(48, 56):
            data[i] ^= 0xFF
    else:
        data = b"<html>sorry</html>"
    (downloads / archive).write_bytes(data)
    with pytest.raises(InputError, match=rf"{archive} is damaged|not found in .*{archive}"):
        extract(downloads, tmp_path, ("train", f"{archive}{member}", "e.de"))


def test_held_out_sentences_are_complete_and_never_in_train(tmp_path):
    sources = [f"source {i % 400}" for i in range(1000)]
    targets = [f"target {i % 700}" for i in range(1000)]
    (tmp_path / "in.en").write_text("\n".join(sources) + "\n")
    (tmp_path / "in.de").write_text("\n".join(targets) + "\n")
    texts = [("train", "in.en", "in.de"), ("valid", "held-out", "30"), ("test", "held-out", "20")]
    pairs, files = extract(tmp_path, tmp_path / "train.1", *texts)  # a directory named like a split
    removed = pairs.pop(REMOVED)
    lines = {name: data.decode().splitlines() for name, data in files.items()}
    splits = {split: list(zip(lines[f"{split}.en"], lines[f"{split}.de"])) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in splits.items()} == pairs
    assert (pairs["valid"], pairs["test"]) == (30, 20)
    held_out = splits["valid"] + splits["test"]
    assert len({source for source, _ in held_out}) == 50
    held_sources, held_targets = map(set, zip(*held_out))
    original = list(zip(sources, targets))
    assert splits["train"] == [p for p in original if p[0] not in held_sources and p[1] not in held_targets]
    assert set(held_out) <= set(original)
    assert removed == 1000 - pairs["train"] - 50 > 0


def test_held_out_sentences_do_not_depend_on_the_order_of_the_lines(tmp_path):
    lines = [f"line {i}" for i in range(300)]
    found = []
    for order in (lines, lines[::-1]):
        (tmp_path / "in.en").write_text("\n".join(order) + "\n")
        (tmp_path / "in.de").write_text("\n".join(order).upper() + "\n")
        out, texts = tmp_path / f"raw{len(found)}", [("train", "in.en", "in.de"), ("valid", "held-out", "20")]
        extract_corpus(texts, ("en", "de"), str(tmp_path), str(out))
        found.append((out / "valid.en").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("train", "in", "other"), ("valid", "held-out", "x")], "valid held-out x: specify the number of sentences"),
        ([("train", "in", "other"), ("valid", "held-out", "0")], "valid held-out 0: specify the number of sentences"),
        ([("valid", "held-out", "1")], "cannot hold out valid: no text is given for train"),
        ([("train", "a.tar:texts", "in")], r"texts in \S+a\.tar is a directory: specify a file in it"),
    ],
)
def test_invalid_texts_are_refused_with_the_reason(tmp_path, texts, message):
    (tmp_path / "in").write_text("a\n")
    (tmp_path / "other").write_text("b\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        (tmp_path / "texts").mkdir()
        archive.add(tmp_path / "texts", "texts")
    with pytest.raises(InputError, match=message):
        extract(tmp_path, tmp_path, *texts)


def test_too_few_distinct_lines_to_hold_out_are_refused(tmp_path):
    (tmp_path / "in.en").write_text("a\na\nb\n")
    (tmp_path / "in.de").write_text("c\nd\ne\n")
    with pytest.raises(InputError, match=r"the source of train has 2 distinct lines, too few to hold out 5"):
        extract(tmp_path, tmp_path, ("train", "in.en", "in.de"), ("valid", "held-out", "5"))


# Documents

TMX = """<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4"><header/><body>
<tu><tuv xml:lang="EN-us"><seg>A <bpt i="1">&lt;b></bpt>man<ept i="1"/>.</seg></tuv>
<tuv xml:lang="fr"><seg>Un homme.</seg></tuv><tuv xml:lang="de"><seg>Ein
   Mann.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>No translation</seg></tuv></tu>
<tu><tuv xml:lang="de"><seg>Zwei &amp; drei</seg></tuv><tuv xml:lang="en"><seg>Two</seg></tuv></tu></body></tmx>"""
XLIFF = """<xliff version="1.2"><file source-language="en-GB" target-language="de"><body>
<trans-unit id="1"><source>A man.</source><target>Ein <g id="1">Mann</g>.</target></trans-unit>
<group translate="no"><trans-unit id="2"><source>no</source><target>nein</target></trans-unit></group>
<trans-unit id="3"><source>Not yet</source><target/></trans-unit>
<trans-unit id="4"><source>Two</source><target>Zwei &amp; drei</target>
<alt-trans><source>Two</source><target>2</target></alt-trans></trans-unit></body></file></xliff>"""
XLIFF_2 = """<xliff version="2.0" srcLang="de" trgLang="en" xmlns="urn:oasis:names:tc:xliff:document:2.0"><file id="f">
<unit id="1"><segment><source>Ein Mann.</source><target>A man.</target></segment></unit>
<unit id="2"><segment><source>Zwei &amp; drei</source><target>Two</target></segment></unit></file></xliff>"""


@pytest.mark.parametrize(
    "name, content, places",
    [
        ("a.tsv", "A man.\tEin Mann.\n\nTwo\tZwei & drei\t0.9\r\n", ":{1,2}"),
        ("a.tsv.gz", "x\tde\ten\nx\tEin Mann.\tA man.\n\tZwei & drei\tTwo", ":{en,de}"),
        ("a.tsv", "A man.\tEin Mann.\nTwo\tZwei & drei\n", ""),
        ("a.tsv", "de\ten\nEin Mann.\tA man.\nZwei & drei\tTwo\n", ""),
        ("a.csv.bz2", '\ufeffde;id;en\n"Ein\r\n Mann.";1;A man.\nZwei & drei;2;Two\n', ""),
        ("a.csv", '1,"A man.","Ein Mann."\n2,Two,"Zwei & drei"\n', ":{2,3}"),
        ("a.tmx", TMX, ":{en,de}"),
        ("a.TMX.gz", TMX, ""),
        ("a.xlf", XLIFF, ":{en,de}"),
        ("dir:x/a.xliff", XLIFF_2, ":{en,de}"),
    ],
)
def test_every_document_gives_its_pairs(name, content, places, tmp_path):
    compress = {".gz": gzip.compress, ".bz2": bz2.compress}.get(name[name.rindex(".") :], bytes)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(compress(content.encode()))
    pair = places.strip(":{}").split(",") if places else ["", ""]
    sides = [f"{name}{':' * bool(places)}{side}" for side in pair]
    pairs, files = extract(tmp_path, tmp_path, ("train", *sides))
    assert pairs == {"train": 2}
    assert (files["train.en"], files["train.de"]) == (b"A man.\nTwo\n", b"Ein Mann.\nZwei & drei\n")


@pytest.mark.parametrize(
    "name, content, places, message",
    [
        ("a.txt", "a\nb\n", ("a.txt", "a.txt"), "the sides of train are identical: a.txt and a.txt have the same text"),
        ("a.tsv", "a\ta\n", ("a.tsv:1", "a.tsv:2"), "the sides of train are identical: a.tsv:1 and a.tsv:2"),
        ("a.tsv", "a\tb\n", ("a.tsv:1", "a.tsv:1"), "both sides are column 1 of .*a.tsv: specify different columns"),
        ("a.tsv", "a\tb\n", ("a.tsv", "de"), "a.tsv and de are not one document: specify one for both sides, as FILE"),
        ("a.tsv", "a\tb\nc\n", ("a.tsv", "a.tsv"), "a.tsv: row 2 has 1 columns, but the texts are in columns 1 and 2"),
        ("a.tsv", "a\tb\xff\n", ("a.tsv", "a.tsv"), "a.tsv has invalid UTF-8 in line 1"),
        (
            "a.csv",
            "a,b\nc,d\n",
            ("a.csv", "a.csv"),
            "a.csv has 0 columns 'en' in its first line: specify one of a, b",
        ),
        (
            "a.csv",
            'en,de\n"a,b\n',
            ("a.csv", "a.csv"),
            "a.csv is not a table in the format csv: unexpected end",
        ),
        ("a.csv", "PK\x03\x04", ("a.csv", "a.csv"), "a.csv is a ZIP archive or an office document"),
        ("a.tmx", TMX, ("a.tmx:en", "a.tmx:es"), "a.tmx has no pairs of texts in en and es, but texts in de, en, fr: "),
        ("a.tmx", XLIFF, ("a.tmx", "a.tmx"), "a.tmx is not TMX: its first element is <xliff>"),
        ("a.tmx", TMX[:-40], ("a.tmx", "a.tmx"), "a.tmx is not well-formed XML"),
        (
            "a.tmx",
            TMX.replace('"tmx14.dtd"', '"x" [<!ENTITY e "x">]'),
            ("a.tmx", "a.tmx"),
            "a.tmx uses entities",
        ),
        ("a.txt", TMX, ("a.txt", "de"), "a.txt is XML: name it .tmx or .xlf if it is one of these"),
        ("a.txt", SGM, ("a.txt", "de"), "a.txt is a test set in SGML: name it .sgm"),
        (
            "a.txt",
            "<p>a</p>\n<br/>\nb\n",
            ("a.txt", "de"),
            "a.txt is markup, because most of its lines are enclosed",
        ),
        ("a.txt", "a\tb\nc\td\n", ("a.txt", "de"), "a.txt seems to be a table, because every line has a tab"),
        ("a.txt", "a\0b\n", ("a.txt", "de"), "a.txt is a binary file: specify a text file"),
        ("a.txt", "\x89PNG\0" + "\xff\xfa" * 30, ("a.txt", "de"), "a.txt is a binary file: specify a text file"),
        (
            "a.zip",
            "",
            ("a.zip:a.tsv", "de"),
            "a.tsv in .*a.zip is a document: unpack the archive",
        ),
    ],
)
def test_what_is_not_parallel_text_is_refused_in_one_line(name, content, places, message, tmp_path):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    (tmp_path / "de").write_text("x\ny\n")
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a.tsv", "a\tb\n")
    with pytest.raises(InputError, match=message) as error:
        extract(tmp_path, tmp_path, ("train", *places))
    assert "\n" not in str(error.value) and not (tmp_path / "raw" / "train.en").exists()


def test_a_number_of_held_out_sentences_that_is_too_large_is_refused(tmp_path):
    write_files(tmp_path, a="x\n", b="y\n")
    texts = [("train", "a", "b"), ("test", "held-out", "9" * 5000)]
    with pytest.raises(InputError, match="specify the number of sentences to take from train"):
        extract_corpus(texts, ("en", "de"), str(tmp_path), str(tmp_path / "out"))
