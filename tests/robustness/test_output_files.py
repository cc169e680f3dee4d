"""Outputs of every command: complete or unchanged, never in place of a link, a device or an input."""

import gzip
import itertools
import json
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint, write_checkpoint
from fairseq_resmlp.cli.main import main
from fairseq_resmlp.model.export import export_model
from support.commands import run, train_options
from support.files import write_files
from support.paths import GOLDEN, ROOT

OUT = "text.en"  # the name of every output; spm-encode and extract choose it themselves


def run_command(words):
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Valid inputs of every command: text, tokenized text, checkpoints, an exported model."""
    directory = tmp_path_factory.mktemp("inputs")
    lines = {"en": "The old king sees a small dog.\n", "de": "Der alte König sieht einen Hund.\n"}
    for language, line in lines.items():
        write_files(directory, **{f"text.{language}": line * 20, f"pieces.{language}": f"▁{line}" * 20})
    shutil.copy(GOLDEN / "sentencepiece.bpe.model", directory / "spm.model")
    for name in ("one.pt", "two.pt"):
        shutil.copy(GOLDEN / "model.pt", directory / name)
    write_files(directory, **{"extra.json": "{}"})
    (directory / "archive.gz").write_bytes(gzip.compress(lines["en"].encode() * 20))
    export_model(str(GOLDEN), str(directory / "exported"))
    return directory


# Command: its words, given the directory of the inputs and the output
COMMANDS = {
    "spm-train --model": lambda i, out: ["spm-train", i / "text.en", "--model", out, "--vocab-size", 30],
    "spm-encode --out-dir": lambda i, out: [
        *("spm-encode", i / "text.en", i / "text.de", "--model", i / "spm.model"),
        *("--workers", 1, "--out-dir", out.parent),
    ],
    "spm-encode --report": lambda i, out: [
        *("spm-encode", i / "text.en", i / "text.de", "--model", i / "spm.model", "--workers", 1, "--clean"),
        *("--out-dir", out.parent / "encoded" if out.parent != Path("/dev") else "encoded", "--report", out),
    ],
    "shortlist --output": lambda i, out: ["shortlist", i / "pieces.en", i / "pieces.de", "--output", out],
    "extract --out-dir": lambda i, out: [
        *("extract", "text", i / "archive.gz", i / "text.de", "--languages", "en", "de", "--out-dir", out.parent),
    ],
    "score --json": lambda i, out: [
        *("score", i / "text.en", "--reference", i / "text.en", "--target-lang", "en"),
        *("--checkpoint", i / "one.pt", "--metadata-json", f"x={i / 'extra.json'}", "--json", out),
    ],
    "average --output": lambda i, out: ["average", i / "one.pt", i / "two.pt", "--output", out],
    "translate --output": lambda i, out: [
        *("translate", i / "exported", "--input", i / "text.en", "--output", out),
        *("--beam", 1, "--max-len-b", 3, "--threads", 1),
    ],
}
CHOOSE_NAME = ("spm-encode --out-dir", "extract --out-dir")
JSON = ("spm-encode --report", "score --json")  # contain times


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """Function that returns what a command writes to a new file."""
    found = {}

    def content(command):
        if command not in found:
            out = tmp_path_factory.mktemp("expected") / OUT
            done = run_command(COMMANDS[command](inputs, out))
            assert done.exit_code == 0, done.output
            found[command] = out.read_bytes()
        return found[command]

    return content


def same(command, one, other):
    return json.loads(one).keys() == json.loads(other).keys() if command in JSON else one == other


def check_special_file(command, kind, inputs, directory, expected):
    """Write to a special file, or to a link to one, and check what it received."""
    out = directory / OUT
    if kind == "FIFO":
        os.mkfifo(out)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(out.read_bytes)
            done = run_command(COMMANDS[command](inputs, out))
        assert stat.S_ISFIFO(os.lstat(out).st_mode) and same(command, reading.result(), expected)
    elif kind == "descriptor":
        (directory / "appended").write_bytes(b"before")
        with open(directory / "appended", "ab") as file:
            os.symlink(f"/dev/fd/{file.fileno()}", out)
            done = run_command(COMMANDS[command](inputs, out))
        assert (directory / "appended").read_bytes()[:6] == b"before"
        assert same(command, (directory / "appended").read_bytes()[6:], expected)
    else:
        os.symlink(kind, out)
        paths = [out] if command in CHOOSE_NAME else [out, Path(kind)]
        for path in paths:
            done = run_command(COMMANDS[command](inputs, path))
            if kind == "/dev/full":
                assert done.exit_code == 1
                assert done.output.splitlines()[-1] == f"Error: cannot write {path}: No space left on device"
        assert os.readlink(out) == kind and stat.S_ISCHR(os.stat(kind).st_mode)
    assert done.exit_code == (kind == "/dev/full"), done.output


def test_special_files_are_written_through(inputs, expected, tmp_path, monkeypatch, record_promise):
    kinds = ("/dev/null", "/dev/full", "FIFO", "descriptor")
    for number, (command, kind) in enumerate(itertools.product(COMMANDS, kinds)):
        directory = tmp_path / str(number)
        directory.mkdir()
        monkeypatch.chdir(directory)
        check_special_file(command, kind, inputs, directory, expected(command))
        assert not list(directory.rglob("*.part"))
    record_promise(
        "An output that is a device, a FIFO or an open descriptor is written through, also by way of a symbolic link",
        f"{len(COMMANDS)} outputs x {len(kinds)} kinds of file: {', '.join(kinds)}",
    )


def test_links_permissions_and_files_of_others_stay(inputs, expected, tmp_path, record_promise):
    for command in COMMANDS:
        directory = tmp_path / command.replace(" ", "")
        directory.mkdir()
        (directory / "target").write_text("old")
        (directory / "target").chmod(0o640)
        (directory / OUT).symlink_to("target")
        (directory / "victim").write_text("theirs")
        for name in (f"{OUT}.part", "target.part"):
            (directory / name).symlink_to("victim")
        done = run_command(COMMANDS[command](inputs, directory / OUT))
        assert done.exit_code == 0, done.output
        assert os.readlink(directory / OUT) == "target"
        assert same(command, (directory / "target").read_bytes(), expected(command))
        assert stat.S_IMODE(os.stat(directory / "target").st_mode) == 0o640
        assert (directory / "victim").read_text() == "theirs"
        assert [path.name for path in directory.glob("*.part") if not path.is_symlink()] == []
    record_promise(
        "A symbolic link stays and its target is replaced, with its permissions; a file OUTPUT.part of somebody else "
        "is neither overwritten nor followed",
        f"{len(COMMANDS)} outputs",
    )


# Outputs that are inputs

# Command: its words, given an input that is also the output
ONTO_INPUT = {
    "spm-train onto text": ("text.en", COMMANDS["spm-train --model"]),
    "spm-encode --report onto text": ("text.de", COMMANDS["spm-encode --report"]),
    "spm-encode --report onto the model": ("spm.model", COMMANDS["spm-encode --report"]),
    "shortlist onto the source": ("pieces.en", COMMANDS["shortlist --output"]),
    "shortlist onto the target": ("pieces.de", COMMANDS["shortlist --output"]),
    "score onto the translations": ("text.en", COMMANDS["score --json"]),
    "score onto the baseline": (
        "pieces.en",
        lambda i, out: [*COMMANDS["score --json"](i, out), "--baseline", i / "pieces.en"],
    ),
    "score onto the checkpoint": ("one.pt", COMMANDS["score --json"]),
    "score onto the metadata": ("extra.json", COMMANDS["score --json"]),
    "average onto the first checkpoint": ("one.pt", COMMANDS["average --output"]),
    "average onto the last checkpoint": ("two.pt", COMMANDS["average --output"]),
    "translate onto the input": ("text.en", COMMANDS["translate --output"]),
    "translate onto the model": ("exported/weights.safetensors", COMMANDS["translate --output"]),
}


def snapshot(directory):
    """Return the content of all files in a directory."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def check_refused(words, directory, before):
    done = run_command(words)
    assert done.exit_code == 1 and len(done.output.splitlines()) == 1, done.output
    assert "would overwrite" in done.output or "would be written twice" in done.output
    assert snapshot(directory) == before
    return 1


