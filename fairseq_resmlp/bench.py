"""`fairseq-resmlp bench`: how fast training and translation are, against others on the same machine at the same time.

The two sides of a row are timed in turn, A B A B, in one run, and a row's figure is the median of the ratios of these
pairs: whatever else the machine does meets both sides. Neither side sees padding, and both translate into exactly as
many tokens.
"""

import json
import math
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from itertools import islice
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import click
import torch

from . import breakdown, speed_table, systems
from .errors import InputError
from .systems import FAIRSEQ_CRITERION, OWN_CRITERION, RESMLP, TRANSFORMER, Settings

Row = Dict[str, Any]

TRAIN_SHAPES = {"cpu": ((32, 30), (8, 120)), "cuda": ((512, 30), (128, 120))}  # sentences x tokens
GENERATE_BATCHES = {"cpu": (64, 16, 1), "cuda": (512, 64, 1)}
LENGTH = 30  # tokens of sources and hypotheses, with their end-of-sentence marks
GROWTH_SHAPES = ((64, 32), (8, 256))
MEMORY_STEPS = 3
OWN_PRODUCTS = ", by torch's own products on both sides"
LOADING_INTERVALS, LOADING_INTERVAL = 6, 10  # of the log; the first one is for warming up
MINUTES = {"train": 4, "generate": 3, "fast": 3, "memory": 1, "growth": 3, "loading": 2, "profile": 3}  # on two cores


class Target(NamedTuple):
    """What a row's median must be at least, or at most."""

    bound: str
    value: float

    def reached(self, ratio: float) -> bool:
        return ratio >= self.value if self.bound == "at least" else ratio <= self.value


# Of issue 5, for each device.
TRAIN_TARGETS = {
    "cpu": {FAIRSEQ_CRITERION: Target("at least", 1.3), OWN_CRITERION: Target("at least", 1.45)},
    "cuda": {FAIRSEQ_CRITERION: Target("at least", 1.6), OWN_CRITERION: Target("at least", 1.6)},
}
GENERATE_TARGETS = {"cpu": Target("at least", 1.25), "cuda": Target("at least", 1.6)}
FAST_TARGETS = {64: Target("at least", 2.0), 16: Target("at least", 2.0), 1: Target("at least", 3.0)}
MEMORY_TARGET, GROWTH_TARGET = Target("at most", 0.8), Target("at most", 1.3)
LOADING_TARGET = Target("at least", 0.95)


def make_row(
    part: str,
    what: str,
    against: str,
    above: Tuple[str, List[float]],
    below: Tuple[str, List[float]],
    unit: str,
    target: Optional[Target],
    tokens: Optional[int] = None,
) -> Row:
    """A row of the table: the ratios of what was measured `above` to what was measured `below`, pair by pair."""
    ratios = [a / b for a, b in zip(above[1], below[1])]
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


