"""Every command with odd paths, numbers and streams: an exit status and one line, never a traceback or a hang."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.model.export import export_model
from support.commands import run
from support.odd_files import FIFO, LOOP, NOT_UTF8, snapshot, write_inputs, write_odd_files
from support.paths import GOLDEN
from support.warm_command import CLOSED, SECONDS, WarmCommand

NUMBERS = [
    *("0", "-1", "1", "2", "1.5", "1e5", "nan", "inf", "-inf", "", "x", "1_0", "\u0663", "2147483647"),
    *("9" * 11, "9" * 400, "9" * 5000),
]
DEVICES = ["meta", "vulkan", "mps", "xla", "hpu", "mkldnn", "cuda", "cuda:99", "cpu:1", "cpu:-1", "x", "", "cpu:9" * 30]
LANGUAGES = ["", "en", "zh", "ja", "ko", "xx", "-", "../x", "\udcff", "\n", "a" * 300]
OUTPUTS = [
    *("existing", "directory", "missing/directory/new", FIFO, LOOP, "dangling", "link", "hard-link", "a\nb", "-dash"),
    *(NOT_UTF8, "n" * 255, "n" * 300, "existing/file"),
]
OTHER_OUTPUTS = ["", ".", "-", "/dev/null", "/dev/full", "/dev/stdout", "/dev/fd/1", "/dev/fd/77", "/proc/nowhere"]
RUN_FILES = [
    "train.log",
    "test2016/scores.json",
    "tb/train/events.out.tfevents.1",
    "raw/test.en",
    "model.pt",
    "spm.model",
]
STREAMS = [None, None, None, None, CLOSED, "/dev/full", "/dev/null"]

# The words of each command. IN is an input, OUT an output, DIR an output directory, N a number; after the colon is what
# the command is meant for.
COMMANDS = {
    "download": ["URL:file:///etc/hostname", "-", "--to", "DIR:new"],
    "extract": [
        *("train", "IN:text.en", "IN:text.de", "--languages", "en", "de"),
        *("--downloads", "IN:..", "--out-dir", "DIR:new"),
    ],
    "spm-train": ["IN:text.en", "IN:text.de", "--model", "OUT:new", "--vocab-size", "N:60", "--max-lines", "N:9"],
    "spm-encode": [
        *("IN:text.en", "IN:text.de", "--model", "IN:golden/sentencepiece.bpe.model", "--out-dir", "DIR:new"),
        *("--clean", "--max-length", "N:250", "--max-ratio", "N:2.5", "--report", "OUT:new", "--workers", "N:1"),
    ],
    "shortlist": [
        *("IN:pieces.en", "IN:pieces.de", "--output", "OUT:new"),
        *("--first", "N:9", "--best", "N:3", "--max-lines", "N:9"),
    ],
    "average": ["IN:golden/model.pt", "IN:average.pt", "--output", "OUT:new"],
    "score": [
        *("IN:text.de", "--reference", "IN:text.de", "--target-lang", "LANGUAGE:de", "--json", "OUT:new"),
        *("--metadata", "TEXT:name=value", "--metadata-json", "JSON:run/test2016/scores.json"),
    ],
    "report": ["RUN:run", "--out", "DIR:new", "--sentences", "N:0", "--no-pruning"],
    "export": [
        *("IN:golden", "DIR:new", "--data", "IN:golden", "--spm", "IN:golden/sentencepiece.bpe.model"),
        *("--shortlist", "IN:shortlist", "--prune-mixing", "N:0.1"),
    ],
    "translate": [
        *("MODEL:exported", "--input", "STREAM:text.en", "--output", "OUT:new", "--beam", "N:1", "--lenpen", "N:1"),
        *("--max-len-a", "N:0", "--max-len-b", "N:3", "--batch-size", "N:64", "--max-tokens", "N:4096"),
        *("--threads", "N:1", "--device", "DEVICE:cpu"),
    ],
    "serve": ["MODEL:odd", "--port", "N:0", "--beam", "N:1", "--threads", "N:1"],
    "bench": [
        *("MODEL:odd", "--text", "IN:text.en", "--reference", "IN:text.de", "--ctranslate2", "IN:golden"),
        *("--fairseq", "RUN:run", "--repeats", "N:1", "--threads", "N:1", "--json", "OUT:new"),
    ],
    "convert": ["IN:golden/model.pt", "OUT:new", "--to", "TEXT:deit"],
    "doctor": [],
}

NEED_FAIRSEQ = {"average", "score", "report", "export", "convert"}
FEWEST = 5  # examples per command
WITHOUT_FAIRSEQ = [
    *("data.corpus", "data.download", "data.sentencepiece_files", "data.shortlist_learning"),
    *("inference.translator", "server.serve"),
]
WITH_FAIRSEQ = ["checkpoints.averaging", "evaluation.provenance", "model.export", "report.builder"]


class Place:
    """A directory with inputs, odd files, and outputs that are new for every example."""

    def __init__(self, directory, *modules):
        self.directory, self.inputs, self.out = directory, directory / "inputs", directory / "out"
        write_inputs(self.inputs)
        export_model(str(self.inputs / "golden"), str(self.inputs / "exported"))
        with contextlib.chdir(directory):
            self.odd = [*write_odd_files(Path("odd")), "--", "-dash"]
        self.command = WarmCommand(directory, [f"fairseq_resmlp.{module}" for module in modules])

    def close(self):
        self.command.close()

    def clear_outputs(self):
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "directory").mkdir(parents=True)
        os.mkfifo(self.out / FIFO)
        for name, target in ((LOOP, LOOP), ("dangling", "nowhere"), ("link", "existing")):
            (self.out / name).symlink_to(target)
        (self.out / "existing").write_bytes(b"existing")
        os.link(self.inputs / "text.en", self.out / "hard-link")

    def combine(self, base, name, odd):
        """Write a directory like one of the inputs, with one file replaced. Returns its path."""
        directory = self.out / "combined"
        shutil.copytree(self.inputs / base, directory, copy_function=os.symlink)
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a name that no file system accepts
            file.symlink_to(os.path.abspath(self.directory / odd))
        return "out/combined"

    def run(self, *args, **kwargs):
        """Run a command while something reads the FIFO among the outputs."""
        reader = os.open(self.out / FIFO, os.O_RDWR | os.O_NONBLOCK)
        done = threading.Event()

        def drain():
            while not done.wait(0.01):
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, 1 << 20)

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            return self.command(*args, cwd=self.directory, **kwargs)
        finally:
            done.set()
            thread.join()
            os.close(reader)

    def word(self, kind, valid):
        """Return a strategy of functions that return an odd value for a word of this kind."""
        odd = st.sampled_from(self.odd)
        outputs = [f"out/{name}" for name in OUTPUTS] + OTHER_OUTPUTS
        plain = {
            "IN": odd,
            "STREAM": st.sampled_from([path for path in self.odd if path not in (f"odd/{FIFO}", "/dev/zero")]),
            "OUT": st.sampled_from(outputs),
            "DIR": st.sampled_from(outputs),
            "N": st.sampled_from(NUMBERS),
            "URL": st.sampled_from(["", "x", "ftp://x/y", "http://[", "http://127.0.0.1:x/y", "file://x/y", "file:/"]),
            "DEVICE": st.sampled_from(DEVICES),
            "LANGUAGE": st.sampled_from(LANGUAGES),
            "TEXT": st.sampled_from(["", "=", "name", "name=", "=x", "name=\udcff", "n\n=\n", "name=" + "x" * 10_000]),
            "JSON": odd.map("file={}".format),
        }
        if kind not in ("MODEL", "RUN"):
            return plain[kind].map(lambda text: lambda: text)
        base = "exported" if valid == "odd" else valid
        files = RUN_FILES if kind == "RUN" else sorted(file.name for file in (self.inputs / "exported").iterdir())
        combined = st.tuples(st.sampled_from(files), odd).map(lambda chosen: lambda: self.combine(base, *chosen))
        return st.one_of(odd.map(lambda text: lambda: text), combined)

    def command_lines(self, template):
        """Return a strategy of lists of words, as functions of no argument; at most two words are odd."""
        words = [word.partition(":") if re.match("[A-Z]+:", word) else (None, "", word) for word in template]
        slots = [i for i, (kind, _, _) in enumerate(words) if kind]
        always = {i for i in slots if words[i][2] == "odd"}

        inputs = [words[i] for i in slots if words[i][0] in ("IN", "STREAM") and words[i][2]]

        @st.composite
        def draw_words(draw):
            odd = always | (draw(st.sets(st.sampled_from(slots), max_size=2)) if slots else set())
            found = [
                draw(self.word(word[0], word[2])) if i in odd else self.valid(*word) for i, word in enumerate(words)
            ]
            outputs = [i for i in odd if words[i][0] == "OUT"]
            if inputs and outputs and draw(st.booleans()):  # an output that is an input
                found = [self.valid(*word) for word in words]
                found[outputs[0]] = self.valid(*draw(st.sampled_from(inputs)))
            return found

        return draw_words()

    @staticmethod
    def valid(kind, _, value):
        if kind in ("IN", "STREAM", "RUN", "MODEL"):
            return lambda: f"inputs/{value}"
        if kind == "JSON":
            return lambda: f"file=inputs/{value}"
        return lambda: f"out/{value}" if kind in ("OUT", "DIR") else value


@pytest.fixture(scope="module")
def without_fairseq(tmp_path_factory):
    """Place for the commands that do not import fairseq."""
    with contextlib.closing(Place(tmp_path_factory.mktemp("command_line"), *WITHOUT_FAIRSEQ)) as place:
        yield place


@pytest.fixture(scope="module")
def with_fairseq(tmp_path_factory):
    """Place for the other commands."""
    with contextlib.closing(Place(tmp_path_factory.mktemp("command_line_fairseq"), *WITH_FAIRSEQ)) as place:
        yield place


def check(done, words, progress):
    """Check the claims of this file for a finished command."""
    shown = f"{words}\n{done}"
    assert done.status != -14, f"still running after {SECONDS} s: {shown}"
    assert done.status in (0, 1, 2, 130), shown
    assert "Traceback" not in done.stdout + done.stderr, shown
    if done.status and done.stderr:
        lines = [line for line in done.stderr.splitlines() if not re.match(progress, line)]
        assert lines and lines[-1].startswith("Error: "), shown
        if len(lines) > 1:
            assert done.status == 2 and [line[:5] for line in lines[:-1]] == ["Usage", "Try '", ""], shown


tried = {}


def fuzz(name, place, config, record_promise):
    """Try a command with arguments and streams that hypothesis draws, the same in every run."""
    # The report prints each step, and what is missing from the page.
    progress = r"missing: |\S+: loading" if name == "report" else "$."
    number = max(FEWEST, config.getoption("--fuzz-lines") // 30)

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # the failing command is short enough
    )
    @given(place.command_lines(COMMANDS[name]), *[st.sampled_from(STREAMS)] * 3)
    def try_all(words, stdin, stdout, stderr):
        place.clear_outputs()
        words = [name, *(word() for word in words)]
        before = snapshot(place.inputs)
        done = place.run(words, stdin=CLOSED if stdin == CLOSED else None, stdout=stdout, stderr=stderr)
        check(done, words, progress)
        assert snapshot(place.inputs) == before, words

    try_all()
    tried[name] = number
    record_promise(
        "A command with odd paths, files, numbers or streams ends with exit status 0, 1, 2 or 130, prints at most its "
        f"usage and one line, takes less than {SECONDS} s, and changes no input",
        f"{sum(tried.values()):,} command lines of {len(tried)} commands",
    )


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - NEED_FAIRSEQ))
def test_odd_arguments_and_streams_end_with_one_line(name, without_fairseq, request, record_promise):
    fuzz(name, without_fairseq, request.config, record_promise)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NEED_FAIRSEQ))
def test_odd_arguments_of_commands_that_import_fairseq_end_with_one_line(name, with_fairseq, request, record_promise):
    fuzz(name, with_fairseq, request.config, record_promise)


def test_every_command_is_tried():
    assert set(COMMANDS) == set(main.commands)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_ends_only_commands_that_need_it(stream, without_fairseq):
    without_fairseq.clear_outputs()
    status, _, stderr = without_fairseq.run(["doctor"], **{stream: CLOSED})
    assert (status, stderr) == (
        (1, "Error: cannot write standard output: Bad file descriptor\n") if stream == "stdout" else (0, "")
    )


def test_no_other_file_takes_the_place_of_a_closed_stream(without_fairseq):
    """Otherwise, what a command prints would be written into the file that it opens next."""
    found = []
    for stream in (None, CLOSED):
        without_fairseq.clear_outputs()
        words = ["spm-train", "inputs/text.en", "--model", "out/new", "--vocab-size", "30"]
        without_fairseq.run(words, stdin=stream, stdout=stream, stderr=stream)
        found.append((without_fairseq.out / "new").read_bytes())
    assert found[0] == found[1]


def test_standard_output_that_is_full_is_reported(without_fairseq):
    without_fairseq.clear_outputs()
    for words in (
        ["doctor"],
        ["--help"],
        ["translate", "inputs/exported", "--input", "inputs/text.en", "--threads", "1"],
    ):
        status, _, stderr = without_fairseq.run(words, stdout="/dev/full")
        assert status == 1
        assert re.fullmatch("Error: cannot write .+: No space left on device\n", stderr)


def test_standard_input_that_is_closed_is_reported(without_fairseq):
    without_fairseq.clear_outputs()
    done = without_fairseq.run(["translate", "inputs/exported", "--threads", "1"], stdin=CLOSED)
    assert done == (1, "", "Error: cannot read standard input: Bad file descriptor\n")


def test_translate_reads_a_pipe_that_has_a_name(without_fairseq):
    without_fairseq.clear_outputs()
    writer = threading.Thread(
        target=(without_fairseq.directory / "odd" / FIFO).write_text, args=("A dog.\n\nA cat.\n",)
    )
    writer.start()
    words = ["translate", "inputs/exported", "--input", f"odd/{FIFO}", "--threads", "1", "--max-len-b", "5"]
    done = without_fairseq.run(words)
    writer.join()
    assert done.status == 0 and len(done.stdout.splitlines()) == 3


def test_names_that_are_not_ascii_work_in_the_posix_locale(tmp_path):
    env = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "K\u00e4se.en").write_text("The old king sees a small dog.\n" * 9, encoding="utf-8")
    words = ["fairseq-resmlp", "spm-train", "K\u00e4se.en", "--model", "\u7f8e.model", "--vocab-size", "30"]
    run(*words, cwd=tmp_path, env=env)
    assert (tmp_path / "\u7f8e.model").stat().st_size
    done = run(*words[:2], "K\u00f6ln.en", *words[3:], cwd=tmp_path, env=env, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("Error: ")


def test_an_interrupted_command_ends_without_a_traceback(tmp_path):
    """Ctrl + C reaches the command and the processes that it has started."""
    (tmp_path / "a").write_text("".join(f"das Haus {i}\n" for i in range(200_000)))
    program = Path(sys.executable).with_name("fairseq-resmlp")
    words = ["spm-encode", "a", "--model", GOLDEN / "sentencepiece.bpe.model", "--out-dir", "out", "--workers", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([program, *words], cwd=tmp_path, start_new_session=True, **streams)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)  # the workers have started
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (130, b"")
    assert not os.listdir(tmp_path / "out")
