"""The commands that prepare data: download, extract, spm-train, spm-encode, shortlist."""

import json
import re
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner

from fairseq_resmlp.cli.main import main
from support.files import read_lines, write_files
from support.paths import GOLDEN

MODEL = GOLDEN / "sentencepiece.bpe.model"


def run_command(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


# download


def test_download_reports_the_checksum_and_uses_a_mirror(tmp_path):
    (tmp_path / "served").mkdir()
    write_files(tmp_path / "served", a="text\n")
    url = (tmp_path / "served" / "a").as_uri()
    done = run_command("download", url, "-", "--to", tmp_path / "d")
    assert done.exit_code == 0, done.output
    sha256 = re.search(r"^a: sha256 ([0-9a-f]{64}), no checksum to verify$", done.output, re.M)[1]
    assert f"a from {url}\n" in done.output and (tmp_path / "d" / "a").read_text() == "text\n"
    mirror = (tmp_path / "served").as_uri()
    done = run_command("download", "https://x/y/a", f"sha256:{sha256}", "--to", tmp_path / "e", "--mirror", mirror)
    assert done.exit_code == 0, done.output
    assert done.output == f"a from {url}\na: sha256 {sha256}, verified\n"


def test_incomplete_groups_of_arguments_are_refused(tmp_path):
    done = run_command("download", "https://x/y", "--to", tmp_path)
    assert done.exit_code == 1 and done.output == "Error: 1 arguments do not form groups of URL CHECKSUM\n"
    done = run_command("extract", "train", "a", "--languages", "en", "de", "--out-dir", tmp_path)
    assert done.exit_code == 1 and done.output == "Error: 2 arguments do not form groups of SPLIT SOURCE TARGET\n"


# extract


def test_extract_writes_one_file_per_split_and_language(tmp_path):
    write_files(tmp_path, a="one\ntwo\n", b="eins\r\nzwei")
    options = ("--languages", "en", "de", "--downloads", tmp_path, "--out-dir", tmp_path / "raw")
    done = run_command("extract", "train", "a", "b", "valid", "held-out", "1", *options)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("train: 1 pairs\nvalid: 1 pairs\n")
    kept, held_out = (
        [read_lines(tmp_path / "raw" / f"{split}.{x}")[0] for x in ("en", "de")] for split in ("train", "valid")
    )
    assert sorted([kept, held_out]) == [["one", "eins"], ["two", "zwei"]]


# spm-train, spm-encode


def test_spm_train_and_spm_encode_tokenize_text(tmp_path):
    a, b = write_files(tmp_path, a="Das alte Haus\n" * 30, b="the old house\n" * 40)
    done = run_command("spm-train", a, b, "--model", tmp_path / "m", "--vocab-size", 50, "--max-lines", 35)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path / 'm'}: 50 subwords from 35 lines of {a}, {b}")
    done = run_command("spm-encode", a, b, "--model", tmp_path / "m", "--out-dir", tmp_path / "p", "--workers", 1)
    assert done.exit_code == 0, done.output
    assert done.output == f"{tmp_path / 'p' / 'a'}: 30 lines\n{tmp_path / 'p' / 'b'}: 40 lines\n"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m"))
    assert read_lines(tmp_path / "p" / "b") == [" ".join(processor.encode("the old house", out_type=str))] * 40


def test_spm_encode_with_cleaning_reports_the_dropped_pairs(tmp_path):
    write_files(tmp_path, a=b"das\n\nda\xff\n" + b"das " * 4 + b"\n", b=b"das\ndas\ndas\n" + b"das " * 2 + b"\n")
    arguments = ["spm-encode", tmp_path / "a", tmp_path / "b", "--model", MODEL, "--clean", "--out-dir", tmp_path / "p"]
    done = run_command(*arguments, "--report", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report.pop("cpu_seconds") > 0
    assert report == {"kept": 1, "dropped": {"empty": 1, "invalid UTF-8": 1, "length ratio above 1.5": 1}}
    assert done.output.startswith(f"{tmp_path / 'p' / 'a'}, {tmp_path / 'p' / 'b'}: 1 lines\n")
    assert "\n  dropped 1 pairs: length ratio above 1.5\n" in done.output
    assert read_lines(tmp_path / "p" / "a") == read_lines(tmp_path / "p" / "b") == ["▁das"]
    done = run_command(*arguments, "--max-ratio", 2, "--max-length", 3, "--report", tmp_path / "r.json")
    dropped = {"empty": 1, "invalid UTF-8": 1, "longer than 3 tokens": 1}
    assert json.loads((tmp_path / "r.json").read_text())["dropped"] == dropped
    done = run_command(*arguments, "--max-ratio", 2, "--join-share", 1, "--report", tmp_path / "r.json")
    assert done.output.endswith("  joined 2 pairs with their neighbours\n")
    assert read_lines(tmp_path / "p" / "a") == [" ".join(["▁das"] * 5)]
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["kept"], report["joined"]) == (1, 2)


