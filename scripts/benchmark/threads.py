r"""Time of translation and training by number of threads, waiting policy of OpenMP and load of the machine.

    fairseq-resmlp export demo/model fast
    python scripts/benchmark/threads.py fast --text demo/raw/test.en --data demo/data-bin \
        --out docs/measured/threads.json

Every measurement is a complete command in its own process. "Beside a neighbour" means that other processes compute
without pause at the same time. They end by themselves. The CPU time that all other processes of the machine used is
measured, too, because a machine that should be idle may not be.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.environment import environment_info
from fairseq_resmlp.common.text import read_lines

PLUGIN = Path(__file__).resolve().parents[2] / "fairseq_resmlp"
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# torch is loaded first, with the variables as they are: fairseq-resmlp would set those that are missing.
TRANSLATE = "import torch; from fairseq_resmlp.cli.main import main; main()"
TRAIN = "from fairseq_cli.train import cli_main; cli_main()"
TWO_WORKERS = "translate, 2 workers"
BUSY = "import sys, time; end = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
MARGIN = 30  # seconds that a neighbour runs for longer than the command may


def commands(model: str, text: str, data: str, updates: int, checkpoints: str) -> dict[str, list[str]]:
    """Return the commands that are timed. The training writes to `checkpoints` only if it fails."""
    train = f"{data} --user-dir {PLUGIN} --arch resmlp_tiny --share-all-embeddings --optimizer adagrad --lr 0.1"
    train += " --lr-scheduler fixed --warmup-updates 300 --criterion fused_label_smoothed_cross_entropy"
    train += f" --clip-norm 1.0 --max-tokens 1000 --max-update {updates} --seed 1 --cpu --no-save --disable-validation"
    train += f" --save-dir {checkpoints}"
    translate = [sys.executable, "-c", TRANSLATE, "translate", model, "--input", text, "--output", os.devnull]
    return {
        "translate, 1 worker": [*translate, "--workers", "1"],
        TWO_WORKERS: [*translate, "--workers", "2"],
        "training": [sys.executable, "-c", TRAIN, *train.split()],
    }


def policies(name: str, counts: list[int], spins: list[int]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield numbers of threads, with names and variables of the waiting policies, for one of `commands`.

    One thread never waits for others. Two workers need a thread each.
    """
    for threads in counts:
        if threads == 1:
            if name != TWO_WORKERS:
                yield threads, "", {}
            continue
        yield threads, "default", {}
        if name == TWO_WORKERS and threads == 2:
            continue
        yield threads, "passive", {"OMP_WAIT_POLICY": "PASSIVE"}
        for spin in spins:
            yield threads, f"{spin:,} spins", {"GOMP_SPINCOUNT": str(spin)}


def busy_seconds() -> float:
    """Return the CPU time that all processes of the machine have used so far."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def neighbours(count: int, seconds: float) -> Iterator[None]:
    """Keep `count` cores busy, for at most `seconds`."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY, str(seconds)]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def timed(command: list[str], variables: dict[str, str], limit: float) -> dict[str, Any]:
    """Run a command. Returns wall and CPU seconds, and how many cores other processes kept busy on average.

    Raises:
        click.ClickException: the command failed
    """
    environment = {**{k: v for k, v in os.environ.items() if k not in OPENMP}, **variables}
    busy, start = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    wall, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    if process.returncode and wall < limit:
        raise click.ClickException(f"{' '.join(command)} failed: {said.decode(errors='replace')}")
    others = max(0.0, (busy_seconds() - busy - cpu) / wall)
    return {"wall": round(wall, 2), "cpu": round(cpu, 2), "others": round(others, 2)}


def middle(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {figure: round(median(run[figure] for run in runs), 2) for figure in runs[0]}


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.option("--text", required=True, type=click.Path(exists=True, dir_okay=False), help="Sentences, one per line.")
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False), help="Data to train on.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="JSON file for the measurements.")
@click.option("--lines", default=1000, show_default=True, help="Sentences to translate; the text is repeated.")
@click.option("--updates", default=60, show_default=True, help="Updates to train.")
@click.option("--threads", "counts", multiple=True, type=int, default=(1, 2), show_default=True, help="Repeatable.")
@click.option("--spins", multiple=True, type=int, help="GOMP_SPINCOUNT to compare as well. Repeatable.")
@click.option("--neighbours", "crowd", default=1, show_default=True, help="Number of busy neighbours.")
@click.option("--repeats", default=1, show_default=True, help="Runs of each command, of which the median is reported.")
@click.option("--limit", default=60.0, show_default=True, help="Seconds after which a command is ended.")
def main(
    model: str,
    text: str,
    data: str,
    out: str,
    lines: int,
    updates: int,
    counts: list[int],
    spins: list[int],
    crowd: int,
    repeats: int,
    limit: float,
) -> None:
    """Time translation with the exported MODEL and a short training, alone and beside busy processes."""
    rows = []
    with TemporaryDirectory() as temporary:
        source = f"{temporary}/source.txt"
        sentences = next(read_lines(text, lines))
        with open(source, "w", encoding="utf-8") as file:
            file.writelines(f"{sentence}\n" for sentence, _ in zip(itertools.cycle(sentences), range(lines)))
        for name, command in commands(model, source, data, updates, temporary).items():
            for threads, policy, variables in policies(name, counts, spins):
                variables = {"OMP_NUM_THREADS": str(threads), **variables}
                row: dict[str, Any] = {"command": name, "threads": threads, "policy": policy}
                for key, count in (("alone", 0), ("beside", crowd)):
                    runs = []
                    for _ in range(repeats):
                        with neighbours(count, limit + MARGIN):
                            runs.append(timed(command, variables, limit))
                    row[key] = middle(runs)
                rows.append(row)
                click.echo(row, err=True)
    settings = {"lines": lines, "updates": updates, "neighbours": crowd, "repeats": repeats, "limit": limit}
    with open_output(out) as file:
        found = {"settings": settings, "rows": rows, **environment_info(["torch", "fairseq"])}
        del found["command"]  # with paths of this machine; `settings` has the rest
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