def interleaved(
    runs: Dict[str, Callable[[], object]], settings: Settings, pairs: Optional[int] = None
) -> Dict[str, List[float]]:
    """Seconds of each of `runs`, timed in turn, after one round to warm up.

    A short one is repeated to take `settings.shortest`. Before each, the threads of the one before are given time to
    fall asleep: those of OpenMP wait for more work by spinning, and there are several OpenMPs in one process.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in runs}
    times: Dict[str, int] = {}
    for turn in range(1 + (pairs or settings.pairs)):
        for name, run in runs.items():
            if not turn:
                run()
            settings.wait()
            time.sleep(settings.pause)
            start = time.perf_counter()
            for _ in range(times.get(name, 1)):
                run()
            settings.wait()
            taken = (time.perf_counter() - start) / times.get(name, 1)
            if turn:
                seconds[name].append(taken)
            else:
                times[name] = max(1, math.ceil(settings.shortest / taken))
    return seconds


def measure_train(settings: Settings, notes: List[str]) -> List[Row]:
    """A step of fairseq's trainer with Adam: forward, loss, backward, clipping, the optimizer's step."""
    kinds = [("float32", FAIRSEQ_CRITERION), ("float32", OWN_CRITERION), ("bfloat16", OWN_CRITERION)]
    if settings.device == "cuda":
        kinds = [("bfloat16", FAIRSEQ_CRITERION), ("bfloat16", OWN_CRITERION)]
    elif "avx512_bf16" not in processor()[1]:
        notes.append("no bfloat16 rows: this CPU has no avx512_bf16")
        kinds = kinds[:2]
    rows = []
    for dtype, criterion in kinds:
        trainers = {
            "resmlp": systems.trainer(RESMLP, settings, criterion, dtype == "bfloat16"),
            "transformer": systems.trainer(TRANSFORMER, settings, FAIRSEQ_CRITERION, dtype == "bfloat16"),
        }
        target = TRAIN_TARGETS[settings.device][criterion] if (settings.device, dtype) != ("cpu", "bfloat16") else None
        for count, length in TRAIN_SHAPES[settings.device]:
            sample = systems.batch(count, length, settings)
            what = f"train, {count} x {length} tokens, {dtype}, {criterion}"
            steps = {name: partial(side.train_step, [sample]) for name, side in trainers.items()}
            rows.append(compare("train", what, steps, settings, target, count * length))
            if (dtype, criterion) == ("float32", FAIRSEQ_CRITERION):
                with systems.torchs_own_products():
                    rows.append(compare("train", what + OWN_PRODUCTS, steps, settings, None, count * length))
    return rows


def compare(
    part: str,
    what: str,
    runs: Dict[str, Callable[[], object]],
    settings: Settings,
    target: Optional[Target],
    tokens: int,
) -> Row:
    """Time the two `runs` in turn: how many times as fast the first is as the second, fairseq's Transformer."""
    tell(what)
    ours, theirs = interleaved(runs, settings).items()
    return make_row(part, what, "fairseq transformer", theirs, ours, "seconds", target, tokens)


def measure_generate(settings: Settings, notes: List[str]) -> List[Row]:
    """fairseq-generate's beam search for 30 tokens a sentence, of 30 tokens each."""
    rows = []
    for count in GENERATE_BATCHES[settings.device]:
        what = f"fairseq-generate, beam {systems.BEAM}, batch {count}"
        source = systems.sentences(count, LENGTH, settings)
        searches = {
            "resmlp": systems.search(RESMLP, settings, source, LENGTH),
            "transformer": systems.search(TRANSFORMER, settings, source, LENGTH),
        }
        checked = same_length(searches, count * LENGTH)
        rows.append(compare("generate", what, checked, settings, GENERATE_TARGETS[settings.device], count * LENGTH))
        if settings.device == "cpu":
            with systems.torchs_own_products():
                rows.append(compare("generate", what + OWN_PRODUCTS, checked, settings, None, count * LENGTH))
    return rows


def same_length(searches: Dict[str, Callable[[], int]], tokens: int) -> Dict[str, Callable[[], int]]:
    """The same searches, which raise RuntimeError unless the hypotheses of each have `tokens` tokens."""

    def checked(name: str) -> Callable[[], int]:
        def translate() -> int:
            found = searches[name]()
            if found != tokens:
                raise RuntimeError(f"{name} made {found} tokens and not {tokens}")
            return found

        return translate

    return {name: checked(name) for name in searches}


def measure_memory(settings: Settings, notes: List[str]) -> List[Row]:
    """The most memory of a training, each in a process of its own, above what it had before the model was built."""
    peaks: Dict[str, List[float]] = {"resmlp": [], "transformer": []}
    count, length = TRAIN_SHAPES[settings.device][0]
    what = f"peak memory of training, {count} x {length} tokens"
    tell(what)
    sides = {"resmlp": (RESMLP, OWN_CRITERION), "transformer": (TRANSFORMER, FAIRSEQ_CRITERION)}
    for name, (arch, criterion) in sides.items():
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            peaks[name].append(fresh.apply(peak_memory, (arch, criterion, count, length, settings)))
    above, below = peaks.items()
    what = f"{what}, {OWN_CRITERION}"
    return [make_row("memory", what, "fairseq transformer", above, below, "bytes", MEMORY_TARGET)]


def peak_memory(arch: str, criterion: str, count: int, length: int, settings: Settings) -> float:
    """Bytes that some steps of training take at most. To be called in a process that has done nothing else."""
    torch.set_num_threads(settings.threads)
    sample = systems.batch(count, length, settings)
    before = resident("VmRSS")
    trainer = systems.trainer(arch, settings, criterion)
    for _ in range(MEMORY_STEPS):
        trainer.train_step([sample])
    return torch.cuda.max_memory_allocated() if settings.device == "cuda" else resident("VmHWM") - before


