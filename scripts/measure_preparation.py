"""Time and memory of preparing a parallel text, stage by stage, and of the same text many times over.

    python scripts/measure_preparation.py SOURCE TARGET --json FILE [--times N] [--vocab-size V]

Runs the commands of prepare.sh on the two files and on N copies of them one after the other, and writes for each the
seconds of all cores and the largest memory of all processes of a stage together (proportional set size).
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--times", type=int, default=8, help="copies in the second run (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=8000, help="pieces (default: %(default)s)")
    parser.add_argument("--max-lines", type=int, default=2_000_000, help="lines to learn pieces from")
    options = parser.parse_args()
    runs = []
    for times in (1, options.times):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(options, times, Path(folder)))
    record = {"text": options.source.parent.name, "workers": os.cpu_count(), "vocab_size": options.vocab_size}
    options.json.write_text(json.dumps({**record, "max_lines": options.max_lines, "runs": runs}, indent=1) + "\n")


def measure(options, times: int, folder: Path) -> dict:
    text = [folder / "raw" / f"train.{side}" for side in ("source", "target")]
    (folder / "raw").mkdir()
    for path, original in zip(text, (options.source, options.target)):
        with open(path, "wb") as out:
            for _ in range(times):
                with open(original, "rb") as lines:
                    shutil.copyfileobj(lines, out)
    model, report = folder / "spm.model", folder / "train.json"
    prefix = folder / "pieces" / "train"
    learn = ["fairseq-resmlp", "spm-train", *text, "--model", model, "--vocab-size", options.vocab_size]
    encode = ["fairseq-resmlp", "spm-encode", *text, "--model", model, "--out-dir", folder / "pieces", "--clean"]
    binarise = ["fairseq-preprocess", "-s", "source", "-t", "target", "--trainpref", prefix, "--joined-dictionary"]
    stages = {
        "spm-train": [*learn, "--max-lines", options.max_lines],
        "spm-encode --clean": [*encode, "--report", report],
        "fairseq-preprocess": [*binarise, "--destdir", folder / "data-bin", "--workers", os.cpu_count()],
    }
    figures = {name: watch([str(part) for part in command]) for name, command in stages.items()}
    counts = json.loads(report.read_text())
    pairs = counts["kept"] + sum(counts["dropped"].values())
    figures["spm-encode --clean"]["sentences_per_core_second"] = 2 * pairs / counts["cpu_seconds"]
    return {"times": times, "pairs": pairs, **counts, "stages": figures}


def watch(command) -> dict:
    """Run a command to its end: seconds on the clock, and the peak memory of it and its children in MB."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(memory, family(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"error: exit {process.returncode}: {' '.join(command)}")
    return {"seconds": time.perf_counter() - start, "peak_mb": peak / 1024}


def family(pid: int):
    """A process and all that descend from it."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            child, rest = stat.parent.name, stat.read_text().rsplit(")", 1)[1]
            children[int(rest.split()[1])].append(int(child))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def memory(pid: int) -> int:
    """Proportional set size in kB: pages that several processes share are divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has ended
        return 0


if __name__ == "__main__":
    main()
