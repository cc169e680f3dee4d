"""Memory and open files over many lines and many updates."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.commands import train_options
from support.memory import resident_memory
from support.paths import GOLDEN, PLUGIN, ROOT
from support.texts import PLAIN


def monitor(process):
    """Return (peak MiB, current MiB, open files) of a process, sampled twice per second until it exits.

    getrusage cannot be used: it includes the memory of the process that started it.
    """
    samples = []
    while process.poll() is None:
        try:
            samples.append((*resident_memory(process.pid), len(os.listdir(f"/proc/{process.pid}/fd"))))
        except (FileNotFoundError, TypeError, ProcessLookupError):  # it has just exited
            process.wait()
        time.sleep(0.5)
    return samples


@pytest.mark.slow
def test_interactive_needs_no_more_memory_for_many_lines(tmp_path, record_promise):
    peak, found = [], []
    for count in (1_000, 100_000):
        (tmp_path / "input").write_text(f"{PLAIN}\n" * count)
        command = [
            *(Path(sys.executable).parent / "fairseq-interactive", GOLDEN, "--user-dir", PLUGIN, "--cpu"),
            *("--path", GOLDEN / "model.pt", "-s", "en", "-t", "de", "--input", tmp_path / "input"),
            *("--bpe", "sentencepiece", "--sentencepiece-model", GOLDEN / "sentencepiece.bpe.model"),
            *("--beam", "2", "--max-len-b", "5", "--buffer-size", "1000", "--batch-size", "200"),
        ]
        with open(tmp_path / "output", "w") as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.DEVNULL)
            samples = monitor(process)
        assert process.returncode == 0
        peak.append(samples[-1][0])
        with open(tmp_path / "output") as lines:
            found.append(sum(line.startswith("H-") for line in lines))
    assert found == [1_000, 100_000]
    assert peak[1] < peak[0] + 20
    record_promise(
        "`fairseq-interactive` needs about as much memory for 100,000 lines as for 1,000",
        f"{peak[0]:.0f} MiB for 1,000 lines, {peak[1]:.0f} MiB for 100,000",
    )


@pytest.mark.slow
def test_translate_needs_no_more_memory_for_many_lines(record_promise):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from fairseq_resmlp import ResMLPModel
from support.memory import resident_memory
hub = ResMLPModel.from_pretrained({str(GOLDEN)!r})
for count in (1_000, 100_000):
    found = hub.translate([{PLAIN!r}] * count, beam=2, max_len_b=5)
    print(len(found), resident_memory()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    (few, before), (many, after) = (line.split() for line in done.stdout.splitlines())
    assert (few, many) == ("1000", "100000")
    assert float(after) < float(before) + 40  # the lines and their translations
    record_promise(
        "`HubTranslator.translate` needs about as much memory for 100,000 lines as for 1,000, apart from the lines "
        "themselves",
        f"{float(before):.0f} MiB for 1,000 lines, {float(after):.0f} MiB for 100,000",
    )


@pytest.mark.slow
def test_a_long_training_grows_neither_in_memory_nor_in_open_files(toy, tmp_path, request, record_promise):
    """Train a tiny model for --soak-seconds, with validation, checkpoints and TensorBoard."""
    seconds = request.config.getoption("--soak-seconds")
    options = [
        *train_options(toy / "data-bin", tmp_path / "checkpoints"),
        *("--stop-time-hours", str(seconds / 3600), "--no-epoch-checkpoints", "--validate-interval", "20"),
        *("--save-interval", "20", "--tensorboard-logdir", tmp_path / "tensorboard", "--log-interval", "1000"),
    ]
    command = [Path(sys.executable).parent / "fairseq-train", *options]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        samples = monitor(process)
        assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    updates = int(re.findall(r"num_updates=?:? ?(\d+)", (tmp_path / "log").read_text())[-1])
    samples = samples[len(samples) // 4 : -2]  # without startup and shutdown
    middle = len(samples) // 2
    halves = [list(zip(*half, strict=True)) for half in (samples[:middle], samples[middle:])]
    (memory, files), (later_memory, later_files) = ((max(m), statistics.median_low(f)) for _, m, f in halves)
    assert updates > 10 * seconds
    assert later_memory < memory + 5
    assert later_files <= files
    record_promise(
        "Memory use and the number of open files do not grow during a long training run",
        f"{updates:,} updates in {seconds} s: at most {memory:.0f} MiB in the first half and {later_memory:.0f} MiB in "
        f"the second; {files} and {later_files} open files",
    )
