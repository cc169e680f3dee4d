"""Time per token of translation by length, beam size, batch size and vocabulary, compared with CTranslate2.

    python scripts/benchmark/growth.py --out docs/measured/growth.json

Both systems translate in int8, with models of the same dimensions and random weights. They are timed alternately, each
in a process of its own.
"""

import json
import multiprocessing
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby
from multiprocessing.pool import Pool
from statistics import median
from typing import Any

import click

import systems
from bench import (
    Benchmark,
    benchmark_environment,
    init_search_process,
    log,
    search_in_process,
    time_alternately,
    with_length_check,
)
from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.threads import available_cores
from systems import Settings

SYSTEMS = {"inference engine": "resmlp int8", "CTranslate2": "CTranslate2 int8"}
# What varies, and its values. Everything else is as in USUAL.
SWEEPS = {
    "length": (16, 30, 60, 120, 250),
    "beam": (1, 2, 4, 8, 16),
    "batch": (1, 4, 16, 64, 256),
    "vocabulary": (8_000, 16_000, 32_000, 64_000),
}
USUAL = {"length": 30, "beam": 4, "batch": 16, "vocabulary": 32_000}
LONG_BATCH = 4  # sentences in the sweep over lengths


def points() -> list[dict[str, Any]]:
    """Return the points to measure, those with the same vocabulary together."""
    found = [
        {**USUAL, **({"batch": LONG_BATCH} if sweep == "length" else {}), "sweep": sweep, sweep: value}
        for sweep, values in SWEEPS.items()
        for value in values
    ]
    return sorted(found, key=lambda point: point["vocabulary"])


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Return the points with `microseconds`: the time per token of each system, one value per pair.

    A point of several sweeps is measured once.
    """
    rows = []
    measured: dict[tuple[int, ...], dict[str, list[float]]] = {}
    spawn = multiprocessing.get_context("spawn")
    for vocabulary, group in groupby(points(), key=lambda point: point["vocabulary"]):
        sized = replace(settings, vocabulary=vocabulary)
        log(f"converting models with a vocabulary of {vocabulary:,}")
        with ExitStack() as stack:
            processes = {
                name: stack.enter_context(spawn.Pool(1, init_search_process, (kind, sized)))
                for name, kind in SYSTEMS.items()
            }
            for point in group:
                place = tuple(point[name] for name in USUAL)
                if place not in measured:
                    log(", ".join(f"{name} {point[name]}" for name in USUAL))
                    measured[place] = time_point(point, processes, sized)
                rows.append({**point, "microseconds": measured[place]})
    return sorted(rows, key=lambda row: list(SWEEPS).index(row["sweep"]))


def time_point(point: dict[str, Any], processes: dict[str, Pool], settings: Settings) -> dict[str, list[float]]:
    """Return the microseconds per token of each system, one value per pair."""
    source = systems.make_sentences(point["batch"], point["length"], settings)
    arguments = (source, point["length"], False, point["beam"])
    searches = {name: partial(process.apply, search_in_process, arguments) for name, process in processes.items()}
    tokens = point["batch"] * point["length"]
    seconds = time_alternately(with_length_check(searches, tokens), settings)
    return {name: [second / tokens * 1e6 for second in seconds[name]] for name in SYSTEMS}


@click.command(cls=Benchmark)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="JSON file for the measurements.")
@click.option("--pairs", default=3, type=click.IntRange(min=1), show_default=True, help="Number of timings per side.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads per side (default: all cores).")
@click.option("--d", default=512, show_default=True, help="Embedding dimension of both models.")
@click.option("--hidden", default=2048, show_default=True, help="Hidden size of the feed-forward layers.")
@click.option("--layers", default=6, show_default=True, help="Number of layers in each of encoder and decoder.")
@click.option("--heads", default=8, show_default=True, help="Number of attention heads.")
def main(out: str, threads: int | None, **options: Any) -> None:
    """Measure how the time per token grows, compared with CTranslate2. It takes about eight minutes on two cores."""
    settings = Settings(threads=threads or available_cores(), **options)
    systems.import_ctranslate2()  # fail before minutes of measurements
    rows = measure(settings)
    for row in rows:
        ours, theirs = (median(row["microseconds"][name]) for name in SYSTEMS)
        click.echo(f"{row['sweep']} {row[row['sweep']]:,}: {ours:.0f} and {theirs:.0f} µs per token")
    with open_output(out) as file:
        found = {"rows": rows, "usual": {**USUAL, "long_batch": LONG_BATCH}, **benchmark_environment(settings)}
        del found["command"]
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