def resident(name: str) -> float:
    """Bytes of this process in memory: VmRSS now, VmHWM at most.

    getrusage's ru_maxrss is not less than what the process that started this one had.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        return float(re.search(rf"{name}:\s+(\d+) kB", status.read())[1]) * 1024


def measure_growth(settings: Settings, notes: List[str]) -> List[Row]:
    """A training step on few long sentences, relative to one on many short ones with as many tokens."""
    rows = []
    short, long = GROWTH_SHAPES
    for arch, criterion, name in (
        (RESMLP, OWN_CRITERION, "resmlp"),
        (TRANSFORMER, FAIRSEQ_CRITERION, "transformer"),
    ):
        what = f"time a token in training at {long[0]} x {long[1]}, {name}"
        tell(what)
        trainer = systems.trainer(arch, settings, criterion)
        samples = {f"{count} x {length}": systems.batch(count, length, settings) for count, length in (long, short)}
        steps = {shape: partial(trainer.train_step, [sample]) for shape, sample in samples.items()}
        seconds = interleaved(steps, settings)
        above, below = seconds.items()
        against = f"itself at {below[0]}"
        tokens = long[0] * long[1]
        target = GROWTH_TARGET if arch == RESMLP else None
        rows.append(make_row("growth", what, against, above, below, "seconds", target, tokens))
    return rows


def measure_loading(settings: Settings, notes: List[str]) -> List[Row]:
    """fairseq-train by its own log, against the bare steps over the same batches in memory."""
    if not os.path.isdir(settings.data):
        notes.append(f"no row of data loading: no data in {settings.data} (scripts/prepare.sh multi30k.en-de)")
        return []
    what = "fairseq-train with loading and logging, resmlp_small_linear"
    tell(what)
    updates = LOADING_INTERVALS * LOADING_INTERVAL
    words = systems.real_training(settings.data, settings, updates, LOADING_INTERVAL)
    rates: Dict[str, List[float]] = {"fairseq-train": [], "bare steps": []}
    for _ in range(settings.pairs):
        rates["fairseq-train"].append(logged_rate(words, settings))
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            rates["bare steps"].append(fresh.apply(bare_rate, (words, settings, updates, LOADING_INTERVAL)))
    above, below = rates.items()
    return [make_row("loading", what, "the bare steps in memory", above, below, "tokens a second", LOADING_TARGET)]


def bare_rate(words: Sequence[str], settings: Settings, updates: int, warm_up: int) -> float:
    """Tokens a second of the same steps alone, over batches in memory, after the first `warm_up` of `updates`.

    To be called in a process that has done nothing else: oneDNN makes a program for each shape when it first meets it,
    and keeps it.
    """
    torch.set_num_threads(settings.threads)
    trainer = systems.real_trainer([*words, "--num-workers", "0"])  # this process is not allowed a worker
    batches = list(islice(trainer.get_train_iterator(1).next_epoch_itr(shuffle=True), updates))
    if len(batches) <= warm_up:
        raise InputError(f"{settings.data} has no more than {len(batches)} batches, too few to measure anything")
    for position, sample in enumerate(batches):
        if position == warm_up:  # as in the log, the first interval is for warming up
            settings.wait()
            start = time.perf_counter()
        trainer.train_step([sample])
    settings.wait()
    return sum(sample["ntokens"] for sample in batches[warm_up:]) / (time.perf_counter() - start)


def logged_rate(words: Sequence[str], settings: Settings) -> float:
    """Tokens a second of fairseq-train, from its log after the first interval."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fairseq_cli.train", *words, "--save-dir", folder]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
    intervals = [
        json.loads(line[line.index("{") :])
        for line in done.stdout.splitlines()
        if "train_inner" in line and '"wps"' in line
    ][1:]
    if done.returncode or not intervals:
        raise InputError(f"fairseq-train failed on {words[0]}:\n{done.stdout[-2000:]}")
    tokens = [float(interval["wpb"]) for interval in intervals]
    return sum(tokens) / sum(count / float(interval["wps"]) for count, interval in zip(tokens, intervals))


