r"""Time and memory until the first translation of a new process, by part, compared with importing torch alone.

    python scripts/benchmark/cold_start.py small=runs/multi30k.en-de/resmlp_small/exported \
        --out docs/measured/cold-start.json

The command is `echo SENTENCE | fairseq-resmlp translate MODEL`. It takes turns with `python -c 'import torch'`. The
parts are timed in further processes that do the same step by step.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from fairseq_resmlp.cli.options import Count
from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.environment import environment_info

SENTENCE = "A dog runs on the grass."
TRANSLATE = "from fairseq_resmlp.cli.main import main; main()"
IMPORT_TORCH = "import torch"
# Prints the CPU and wall seconds of each part. The first argument is the time at which the process was started.
STEPS = """
import sys, time
last = [0.0, float(sys.argv[1])]
parts = {}
def end(part):
    now = [time.process_time(), time.clock_gettime(time.CLOCK_MONOTONIC)]
    parts[part] = [b - a for a, b in zip(last, now)]
    last[:] = now
end("Python")
from fairseq_resmlp.common.garbage_collection import import_without_garbage_collection
with import_without_garbage_collection():
    import torch
end("import of torch")
from fairseq_resmlp.inference import Translator
from fairseq_resmlp.inference import model_format
end("import of the package")
checksums = [0.0, 0.0]
def timed(path, compute=model_format._sha256):
    begin = [time.process_time(), time.clock_gettime(time.CLOCK_MONOTONIC)]
    result = compute(path)
    after = [time.process_time(), time.clock_gettime(time.CLOCK_MONOTONIC)]
    checksums[:] = [total + b - a for total, a, b in zip(checksums, begin, after)]
    return result
model_format._sha256 = timed
model = model_format.load_exported_model(sys.argv[2])
end("reading")
parts["reading"] = [a - b for a, b in zip(parts["reading"], checksums)]
parts["checksums"] = checksums
translator = Translator(model)
end("building the translator")
translator.translate_batch([sys.argv[3]])
end("first sentence")
translator.translate_batch([sys.argv[3]])
end("second sentence")
import json
print(json.dumps(parts))
"""


def run(*command: str, said: str = "") -> tuple[dict[str, float], str]:
    """Run a command with one thread. Returns its CPU and wall seconds and peak memory in MB, and its output."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write(said)
    process.stdin.close()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} failed")
    wall = time.perf_counter() - start
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}, output


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {figure: round(median(run[figure] for run in runs), 3) for figure in runs[0]}


def measure(name: str, model: str, repeats: int) -> dict[str, Any]:
    """Measure an exported model."""
    torch_runs, command_runs, parts = [], [], []
    for _ in range(1 + repeats):  # the first round reads the files into memory
        torch_runs.append(run("-c", IMPORT_TORCH)[0])
        command_runs.append(run("-c", TRANSLATE, "translate", model, said=f"{SENTENCE}\n")[0])
        started = str(time.clock_gettime(time.CLOCK_MONOTONIC))
        output = run("-c", STEPS, started, model, SENTENCE)[1]
        parts.append({part: dict(zip(("cpu", "wall"), took)) for part, took in json.loads(output).items()})
    weights = sum(path.stat().st_size for path in Path(model).iterdir()) / 2**20
    return {
        "name": name,
        "size_mb": round(weights, 1),
        "torch": middle(torch_runs[1:]),
        "command": middle(command_runs[1:]),
        "parts": {part: middle([found[part] for found in parts[1:]]) for part in parts[0]},
    }


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="NAME=MODEL...")
@click.option(
    "--repeats",
    default=5,
    type=Count(),
    show_default=True,
    help="Runs of each command, of which the median is reported.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="JSON file for the measurements.")
def main(models: list[str], repeats: int, out: str) -> None:
    """Measure how long exported models take until their first translation."""
    rows = []
    for entry in models:
        name, _, model = entry.partition("=")
        if not os.path.isdir(model):
            raise click.ClickException(f"{entry}: specify NAME=DIRECTORY of an exported model")
        rows.append(measure(name, model, repeats))
        click.echo(rows[-1], err=True)
    found = {"repeats": repeats, "rows": rows, **environment_info(["torch"])}
    del found["command"]  # with paths of this machine
    with open_output(out) as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
