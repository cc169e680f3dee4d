"""Measure time and memory of each step of data preparation, on a parallel text and on N copies of it concatenated.

    python scripts/measure_preparation.py SOURCE TARGET --json FILE [--times N] [--vocab-size V] [--max-lines N]

The steps are those of prepare.sh. For each step, FILE contains the wall-clock time in seconds and the peak memory (sum
of the proportional set sizes of all its processes); for spm-encode, also the sentences per second of CPU time.
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
    parser.add_argument("--json", type=Path, required=True, help="output file")
    parser.add_argument("--times", type=int, default=8, help="copies in the second run (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=8000, help="SentencePiece tokens (default: %(default)s)")
    parser.add_argument(
        "--max-lines", type=int, default=2_000_000, help="maximum number of lines for spm-train (default: %(default)s)"
    )
    args = parser.parse_args()
    runs = []
    for times in (1, args.times):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(measure(args, times, Path(directory)))
    settings = {"text": args.source.resolve().parent.name, "workers": os.cpu_count(), "vocab_size": args.vocab_size}
    args.json.write_text(json.dumps({**settings, "max_lines": args.max_lines, "runs": runs}, indent=1) + "\n")


def measure(args: argparse.Namespace, times: int, directory: Path) -> dict:
    """Run all steps in `directory` on `times` copies of the text."""
    text = [directory / "raw" / f"train.{side}" for side in ("source", "target")]
    (directory / "raw").mkdir()
    for path, original in zip(text, (args.source, args.target), strict=True):
        with open(path, "wb") as out:
            for _ in range(times):
                with open(original, "rb") as lines:
                    shutil.copyfileobj(lines, out)
    model, report = directory / "spm.model", directory / "train.json"
    prefix = directory / "pieces" / "train"
    train = ["fairseq-resmlp", "spm-train", *text, "--model", model, "--vocab-size", args.vocab_size]
    encode = ["fairseq-resmlp", "spm-encode", *text, "--model", model, "--out-dir", directory / "pieces", "--clean"]
    binarize = ["fairseq-preprocess", "-s", "source", "-t", "target", "--trainpref", prefix, "--joined-dictionary"]
    stages = {
        "spm-train": [*train, "--max-lines", args.max_lines],
        "spm-encode --clean": [*encode, "--report", report],
        "fairseq-preprocess": [*binarize, "--destdir", directory / "data-bin", "--workers", os.cpu_count()],
    }
    figures = {name: run_and_measure([str(part) for part in command]) for name, command in stages.items()}
    counts = json.loads(report.read_text())
    pairs = counts["kept"] + sum(counts["dropped"].values())
    figures["spm-encode --clean"]["sentences_per_core_second"] = 2 * pairs / counts["cpu_seconds"]
    return {"times": times, "pairs": pairs, **counts, "stages": figures}


def run_and_measure(command: list[str]) -> dict:
    """Run a command; return its wall-clock time in seconds, and the peak memory of it and its descendants in MB."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(memory, process_tree(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"error: exit status {process.returncode} of {' '.join(command)}")
    return {"seconds": time.perf_counter() - start, "peak_mb": peak / 1024}


def process_tree(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            child, rest = stat.parent.name, stat.read_text().rsplit(")", 1)[1]
            children[int(rest.split()[1])].append(int(child))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def memory(pid: int) -> int:
    """Return the proportional set size in kB, in which the memory shared by several processes is divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # the process has ended
        return 0


if __name__ == "__main__":
    main()