def test_spm_encode_refuses_inconsistent_options(tmp_path):
    files = write_files(tmp_path, a="x\n", b="x\n", c="x\n")
    options = ["--model", MODEL, "--out-dir", tmp_path / "p"]
    done = run_command("spm-encode", *files, *options, "--clean")
    assert done.exit_code == 1 and "--clean requires two files" in done.output
    done = run_command("spm-encode", *files, *options, "--report", tmp_path / "r.json")
    assert done.exit_code == 1 and "--report requires --clean" in done.output
    done = run_command("spm-encode", *files, *options, "--join-share", 0.5)
    assert done.exit_code == 1 and "--join-share requires --clean" in done.output
    done = run_command("spm-encode", files[0], "--model", files[1], "--out-dir", tmp_path / "p")
    assert done.exit_code == 1 and done.output == f"Error: {files[1]} is not a SentencePiece model\n"
    done = run_command("spm-encode", files[0], "--model", MODEL, "--out-dir", tmp_path)
    assert done.exit_code == 1 and "would overwrite its own input: choose another output" in done.output
    assert not (tmp_path / "p").exists() and read_lines(tmp_path / "a") == ["x"]


def test_files_of_the_same_name_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for side in ("en", "de"):
        Path(side).mkdir()
        Path(side, "train.txt").write_text(f"{side}\n")
    for more in ((), ("--clean",)):
        done = run_command("spm-encode", "en/train.txt", "de/train.txt", "--model", MODEL, "--out-dir", "p", *more)
        assert done.exit_code == 1
        assert done.output.startswith("Error: en/train.txt and de/train.txt would both be written to p/train.txt: ")
    addresses = [((tmp_path / side / "train.txt").as_uri(), "-") for side in ("en", "de")]
    done = run_command("download", *addresses[0], *addresses[1], "--to", "d")
    assert done.exit_code == 1 and "would both be written to d/train.txt: " in done.output
    assert not Path("p").exists() and not Path("d").exists()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "a\tb\n", "a.tsv is not plain text by its name: extract its text with fairseq-resmlp extract"),
        ("a.en.gz", "a\n", "a.en.gz is not plain text by its name"),
        ("a.en", "a\tb\nc\td\n", "a.en seems to be a table, because every line has a tab"),
        ("a.en", "%PDF-1.7", "a.en is a PDF document: convert it to text"),
        ("a.en", "<html>\n", "a.en is markup: extract its text"),
    ],
)
def test_files_that_are_not_plain_text_are_refused_in_one_line(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    for command in (["spm-train"], ["spm-encode", "--out-dir", "p"]):
        done = run_command(*command, name, "--model", MODEL if len(command) > 1 else "new")
        assert done.exit_code == 1 and done.output.startswith(f"Error: {message}") and done.output.count("\n") == 1
    assert not Path("p").exists() and not Path("new").exists()


# shortlist


def test_shortlist_writes_a_file_that_lists_the_translations(tmp_path):
    source, target = write_files(tmp_path, source="the a\nthe b\n" * 20, target="der x\nder y\n" * 20)
    arguments = ["shortlist", source, target, "--output", tmp_path / "shortlist"]
    done = run_command(*arguments, "--first", 1, "--best", 1)
    assert done.exit_code == 0, done.output
    assert done.output == f"{tmp_path / 'shortlist'}: from 40 pairs of lines\n"
    assert read_lines(tmp_path / "shortlist") == ["\tder", "the\tder", "a\tx", "b\ty"]
    done = run_command(*arguments, "--max-lines", 10)
    assert done.exit_code == 0 and "from 10 pairs of lines" in done.output
    (tmp_path / "source").write_text("one line\n")
    assert re.match(
        "Error: .*source has 1 lines and .*target has 40: they are not parallel", run_command(*arguments).output
    )