def test_outputs_never_overwrite_inputs(inputs, tmp_path, record_promise):
    count = 0
    for case, (name, words) in ONTO_INPUT.items():
        directory = tmp_path / "inputs"
        shutil.copytree(inputs, directory)
        (directory / "soft").symlink_to(name)
        (directory / "hard").hardlink_to(directory / name)
        before = snapshot(directory)
        for out in (directory / name, directory / "soft", directory / "hard", directory / "exported" / ".." / name):
            count += check_refused(words(directory, out), directory, before)
        shutil.rmtree(directory)
        assert not list(tmp_path.iterdir()), case
    record_promise("An output that is an input is refused, also under another name", f"{count} cases")


def test_extract_and_spm_encode_never_overwrite_their_inputs(tmp_path):
    texts = write_files(tmp_path, **{"train.en": "a\nb\n", "train.de": "c\nd\n", "raw.en": "x\ny\n"})
    (tmp_path / "archive.gz").write_bytes(gzip.compress(b"a\nb\n"))
    (tmp_path / "linked").symlink_to(".")
    shutil.copy(GOLDEN / "sentencepiece.bpe.model", tmp_path / "spm.model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.en").hardlink_to(tmp_path / "raw.en")
    (tmp_path / "out" / "train.de").symlink_to(tmp_path / "archive.gz")
    extract = ["extract", "--languages", "en", "de", "--downloads", tmp_path, "--out-dir"]
    before = snapshot(tmp_path)
    for words in (
        [*extract, tmp_path, "train", "train.en", "train.de"],
        [*extract, tmp_path / "linked", "valid", "raw.en", "raw.en", "train", "train.en", "train.de"],
        [*extract, tmp_path, "train", "train.de", "train.en"],
        [*extract, tmp_path / "out", "train", "raw.en", "raw.en"],
        [*extract, tmp_path / "out", "train", "archive.gz", "archive.gz"],
        ["extract", "--languages", "en", "en", "--out-dir", tmp_path / "out", "test", *texts[:2]],
        [*extract, tmp_path / "new", "a", *texts[:2], "../new/a", *texts[:2]],
        ["spm-encode", *texts, "--model", tmp_path / "spm.model", "--out-dir", tmp_path],
        ["spm-encode", texts[0], "--model", tmp_path / "spm.model", "--out-dir", tmp_path / "linked"],
    ):
        done = run_command(words)
        assert done.exit_code == 1 and len(done.output.splitlines()) == 1, done.output
        assert snapshot(tmp_path) == before and not (tmp_path / "new").exists()


