"""Benchmark of training and translation: speed and memory, compared with fairseq's Transformer and with CTranslate2.

    python scripts/benchmark/bench.py --out docs/measured/speed.json

The two sides of a row are timed alternately (A B A B) in the same run, so that other load on the machine affects both.
The result of a row is the median ratio of these pairs. Batches contain no padding, and both sides of a row generate the
same number of tokens.
"""

import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import click
import torch
from threads import neighbours

import breakdown
import systems
import tables
from fairseq_resmlp.cli.main import one_line_errors
from fairseq_resmlp.common.atomic_write import atomic_write
from fairseq_resmlp.common.environment import cpu_info, environment_info
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.threads import available_cores
from fairseq_resmlp.inference.network import check_device
from systems import FAIRSEQ_CRITERION, OWN_CRITERION, RESMLP, TRANSFORMER, Settings

Row = dict[str, Any]

TRAIN_SHAPES = {"cpu": ((32, 30), (8, 120)), "cuda": ((512, 30), (128, 120))}  # sentences x tokens
GENERATE_BATCHES = {"cpu": (64, 16, 1), "cuda": (512, 64, 1)}
LENGTH = 30  # tokens of a source or a hypothesis, including the end-of-sentence token
GROWTH_SHAPES = ((64, 32), (8, 256))
PRECISION = {"float32": "fp32", "bfloat16": "bf16"}  # fairseq's names
MEMORY_STEPS = 3
FIRST_CALL = 2  # a first call takes at most this many times as long as the next ones, if they are not short
SAME_PRODUCTS = ", torch.nn.functional.linear on both sides"
SAME_CRITERION = " on both sides"
LOADING_INTERVALS, LOADING_INTERVAL = 4, 10  # number and length of the log intervals; the first one is a warm-up
LONGEST = 7200  # seconds after which busy neighbours end by themselves
MINUTES = {"train": 5, "generate": 3, "fast": 3, "memory": 1, "growth": 3, "loading": 2, "profile": 4}  # on two cores


class Target(NamedTuple):
    """A lower or upper bound ("at least" or "at most") for the median ratio of a row."""

    bound: str
    value: float

    def reached(self, ratio: float) -> bool:
        return ratio >= self.value if self.bound == "at least" else ratio <= self.value


TRAIN_TARGETS = {
    "cpu": {FAIRSEQ_CRITERION: Target("at least", 1.3), OWN_CRITERION: Target("at least", 2.8)},
    "cuda": {FAIRSEQ_CRITERION: Target("at least", 1.6), OWN_CRITERION: Target("at least", 1.6)},
}
GENERATE_TARGETS = {"cpu": Target("at least", 1.25), "cuda": Target("at least", 1.6)}
FAST_TARGETS = {64: Target("at least", 3.0), 16: Target("at least", 3.0), 1: Target("at least", 5.0)}
SHORTLIST_TARGETS = {**FAST_TARGETS, 64: Target("at least", 4.0), 16: Target("at least", 4.0)}
MEMORY_TARGET, GROWTH_TARGET = Target("at most", 0.8), Target("at most", 1.3)
LOADING_TARGET = Target("at least", 0.95)


def make_row(
    part: str,
    what: str,
    against: str,
    above: tuple[str, list[float]],
    below: tuple[str, list[float]],
    unit: str,
    target: Target | None,
    tokens: int | None = None,
) -> Row:
    """Return a row of the results.

    Args:
        part: part of the benchmark, a key of `PARTS`
        what: label of the measurement
        against: label of the baseline
        above, below: name and measurements of the numerator and of the denominator of the ratios
        unit: unit of the measurements
        target: bound for the median ratio
        tokens: number of tokens processed per measurement
    """
    ratios = [a / b for a, b in zip(above[1], below[1], strict=True)]
    return {
        "part": part,
        "what": what,
        "against": against,
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "target": target._asdict() if target else None,
        "reached": target.reached(median(ratios)) if target else None,
        "above": above[0],
        "below": below[0],
        "unit": unit,
        "measured": dict([above, below]),
        "tokens": tokens,
    }