def measure_fast(settings: Settings, notes: List[str]) -> List[Row]:
    """The fast path against CTranslate2, each with the faster of float32 and int8.

    Each in a process of its own: where two use libgomp in one process, it counts more threads than cores and lets them
    fall asleep at once, which makes either half as fast with small batches.
    """
    tell("converting models")
    ours, theirs = ([f"{name} {kind}" for kind in ("float32", "int8")] for name in ("resmlp", "CTranslate2"))
    fresh = multiprocessing.get_context("spawn")
    rows = []
    with ExitStack() as stack:
        processes = {name: stack.enter_context(fresh.Pool(1, start, (name, settings))) for name in ours + theirs}
        for use_shortlist in (False, True):
            for count in GENERATE_BATCHES["cpu"]:
                what = f"fast path, beam {systems.BEAM}, batch {count}" + (", shortlist" if use_shortlist else "")
                tell(what)
                source = systems.sentences(count, LENGTH, settings)
                searches = {
                    name: partial(process.apply, search, (source, use_shortlist)) for name, process in processes.items()
                }
                seconds = interleaved(same_length(searches, count * LENGTH), settings)
                best = [min(names, key=lambda name: median(seconds[name])) for names in (ours, theirs)]
                below, above = ((name, seconds[name]) for name in best)
                target = FAST_TARGETS.get(count)
                row = make_row("fast", what, best[1], above, below, "seconds", target, count * LENGTH)
                rows.append({**row, "measured": seconds})
    return rows


_search: systems.Search  # of a process that `start` has prepared


def start(name: str, settings: Settings) -> None:
    """Prepare a fresh process for `search`."""
    global _search
    system, kind = name.split()
    torch.set_num_threads(settings.threads if system == "resmlp" else 1)
    make = systems.resmlp_search if system == "resmlp" else systems.ctranslate2_search
    _search = make(settings, LENGTH, kind)


def search(source: torch.Tensor, use_shortlist: bool) -> int:
    """Translate once, in a process that is prepared: the number of tokens of the best hypotheses."""
    return _search(source, use_shortlist)


def measure_breakdown(settings: Settings) -> List[Dict[str, Any]]:
    """Where the time goes: a training step and a beam search of either side, and what they could not do without."""
    found = []
    count, length = TRAIN_SHAPES[settings.device][0]
    sample = systems.batch(count, length, settings)
    batch = GENERATE_BATCHES[settings.device][1]
    source = systems.sentences(batch, LENGTH, settings)
    for name, arch, criterion in (
        ("resmlp", RESMLP, OWN_CRITERION),
        ("transformer", TRANSFORMER, FAIRSEQ_CRITERION),
    ):
        trainer = systems.trainer(arch, settings, criterion)
        runs = {
            f"train, {count} x {length} tokens": (
                partial(trainer.train_step, [sample]),
                breakdown.train_products(arch, count, length, settings),
            ),
            f"fairseq-generate, beam {systems.BEAM}, batch {batch}": (
                systems.search(arch, settings, source, LENGTH),
                breakdown.search_products(arch, batch, LENGTH, LENGTH, settings),
            ),
        }
        for what, (run, products) in runs.items():
            tell(f"where the time goes: {what}, {name}")
            spent = breakdown.breakdown(run, settings)
            floors = breakdown.floor(products, settings)
            found.append(
                {
                    "what": what,
                    "of": name,
                    **spent,
                    "floor_ms": {function: seconds * 1000 for function, seconds in floors.items()},
                    "floor_fraction": {
                        function: seconds * 1000 / spent["unprofiled_ms"] for function, seconds in floors.items()
                    },
                    "products": [product._asdict() for product in products],
                }
            )
    return found


PARTS: Dict[str, Callable[[Settings, List[str]], List[Row]]] = {
    "train": measure_train,
    "generate": measure_generate,
    "fast": measure_fast,
    "memory": measure_memory,
    "growth": measure_growth,
    "loading": measure_loading,
}