def test_translate_refuses_to_append_to_its_own_input(inputs, tmp_path, capfd):
    """Otherwise it would translate its own output for ever."""
    text = tmp_path / "text"
    text.write_text("Hello.\n" * 3)
    for words in (["--input", text], [], ["--input", text, "--output", "/dev/stdout"], ["--output", "/dev/fd/1"]):
        with capfd.disabled(), redirected(0, text, os.O_RDONLY), redirected(1, text, os.O_WRONLY | os.O_APPEND):
            done = run_command(["translate", inputs / "exported", *words])
        assert done.exit_code == 1 and " would overwrite " in done.output and len(done.output.splitlines()) == 1
        assert text.read_text() == "Hello.\n" * 3


@contextmanager
def redirected(descriptor, path, flags):
    """Redirect a descriptor of this process, as a shell does for a command."""
    before, file = os.dup(descriptor), os.open(path, flags)
    os.dup2(file, descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)
        os.close(file)


def test_a_report_keeps_the_files_of_its_run(tmp_path):
    (tmp_path / "test").mkdir()
    scores = {"lines": 1, "scores": [{"name": "BLEU", "value": 1.0, "signature": "s"}]}
    for name in ("scores.json", "test/scores.json"):
        (tmp_path / name).write_text(json.dumps(scores))
    before = snapshot(tmp_path)
    for out in (tmp_path, tmp_path / "test", tmp_path / "report", tmp_path / "report"):  # the last one again
        done = run_command(["report", tmp_path, "--out", out])
        assert done.exit_code == 0, done.output
    after = snapshot(tmp_path)
    assert {path: after[path] for path in before} == before


# Failures


@pytest.mark.parametrize("failure", ["missing", "not parallel", "damaged", "held out", "interrupted"])
def test_a_failing_extract_leaves_existing_splits_as_they_were(tmp_path, failure, monkeypatch):
    write_files(tmp_path, a="a\nb\n", b="c\nd\n", short="x\n", **{"damaged.gz": gzip.compress(b"x\n" * 9000)[:-9]})
    out = tmp_path / "raw"
    words = ["extract", "--languages", "en", "de", "--downloads", tmp_path, "--out-dir", out]
    assert run_command([*words, "train", "a", "b", "valid", "b", "a", "test", "a", "b"]).exit_code == 0
    before = snapshot(tmp_path)
    last = {
        "missing": ["test", "a", "none"],
        "not parallel": ["test", "a", "short"],
        "damaged": ["test", "a", "damaged.gz"],
        "held out": ["test", "held-out", 3],
        "interrupted": ["test", "b", "a"],
    }[failure]
    if failure == "interrupted":
        monkeypatch.setattr(os, "fsync", lambda descriptor: os.kill(os.getpid(), 2))
    done = run_command([*words, "train", "b", "a", "valid", "a", "b", *last])
    assert done.exit_code != 0 and snapshot(tmp_path) == before


def test_checkpoints_are_complete_while_two_trainings_write_them(tmp_path, record_promise):
    path = str(tmp_path / "checkpoint_last.pt")
    state = {"model": {"x": torch.zeros(1000)}, "args": None}
    stop, reads = threading.Event(), 100
    write_checkpoint(state, path)

    def train(value):
        while not stop.is_set():
            write_checkpoint({**state, "model": {"x": torch.full((1000,), value)}}, path)

    with ThreadPoolExecutor(2) as pool:
        trainings = [pool.submit(train, value) for value in (1.0, 2.0)]
        try:
            values = {frozenset(read_checkpoint(path)["model"]["x"].tolist()) for _ in range(reads)}
        finally:
            stop.set()
        assert [training.result() for training in trainings] == [None, None]
    assert all(len(value) == 1 for value in values) and os.listdir(tmp_path) == ["checkpoint_last.pt"]
    record_promise("A checkpoint is complete at each moment while two threads write it", f"{reads} reads")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_no_temporary_file_remains_of_a_training_that_is_stopped(toy, tmp_path, name, record_promise):
    script = ROOT / "tests" / "support" / "fault_injection.py"
    places = ("writing", "copying", "renaming", "renamed")
    for place in places:
        options = train_options(toy / "data-bin", tmp_path / place)
        done = run("python", script, name, place, 3, *options, "--max-epoch", "5", check=False)
        assert done.returncode != 0
        assert list((tmp_path / place).glob("*.pt")) and not list((tmp_path / place).glob("*.part"))
    record_promise(f"No temporary file remains of a training that {name} stops", f"{len(places)} places in the code")