def time_alternately(runs: Mapping[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    """Return the seconds per call of each of `runs`, timed in turn `settings.pairs` times after a warm-up round.

    Short calls are repeated until a timing takes `settings.shortest` seconds. A pause before each timing lets the
    threads of the previous one go to sleep: OpenMP threads spin while they wait for work, and one process can contain
    several OpenMP libraries.
    """

    def timed(run: Callable[[], object], calls: int) -> float:
        settings.wait()
        time.sleep(settings.pause)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        settings.wait()
        return (time.perf_counter() - start) / calls

    calls: dict[str, int] = {}
    for name, run in runs.items():
        first = timed(run, 1)
        # Later calls are faster, but not by this much: a second one would not change the number of calls.
        estimate = first if first > FIRST_CALL * settings.shortest else timed(run, 1)
        calls[name] = max(1, math.ceil(settings.shortest / estimate))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(settings.pairs):
        for name, run in runs.items():
            seconds[name].append(timed(run, calls[name]))
    return seconds


def measure_train(settings: Settings, notes: list[str]) -> list[Row]:
    """Time a step of fairseq's trainer with Adam: forward, loss, backward, gradient clipping and optimizer step."""
    kinds = [
        ("float32", FAIRSEQ_CRITERION, FAIRSEQ_CRITERION),
        ("float32", OWN_CRITERION, FAIRSEQ_CRITERION),
        ("float32", OWN_CRITERION, OWN_CRITERION),
        ("bfloat16", OWN_CRITERION, FAIRSEQ_CRITERION),
    ]  # the last one is the criterion of the Transformer
    if settings.device == "cuda":
        kinds = [("bfloat16", criterion, FAIRSEQ_CRITERION) for criterion in (FAIRSEQ_CRITERION, OWN_CRITERION)]
    elif "avx512_bf16" not in cpu_info()[1]:
        notes.append("bfloat16 rows skipped: this CPU has no avx512_bf16")
        kinds = kinds[:3]
    rows = []
    for dtype, criterion, baseline_criterion in kinds:
        trainers = {
            "resmlp": systems.make_trainer(RESMLP, settings, criterion, PRECISION[dtype]),
            "transformer": systems.make_trainer(TRANSFORMER, settings, baseline_criterion, PRECISION[dtype]),
        }
        has_target = (settings.device, dtype) != ("cpu", "bfloat16") and baseline_criterion == FAIRSEQ_CRITERION
        target = TRAIN_TARGETS[settings.device][criterion] if has_target else None
        both = SAME_CRITERION if baseline_criterion == OWN_CRITERION else ""
        for count, length in TRAIN_SHAPES[settings.device]:
            sample = systems.make_batch(count, length, settings)
            what = f"training step, {count} x {length} tokens, {dtype}, {criterion}{both}"
            steps = {name: partial(trainer.train_step, [sample]) for name, trainer in trainers.items()}
            rows.append(compare("train", what, steps, settings, target, count * length))
            if (dtype, criterion) == ("float32", FAIRSEQ_CRITERION):
                with systems.torch_linear_only():
                    rows.append(compare("train", what + SAME_PRODUCTS, steps, settings, target, count * length))
    return rows


def compare(
    part: str,
    what: str,
    runs: Mapping[str, Callable[[], object]],
    settings: Settings,
    target: Target | None,
    tokens: int,
) -> Row:
    """Return the speedup of the first of two `runs` over the second one, which is fairseq's Transformer."""
    log(what)
    resmlp, transformer = time_alternately(runs, settings).items()
    return make_row(part, what, "fairseq Transformer", transformer, resmlp, "seconds", target, tokens)


def measure_generate(settings: Settings, notes: list[str]) -> list[Row]:
    """Time the beam search of fairseq-generate, with sources and hypotheses of `LENGTH` tokens."""
    rows = []
    for count in GENERATE_BATCHES[settings.device]:
        what = f"fairseq-generate, beam {systems.BEAM}, batch {count}"
        source = systems.make_sentences(count, LENGTH, settings)
        searches = {
            "resmlp": systems.fairseq_search(RESMLP, settings, source, LENGTH),
            "transformer": systems.fairseq_search(TRANSFORMER, settings, source, LENGTH),
        }
        checked = with_length_check(searches, count * LENGTH)
        rows.append(compare("generate", what, checked, settings, GENERATE_TARGETS[settings.device], count * LENGTH))
        if settings.device == "cpu":
            with systems.torch_linear_only():
                rows.append(compare("generate", what + SAME_PRODUCTS, checked, settings, None, count * LENGTH))
    return rows


def with_length_check(searches: Mapping[str, Callable[[], int]], tokens: int) -> dict[str, Callable[[], int]]:
    """Wrap searches so that they raise RuntimeError unless their best hypotheses have `tokens` tokens in total."""

    def checked(name: str) -> Callable[[], int]:
        def translate() -> int:
            found = searches[name]()
            if found != tokens:
                raise RuntimeError(f"{name} generated {found} tokens instead of {tokens}")
            return found

        return translate

    return {name: checked(name) for name in searches}


def measure_memory(settings: Settings, notes: list[str]) -> list[Row]:
    """Measure the peak memory of training, once per side, each in a fresh process."""
    peaks: dict[str, list[float]] = {"resmlp": [], "transformer": []}
    count, length = TRAIN_SHAPES[settings.device][0]
    what = f"peak training memory, {count} x {length} tokens"
    log(what)
    sides = {"resmlp": (RESMLP, OWN_CRITERION), "transformer": (TRANSFORMER, FAIRSEQ_CRITERION)}
    for name, (arch, criterion) in sides.items():
        with multiprocessing.get_context("spawn").Pool(1) as process:
            peaks[name].append(process.apply(peak_memory, (arch, criterion, count, length, settings)))
    above, below = peaks.items()
    what = f"{what}, {OWN_CRITERION}"
    return [make_row("memory", what, "fairseq Transformer", above, below, "bytes", MEMORY_TARGET)]


def peak_memory(arch: str, criterion: str, count: int, length: int, settings: Settings) -> float:
    """Return the peak memory of a few training steps in bytes. Call it in a fresh process.

    On a CPU, the memory in use before the model was built is subtracted.
    """
    torch.set_num_threads(settings.threads)
    sample = systems.make_batch(count, length, settings)
    before = process_memory("VmRSS")
    trainer = systems.make_trainer(arch, settings, criterion)
    for _ in range(MEMORY_STEPS):
        trainer.train_step([sample])
    return torch.cuda.max_memory_allocated() if settings.device == "cuda" else process_memory("VmHWM") - before


def process_memory(field: str) -> float:
    """Return the resident memory of this process in bytes: VmRSS (current) or VmHWM (peak).

    ru_maxrss of getrusage is not suitable: a new process starts with the value of its parent.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        return float(re.search(rf"{field}:\s+(\d+) kB", status.read())[1]) * 1024


def measure_growth(settings: Settings, notes: list[str]) -> list[Row]:
    """Time a training step on a few long sentences, relative to many short ones with the same number of tokens."""
    rows = []
    short, long = GROWTH_SHAPES
    for arch, criterion, name in (
        (RESMLP, OWN_CRITERION, "resmlp"),
        (TRANSFORMER, FAIRSEQ_CRITERION, "transformer"),
    ):
        what = f"training time per token, {long[0]} x {long[1]}, {name}"
        log(what)
        trainer = systems.make_trainer(arch, settings, criterion)
        samples = {
            f"{count} x {length}": systems.make_batch(count, length, settings) for count, length in (long, short)
        }
        steps = {shape: partial(trainer.train_step, [sample]) for shape, sample in samples.items()}
        above, below = time_alternately(steps, settings).items()
        against = f"the same model, {below[0]}"
        tokens = long[0] * long[1]
        target = GROWTH_TARGET if arch == RESMLP else None
        rows.append(make_row("growth", what, against, above, below, "seconds", target, tokens))
    return rows


def measure_loading(settings: Settings, notes: list[str]) -> list[Row]:
    """Measure the throughput of fairseq-train, relative to its training steps alone on the same batches in memory."""
    if not os.path.isdir(settings.data):
        notes.append(f"data loading row skipped: no data in {settings.data} (run scripts/prepare.sh multi30k.en-de)")
        return []
    what = "fairseq-train with data loading and logging, resmlp_small_linear"
    log(what)
    updates = LOADING_INTERVALS * LOADING_INTERVAL
    options = systems.loading_options(settings.data, settings, updates, LOADING_INTERVAL)
    rates: dict[str, list[float]] = {"fairseq-train": [], "training steps alone": []}
    for _ in range(settings.pairs):
        rates["fairseq-train"].append(fairseq_train_rate(options, settings))
        with multiprocessing.get_context("spawn").Pool(1) as process:
            arguments = (options, settings, updates, LOADING_INTERVAL)
            rates["training steps alone"].append(process.apply(training_steps_rate, arguments))
    above, below = rates.items()
    against = "training steps alone, batches in memory"
    return [make_row("loading", what, against, above, below, "tokens per second", LOADING_TARGET)]


def training_steps_rate(options: Sequence[str], settings: Settings, updates: int, warm_up: int) -> float:
    """Return the tokens per second of training steps alone, with batches in memory, after `warm_up` of `updates`.

    Call it in a fresh process: oneDNN generates code for each shape when it first occurs, and keeps it.
    """
    torch.set_num_threads(settings.threads)
    trainer = systems.trainer_from_options([*options, "--num-workers", "0"])  # a daemonic process cannot have workers
    batches = list(islice(trainer.get_train_iterator(1).next_epoch_itr(shuffle=True), updates))
    if len(batches) <= warm_up:
        raise InputError(f"{settings.data} has only {len(batches)} batches, too few for this measurement")
    for position, sample in enumerate(batches):
        if position == warm_up:
            settings.wait()
            start = time.perf_counter()
        trainer.train_step([sample])
    settings.wait()
    return sum(sample["ntokens"] for sample in batches[warm_up:]) / (time.perf_counter() - start)


def fairseq_train_rate(options: Sequence[str], settings: Settings) -> float:
    """Return the tokens per second of fairseq-train, from its log after the first interval."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "fairseq_cli.train", *options, "--save-dir", directory]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
    intervals = [
        json.loads(line[line.index("{") :])
        for line in done.stdout.splitlines()
        if "train_inner" in line and '"wps"' in line
    ][1:]
    if done.returncode or not intervals:
        raise InputError(f"fairseq-train failed on {options[0]}:\n{done.stdout[-2000:]}")
    tokens = [float(interval["wpb"]) for interval in intervals]
    return sum(tokens) / sum(count / float(interval["wps"]) for count, interval in zip(tokens, intervals, strict=True))


def measure_fast(settings: Settings, notes: list[str]) -> list[Row]:
    """Compare the inference engine with CTranslate2, each with the faster of float32 and int8 in one run.

    Each runs in its own process. If several use libgomp in one process, it counts more threads than cores and lets
    waiting threads sleep at once, which halves the speed of either with small batches.
    """
    log("converting models")
    resmlp, ctranslate2 = ([f"{name} {dtype}" for dtype in ("float32", "int8")] for name in ("resmlp", "CTranslate2"))
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(spawn.Pool(1, init_search_process, (name, settings)))
            for name in resmlp + ctranslate2
        }
        for use_shortlist in (False, True):
            for count in GENERATE_BATCHES["cpu"]:
                what = f"inference engine, beam {systems.BEAM}, batch {count}"
                what += ", shortlist" if use_shortlist else ""
                log(what)
                source = systems.make_sentences(count, LENGTH, settings)
                searches = {
                    name: partial(process.apply, search_in_process, (source, LENGTH, use_shortlist))
                    for name, process in processes.items()
                }
                checked = with_length_check(searches, count * LENGTH)
                tried = time_alternately(checked, replace(settings, pairs=1))
                fastest = [min(names, key=tried.__getitem__) for names in (resmlp, ctranslate2)]
                seconds = time_alternately({name: checked[name] for name in fastest}, settings)
                below, above = ((name, seconds[name]) for name in fastest)
                target = (SHORTLIST_TARGETS if use_shortlist else FAST_TARGETS).get(count)
                row = make_row("fast", what, fastest[1], above, below, "seconds", target, count * LENGTH)
                rows.append({**row, "tried": tried})
    return rows


_search: systems.Search  # set by `init_search_process`


def init_search_process(name: str, settings: Settings) -> None:
    """Prepare a fresh process for `search_in_process`. `name` is a system and a data type."""
    global _search
    system, dtype = name.split()
    torch.set_num_threads(settings.threads if system == "resmlp" else 1)
    make = systems.resmlp_search if system == "resmlp" else systems.ctranslate2_search
    _search = make(settings, dtype)


def search_in_process(source: torch.Tensor, length: int, use_shortlist: bool = False, beam: int = systems.BEAM) -> int:
    """Call the prepared `systems.Search`."""
    return _search(source, length, use_shortlist, beam)


def measure_breakdown(settings: Settings) -> list[dict[str, Any]]:
    """Profile a training step and a beam search of both models, and time their matrix products alone."""
    found = []
    count, length = TRAIN_SHAPES[settings.device][0]
    sample = systems.make_batch(count, length, settings)
    batch = GENERATE_BATCHES[settings.device][1]
    source = systems.make_sentences(batch, LENGTH, settings)
    for name, arch, criterion in (
        ("resmlp", RESMLP, OWN_CRITERION),
        ("transformer", TRANSFORMER, FAIRSEQ_CRITERION),
    ):
        trainer = systems.make_trainer(arch, settings, criterion)
        runs = {
            f"training step, {count} x {length} tokens": (
                partial(trainer.train_step, [sample]),
                breakdown.train_products(arch, count, length, settings),
            ),
            f"fairseq-generate, beam {systems.BEAM}, batch {batch}": (
                systems.fairseq_search(arch, settings, source, LENGTH),
                breakdown.search_products(arch, batch, LENGTH, LENGTH, settings),
            ),
        }
        for what, (run, products) in runs.items():
            log(f"profiling {what}, {name}")
            profile = breakdown.profile_run(run, settings)
            floors = breakdown.time_products(products, settings)
            found.append(
                {
                    "what": what,
                    "of": name,
                    **profile,
                    "floor_ms": {function: seconds * 1000 for function, seconds in floors.items()},
                    "floor_fraction": {
                        function: seconds * 1000 / profile["unprofiled_ms"] for function, seconds in floors.items()
                    },
                    "products": [product._asdict() for product in products],
                }
            )
    return found + (profile_engine(settings) if settings.device == "cpu" else [])


def profile_engine(settings: Settings) -> list[dict[str, Any]]:
    """Profile the inference engine in int8. `breakdown.time_products` times products in floating point only."""
    search = systems.resmlp_search(settings, "int8")
    found = []
    for batch in GENERATE_BATCHES["cpu"]:
        what = f"inference engine, int8, beam {systems.BEAM}, batch {batch}"
        log(f"profiling {what}")
        source = systems.make_sentences(batch, LENGTH, settings)
        profile = breakdown.profile_run(partial(search, source, LENGTH), settings)
        products = breakdown.search_products(RESMLP, batch, LENGTH, LENGTH, settings)
        products = [product._asdict() for product in products]
        found.append(
            {"what": what, "of": "resmlp", **profile, "floor_ms": {}, "floor_fraction": {}, "products": products}
        )
    return found


PARTS: dict[str, Callable[[Settings, list[str]], list[Row]]] = {
    "train": measure_train,
    "generate": measure_generate,
    "fast": measure_fast,
    "memory": measure_memory,
    "growth": measure_growth,
    "loading": measure_loading,
}


def measure(settings: Settings, parts: Sequence[str], without_ctranslate2: bool = False) -> dict[str, Any]:
    """Run parts of the benchmark, with progress messages on stderr.

    Args:
        settings: settings of all measurements
        parts: keys of `PARTS`, and "profile"
        without_ctranslate2: skip the rows that need CTranslate2

    Returns:
        the content of the JSON file: rows, profile, notes on skipped rows, settings, versions, machine and date

    Raises:
        InputError: a part is unknown, or CTranslate2 is not installed and its rows are not skipped
    """
    unknown = set(parts) - {*PARTS, "profile"}
    if unknown:
        raise InputError(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join([*PARTS, 'profile'])}")
    notes: list[str] = []
    rows: list[Row] = []
    torch.set_num_threads(settings.threads)
    if "fast" in parts and settings.device == "cuda":
        notes.append("inference engine rows skipped: CTranslate2 is compared on CPUs only")
    elif "fast" in parts and without_ctranslate2:
        notes.append("inference engine rows skipped: --without-ctranslate2")
    elif "fast" in parts:
        systems.import_ctranslate2()  # fail before minutes of other measurements
    for part, measure_part in PARTS.items():
        if part in parts and not (part == "fast" and (without_ctranslate2 or settings.device == "cuda")):
            log(f"{part}: about {MINUTES[part]} min with the default dimensions", indent=0)
            rows += measure_part(settings, notes)
    profile = []
    if "profile" in parts:
        log(f"profile: about {MINUTES['profile']} min with the default dimensions", indent=0)
        profile = measure_breakdown(settings)
    return {
        "rows": rows,
        "breakdown": profile,
        "notes": notes,
        **benchmark_environment(settings),
    }


def parts_to_keep(earlier: dict[str, Any], settings: Settings, parts: Sequence[str]) -> dict[str, Any]:
    """Return the results of an earlier run except those of `parts`.

    Raises:
        InputError: they were measured on another machine, or with other settings or versions, so that one table would
            mix both
    """
    kept = {
        "rows": [row for row in earlier["rows"] if row["part"] not in parts],
        "breakdown": [] if "profile" in parts else earlier["breakdown"],
    }
    if kept["rows"] or kept["breakdown"]:
        now = benchmark_environment(settings)
        earlier["settings"].setdefault("neighbours", 0)
        earlier.setdefault("waiting", {})
        for what in ("machine", "settings", "versions", "waiting"):
            same = earlier[what] == now[what] if what == "waiting" else {**now[what], **earlier[what]} == now[what]
            if not same:
                raise InputError(
                    f"--out contains parts measured with {what} {earlier[what]} instead of {now[what]}; specify "
                    "another --out"
                )
    return kept


def merge(kept: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the results of `parts_to_keep` to new ones, in the order of a complete run."""
    order = list(PARTS)
    rows = sorted(kept["rows"] + found["rows"], key=lambda row: order.index(row["part"]))
    return {**found, "rows": rows, "breakdown": found["breakdown"] or kept["breakdown"]}


def log(message: str, indent: int = 2) -> None:
    """Print a progress message to stderr."""
    click.echo(" " * indent + message, err=True)


def benchmark_environment(settings: Settings) -> dict[str, Any]:
    """Return settings, waiting policy of OpenMP, versions, machine, date and command."""
    found = environment_info(("torch", "fairseq", "numpy", "ctranslate2"))
    found["machine"]["threads"] = settings.threads
    if settings.device == "cpu":
        found["machine"]["gpu"] = None  # it was not used
    waiting = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    return {"settings": {**settings.__dict__, "optimizer": "adam (fairseq)"}, "waiting": waiting, **found}


def results_text(found: dict[str, Any]) -> str:
    """Return the results as text for a terminal."""
    kinds = [tables.speed(found), tables.breakdown(found)]
    blocks = [tables.aligned(kind) for kind in kinds if len(kind) > 1]
    return "\n".join([*blocks, *(f"{note}\n" for note in found["notes"]), tables.about(found)])


class Benchmark(click.Command):
    """A command that reports what users can fix in one line."""

    def invoke(self, context: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(context)


@click.command(cls=Benchmark)
@click.option("--out", type=click.Path(dir_okay=False), help="JSON file for the results.")
@click.option(
    "--only",
    metavar="PART[,PART...]",
    help="Parts to measure: train, generate, fast (the inference engine), memory, growth, loading, profile. Other "
    "parts in an existing --out are kept.",
)
@click.option("--pairs", default=5, type=click.IntRange(min=1), show_default=True, help="Number of timings per side.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads per side (default: all cores).")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]), show_default=True, help="Device.")
@click.option(
    "--neighbours",
    default=0,
    type=click.IntRange(min=0),
    show_default=True,
    help="Number of busy processes that run during the measurements.",
)
@click.option(
    "--data",
    default="runs/multi30k.en-de/data-bin",
    show_default=True,
    help="Binarized data for the loading part, as made by scripts/prepare.sh.",
)
@click.option("--without-ctranslate2", is_flag=True, help="Skip the rows that compare with CTranslate2.")
@click.option("--d", default=512, show_default=True, help="Embedding dimension of both models.")
@click.option("--hidden", default=2048, show_default=True, help="Hidden size of the feed-forward layers.")
@click.option("--layers", default=6, show_default=True, help="Number of layers in each of encoder and decoder.")
@click.option("--heads", default=8, show_default=True, help="Number of attention heads.")
@click.option("--vocabulary", default=32_000, show_default=True, help="Size of the joint dictionary.")
@click.option(
    "--resmlp", default="", help="Further options of ResMLP, for example '--token-mixing toeplitz --mixing-heads 16'."
)
def main(out: str | None, only: str | None, threads: int | None, without_ctranslate2: bool, **options: Any) -> None:
    """Compare speed and memory with fairseq's Transformer of the same dimensions, and with CTranslate2.

    The two sides of a row are timed alternately (A B A B), and the result is the median ratio of these pairs. The
    models have random weights, and only the loading part reads data. The whole benchmark takes about half an hour on
    two cores.
    """
    settings = Settings(threads=threads or available_cores(), **options)
    check_device(settings.device)
    parts = only.split(",") if only else [*PARTS, "profile"]
    kept: dict[str, Any] = {"rows": [], "breakdown": []}
    if out and only and os.path.exists(out):
        with open(out, encoding="utf-8") as file:
            kept = parts_to_keep(json.load(file), settings, parts)
    with neighbours(settings.neighbours, LONGEST):
        found = merge(kept, measure(settings, parts, without_ctranslate2))
    if out:
        with atomic_write(out) as partial_file, open(partial_file, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    click.echo(results_text(found))


if __name__ == "__main__":
    main()