def measure(settings: Settings, parts: Sequence[str], without_ctranslate2: bool = False) -> Dict[str, Any]:
    """Measure the named parts, those of `PARTS` and "profile", and say on stderr what is being measured.

    Returns:
        what goes into the JSON: rows, where the time goes, notes on what was left out, versions, machine, date

    Raises:
        InputError: there is no such part, or ctranslate2 is not installed and its rows were not left out by name
    """
    unknown = set(parts) - {*PARTS, "profile"}
    if unknown:
        raise InputError(f"no part {', '.join(sorted(unknown))}: there are {', '.join([*PARTS, 'profile'])}")
    notes: List[str] = []
    rows: List[Row] = []
    torch.set_num_threads(settings.threads)
    if "fast" in parts and settings.device == "cuda":
        notes.append("no rows of the fast path: CTranslate2 is compared on CPUs alone")
    elif "fast" in parts and without_ctranslate2:
        notes.append("no rows of the fast path: --without-ctranslate2")
    elif "fast" in parts:
        systems.need_ctranslate2()  # before minutes of other measurements
    for part, measure_part in PARTS.items():
        if part in parts and not (part == "fast" and (without_ctranslate2 or settings.device == "cuda")):
            tell(f"{part}: about {MINUTES[part]} minutes at the default size", 0)
            rows += measure_part(settings, notes)
    spent = []
    if "profile" in parts:
        tell(f"profile: about {MINUTES['profile']} minutes at the default size", 0)
        spent = measure_breakdown(settings)
    return {
        "rows": rows,
        "breakdown": spent,
        "notes": notes,
        **surroundings(settings),
    }


def staying(earlier: Dict[str, Any], settings: Settings, parts: Sequence[str]) -> Dict[str, Any]:
    """What was found earlier of other parts than these, to which `renew` adds what is measured now.

    Raises:
        InputError: it is of another machine, other settings or versions: one table would tell of both
    """
    stay = {
        "rows": [row for row in earlier["rows"] if row["part"] not in parts],
        "breakdown": [] if "profile" in parts else earlier["breakdown"],
    }
    if stay["rows"] or stay["breakdown"]:
        now = surroundings(settings)
        for what in ("machine", "settings", "versions"):
            if {**now[what], **earlier[what]} != now[what]:
                raise InputError(
                    f"the other parts in --out have other {what}, {earlier[what]}, than what would be measured, "
                    f"{now[what]}: give another --out"
                )
    return stay


def renew(stay: Dict[str, Any], found: Dict[str, Any]) -> Dict[str, Any]:
    """What was found, and what stays beside it, in the order of a run of all."""
    order = list(PARTS)
    rows = sorted(stay["rows"] + found["rows"], key=lambda row: order.index(row["part"]))
    return {**found, "rows": rows, "breakdown": found["breakdown"] or stay["breakdown"]}


def tell(what: str, indent: int = 2) -> None:
    click.echo(" " * indent + what, err=True)


def surroundings(settings: Settings) -> Dict[str, Any]:
    """Settings, versions, machine, date and command."""
    from . import __version__

    versions: Dict[str, Optional[str]] = {"fairseq-resmlp": __version__, "python": platform.python_version()}
    versions.update({name: version(name) for name in ("torch", "fairseq", "numpy", "ctranslate2")})
    name, flags = processor()
    return {
        "settings": {**settings.__dict__, "optimizer": "adam, of fairseq"},
        "versions": versions,
        "machine": {
            "cpu": name,
            "flags": flags,
            "cores": len(os.sched_getaffinity(0)),
            "threads": settings.threads,
            "gpu": torch.cuda.get_device_name(0) if settings.device == "cuda" else None,
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["fairseq-resmlp", *sys.argv[1:]]),
    }


def version(module: str) -> Optional[str]:
    """Version of an installed module, None where it is not installed."""
    try:
        return str(import_module(module).__version__)
    except ImportError:
        return None


def processor() -> Tuple[str, List[str]]:
    """Name of the CPU, and those of its vector instructions that matter here."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        info = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines())
    told = {name.strip(): value.strip() for name, value in info.items()}
    matter = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
    flags = told.get("flags", "").split()
    return told.get("model name", platform.processor()), [flag for flag in matter if flag in flags]


def table(found: Dict[str, Any]) -> str:
    """What was measured, as text for a terminal."""
    kinds = [speed_table.speed(found), speed_table.breakdown(found)]
    blocks = [speed_table.aligned(kind) for kind in kinds if len(kind) > 1]
    return "\n".join([*blocks, *(f"{note}\n" for note in found["notes"]), speed_table.about(found)])
