"""Archives of every layout become one raw text a split and language, and nothing is lost or shifted on the way."""

import gzip
import io
import tarfile
import zipfile

import pytest

from fairseq_resmlp.collection import LEFT_OUT, collect
from fairseq_resmlp.errors import InputError

EN = "A man.\nTwo\u2028dogs.\r\n\nLast line without an end"
DE = "Ein Mann.\nZwei\x85Hunde.\n\nLetzte Zeile\n"
LINES = {"en": b"A man.\nTwo\xe2\x80\xa8dogs.\n\nLast line without an end\n", "de": DE.encode()}
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


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, text in members.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def downloads(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    members = {"training/a.en": EN, "training/a.de": DE, "training/short.de": "Ein Mann.\n", "x.sgm": SGM}
    tar(folder / "a.tgz", members)
    tar(folder / "b.tar", {"b.en.gz": gzip.compress(EN.encode()), "b.de.gz": gzip.compress(DE.encode())}, "w")
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr("in/c.en", EN)
        archive.writestr("in/c.de", DE)
    for language, text in (("en", EN), ("de", DE)):
        (folder / f"d.{language}.gz").write_bytes(gzip.compress(text.encode()))
        (folder / f"e.{language}").write_bytes(text.encode())
    return folder


def collected(downloads, tmp_path, *texts):
    pairs = collect(texts, ("en", "de"), str(downloads), str(tmp_path / "raw"))
    return pairs, {file.name: file.read_bytes() for file in sorted((tmp_path / "raw").iterdir())}


@pytest.mark.parametrize(
    "place", ["a.tgz:training/a.{}", "b.tar:b.{}.gz", "c.zip:in/c.{}", "d.{}.gz", "e.{}", "{{downloads}}/e.{}"]
)
def test_every_layout_gives_the_same_lines(downloads, tmp_path, place):
    place = place.replace("{{downloads}}", str(downloads))
    pairs, files = collected(downloads, tmp_path, ("train", place.format("en"), place.format("de")))
    assert pairs == {"train": 4}
    assert files == {"train.en": LINES["en"], "train.de": LINES["de"]}


def test_several_texts_of_a_split_are_joined_in_order(downloads, tmp_path):
    texts = [("train", "e.en", "e.de"), ("valid", "e.en", "e.de"), ("train", "d.en.gz", "d.de.gz")]
    pairs, files = collected(downloads, tmp_path, *texts)
    assert pairs == {"train": 8, "valid": 4}
    assert files["train.de"] == LINES["de"] * 2 and files["valid.de"] == LINES["de"]


def test_collecting_again_writes_anew(downloads, tmp_path):
    texts = [("train", "e.en", "e.de"), ("train", "e.en", "e.de")]
    assert collected(downloads, tmp_path, *texts) == collected(downloads, tmp_path, *texts)


def test_segments_are_what_sacrebleu_has(downloads, tmp_path):
    from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

    (tmp_path / "x.en.sgm").write_text(SGM)
    (tmp_path / "sacrebleu").mkdir()
    FakeSGMLDataset("x", langpairs={})._convert_format(str(tmp_path / "x.en.sgm"), str(tmp_path / "sacrebleu" / "x"))
    _, files = collected(downloads, tmp_path, ("test", "a.tgz:x.sgm", "a.tgz:x.sgm"))
    assert files["test.en"] == b'A "quoted" &amp; word\nSecond.\n' == (tmp_path / "sacrebleu" / "x").read_bytes()


def test_sides_of_different_length_stop_and_say_where(downloads, tmp_path):
    with pytest.raises(InputError, match=r"training/a\.en has 4 lines and .*short\.de 1; .* is line 2$"):
        collected(downloads, tmp_path, ("train", "a.tgz:training/a.en", "a.tgz:training/short.de"))


@pytest.mark.parametrize(
    "place, message",
    [
        ("f.tgz:a.en", r"f\.tgz is missing"),
        ("a.tgz:training/b.en", r"a\.tgz holds no training/b\.en"),
        ("c.zip:c.en", r"c\.zip holds no c\.en"),
    ],
)
def test_a_missing_file_or_member_is_named(downloads, tmp_path, place, message):
    with pytest.raises(InputError, match=message):
        collected(downloads, tmp_path, ("train", place, place))


@pytest.mark.parametrize("archive, place", [("a.tgz", ":training/a.en"), ("c.zip", ":in/c.en"), ("d.en.gz", "")])
@pytest.mark.parametrize("how", ["cut", "changed", "not an archive"])
def test_a_damaged_archive_is_never_taken_for_whole(downloads, tmp_path, archive, place, how):
    data = bytearray((downloads / archive).read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    elif how == "changed":
        for i in range(48, 56):
            data[i] ^= 0xFF
    else:
        data = b"<html>sorry</html>"
    (downloads / archive).write_bytes(data)
    with pytest.raises(InputError, match=rf"{archive} (is damaged|holds no)"):
        collected(downloads, tmp_path, ("train", f"{archive}{place}", "e.de"))


def test_held_out_sentences_are_whole_and_never_in_train(tmp_path):
    sources = [f"source {i % 400}" for i in range(1000)]
    targets = [f"target {i % 700}" for i in range(1000)]
    (tmp_path / "in.en").write_text("\n".join(sources) + "\n")
    (tmp_path / "in.de").write_text("\n".join(targets) + "\n")
    texts = [("train", "in.en", "in.de"), ("valid", "held-out", "30"), ("test", "held-out", "20")]
    pairs, files = collected(tmp_path, tmp_path / "train.1", *texts)  # the folder's name is not the split's
    left_out = pairs.pop(LEFT_OUT)
    lines = {name: data.decode().splitlines() for name, data in files.items()}
    of = {split: list(zip(lines[f"{split}.en"], lines[f"{split}.de"])) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in of.items()} == pairs
    assert (pairs["valid"], pairs["test"]) == (30, 20)
    held_out = of["valid"] + of["test"]
    assert len({source for source, _ in held_out}) == 50
    held_sources, held_targets = map(set, zip(*held_out))
    original = list(zip(sources, targets))
    assert of["train"] == [p for p in original if p[0] not in held_sources and p[1] not in held_targets]
    assert set(held_out) <= set(original)
    assert left_out == 1000 - pairs["train"] - 50 > 0


def test_the_same_sentences_are_held_out_whatever_the_order(tmp_path):
    lines = [f"line {i}" for i in range(300)]
    found = []
    for order in (lines, lines[::-1]):
        (tmp_path / "in").write_text("\n".join(order) + "\n")
        out = tmp_path / f"raw{len(found)}"
        collect([("train", "in", "in"), ("valid", "held-out", "20")], ("en", "de"), str(tmp_path), str(out))
        found.append((out / "valid.en").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("train", "in", "in"), ("valid", "held-out", "x")], "valid held-out x: write how many sentences"),
        ([("train", "in", "in"), ("valid", "held-out", "0")], "valid held-out 0: write how many sentences"),
        ([("valid", "held-out", "1")], "valid cannot be held out of train: no text of train is given"),
        ([("train", "a.tar:texts", "in")], r"texts in \S+a\.tar is a folder: name a file in it"),
    ],
)
def test_what_cannot_be_collected_is_named(tmp_path, texts, message):
    (tmp_path / "in").write_text("a\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        (tmp_path / "texts").mkdir()
        archive.add(tmp_path / "texts", "texts")
    with pytest.raises(InputError, match=message):
        collected(tmp_path, tmp_path, *texts)


def test_too_few_lines_to_hold_out(tmp_path):
    (tmp_path / "in").write_text("a\na\nb\n")
    with pytest.raises(InputError, match="too few distinct lines to hold out 5: 2"):
        collected(tmp_path, tmp_path, ("train", "in", "in"), ("valid", "held-out", "5"))
