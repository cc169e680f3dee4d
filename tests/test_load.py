"""Much work in little memory: many lines, many updates."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PLUGIN, ROOT, train_options

STORED = ROOT / "tests" / "stored"
LINE = "Two women said that a child bought the book.\n"


def resident(pid="self"):
    """(most so far, now) MiB of a process in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmHWM", "VmRSS"))


def watch(process):
    """[(most MiB so far, MiB, open files)] of a process, twice a second until its end.

    Not by getrusage, which counts the memory of the process that started it, too.
    """
    samples = []
    while process.poll() is None:
        try:
            samples.append((*resident(process.pid), len(os.listdir(f"/proc/{process.pid}/fd"))))
        except (FileNotFoundError, TypeError, ProcessLookupError):  # it has just ended
            process.wait()
        time.sleep(0.5)
    return samples


@pytest.mark.slow
def test_interactive_needs_no_more_memory_for_many_lines(tmp_path, record_promise):
    most, found = [], []
    for count in (1_000, 100_000):
        (tmp_path / "input").write_text(LINE * count)
        command = [
            *(Path(sys.executable).parent / "fairseq-interactive", STORED, "--user-dir", PLUGIN, "--cpu"),
            *("--path", STORED / "model.pt", "-s", "en", "-t", "de", "--input", tmp_path / "input"),
            *("--bpe", "sentencepiece", "--sentencepiece-model", STORED / "sentencepiece.bpe.model"),
            *("--beam", "2", "--max-len-b", "5", "--buffer-size", "1000", "--batch-size", "200"),
        ]
        with open(tmp_path / "output", "w") as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.DEVNULL)
            samples = watch(process)
        assert process.returncode == 0
        most.append(samples[-1][0])
        with open(tmp_path / "output") as lines:
            found.append(sum(line.startswith("H-") for line in lines))
    assert found == [1_000, 100_000]
    assert most[1] < most[0] + 20
    record_promise(
        "fairseq-interactive takes no more memory for 100,000 lines than for 1,000",
        f"{most[0]:.0f} MiB for 1,000 lines, {most[1]:.0f} MiB for 100,000",
    )


@pytest.mark.slow
def test_translate_needs_no_more_memory_for_many_lines_than_they_take(record_promise):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_load import LINE, STORED, resident
from fairseq_resmlp import ResMLPModel
hub = ResMLPModel.from_pretrained(STORED)
for count in (1_000, 100_000):
    found = hub.translate([LINE] * count, beam=2, max_len_b=5)
    print(len(found), resident()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    (few, before), (many, after) = (line.split() for line in done.stdout.splitlines())
    assert (few, many) == ("1000", "100000")
    assert float(after) < float(before) + 40  # 100,000 strings of it
    record_promise(
        "`translate` takes no more memory for 100,000 lines than for 1,000, but for the lines themselves",
        f"{float(before):.0f} MiB for 1,000 lines, {float(after):.0f} MiB for 100,000",
    )


@pytest.mark.slow
def test_a_long_training_grows_neither_in_memory_nor_in_open_files(toy, tmp_path, request, record_promise):
    """As many updates of a tiny model as --soak-seconds allow, with validations, checkpoints and TensorBoard."""
    seconds = request.config.getoption("--soak-seconds")
    options = [
        *train_options(toy / "data-bin", tmp_path / "checkpoints"),
        *("--stop-time-hours", str(seconds / 3600), "--no-epoch-checkpoints", "--validate-interval", "20"),
        *("--save-interval", "20", "--tensorboard-logdir", tmp_path / "tensorboard", "--log-interval", "1000"),
    ]
    command = [Path(sys.executable).parent / "fairseq-train", *options]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        samples = watch(process)
        assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    updates = int(re.findall(r"num_updates=?:? ?(\d+)", (tmp_path / "log").read_text())[-1])
    samples = samples[len(samples) // 4 : -2]  # when it has started, and before it ends
    middle = len(samples) // 2
    halves = [list(zip(*half)) for half in (samples[:middle], samples[middle:])]
    (memory, files), (later_memory, later_files) = ((max(m), statistics.median_low(f)) for _, m, f in halves)
    assert updates > 10 * seconds
    assert later_memory < memory + 5
    assert later_files <= files
    record_promise(
        "A long training grows neither in memory nor in open files",
        f"{updates:,} updates in {seconds} s: {memory:.0f} MiB at most in the first half, {later_memory:.0f} in the "
        f"second; {files} and {later_files} open files",
    )
