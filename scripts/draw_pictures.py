"""Draw the pictures of the documentation from the JSON files of the measurements: docs/pictures/NAME.svg.

    python scripts/draw_pictures.py

The metadata of each picture contain the SHA-256 of its JSON files and of the code.
"""

import hashlib
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fairseq_resmlp.report.plots import STYLE, line_styles

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
CORPORA = {"multi30k.en-de": "Multi30k En-De", "multi30k.en-fr": "Multi30k En-Fr", "tatoeba.en-de": "Tatoeba En-De"}
MODELS = ("transformer-pre-norm", "linear-layernorm", "toeplitz-linear", "resmlp_small")  # each keeps its style


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, (draw, files) in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            figure = draw([json.loads(path.read_text(encoding="utf-8")) for path in files])
            content = io.BytesIO()
            figure.savefig(content, format="svg", metadata={"Date": None, "Source": sources(files)})
        (OUT / f"{name}.svg").write_bytes(content.getvalue())


def sources(files: list[Path]) -> str:
    """Return the names and SHA-256 of JSON files, and of the code that draws them."""
    code = [Path(__file__), ROOT / "fairseq_resmlp" / "report" / "plots.py"]
    return ", ".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in [*files, *code])


def panels(titles: list[str], ylabel: str, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure with one plot beside the other."""
    figure = Figure(figsize=(3.4 * len(titles), 3), layout="constrained")
    plots = list(figure.subplots(1, len(titles), squeeze=False, **options)[0])
    for axes, title in zip(plots, titles, strict=True):
        axes.set_title(title)
    plots[0].set_ylabel(ylabel)
    return figure, plots


def add_legend(figure: Figure) -> None:
    """Add a legend below the plots, with each model once."""
    handles = {}
    for axes in figure.axes:
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = max(1, int(13 * figure.get_figwidth() / (6 + max(map(len, handles)))))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)


def style_of(name: str, names: list[str]) -> dict[str, Any]:
    """Return the line style of a model, the same in all pictures."""
    order = [*MODELS, *(other for other in names if other not in MODELS)]
    return dict(zip(order, line_styles()))[name]  # noqa: B905  line_styles() is endless


def rows_of(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a comparison to draw: all if none is of `MODELS`."""
    rows = [row for row in comparison["rows"] if row["name"] in MODELS]
    return rows or comparison["rows"]


def learning_curves(comparisons: list[dict[str, Any]]) -> Figure:
    """Draw validation perplexity by update, except in the first fifth of training.

    Lines are the means over the seeds, bands extend from the lowest to the highest seed.
    """
    titles = [CORPORA[found["rows"][0]["runs"][0]["corpus"]] for found in comparisons]
    figure, plots = panels(titles, "validation perplexity")
    for axes, found in zip(plots, comparisons, strict=True):
        rows = rows_of(found)
        for row in rows:
            runs = [dict(run["curve"]) for run in row["runs"]]
            updates = sorted(set.intersection(*map(set, runs)))
            updates = [update for update in updates if update >= updates[-1] / 5]
            values = [[run[update] for run in runs] for update in updates]
            style = style_of(row["name"], [row["name"] for row in rows])
            line = {"markersize": 3, "linewidth": 1.2, "markevery": max(1, len(updates) // 8), **style}
            axes.plot(updates, list(map(statistics.mean, values)), label=row["name"], **line)
            axes.fill_between(updates, list(map(min, values)), list(map(max, values)), alpha=0.2, color=style["color"])
        axes.set_xlabel("updates")
    add_legend(figure)
    return figure


def parameters(comparisons: list[dict[str, Any]]) -> Figure:
    """Draw BLEU against the number of parameters, with the standard deviation over seeds."""
    titles = [CORPORA[found["rows"][0]["runs"][0]["corpus"]] for found in comparisons]
    figure, plots = panels(titles, "sacreBLEU")
    for axes, found in zip(plots, comparisons, strict=True):
        rows = rows_of(found)
        for row in rows:
            style = {**style_of(row["name"], [row["name"] for row in rows]), "linestyle": "none"}
            position = row["parameters"] / 1e6, row["bleu"]
            axes.errorbar(*position, yerr=row["bleu_deviation"], capsize=3, label=row["name"], **style)
        axes.set_xlabel("parameters in millions")
    add_legend(figure)
    return figure


def lengths(measured: list[dict[str, Any]]) -> Figure:
    """Draw the difference in BLEU from the first model by source length, for the first text: single sentences."""
    figure, plots = panels(list(LENGTHS), "sacreBLEU, difference", sharey=True)
    for axes, found in zip(plots, measured, strict=True):
        rows = [row for row in found["rows"] if row["text"] == found["rows"][0]["text"]]
        baseline, *others = rows[0]["bleu"]
        places = range(len(rows))
        axes.axhline(0, color="0.3", linewidth=0.8)
        for name in others:
            differences = [row["bleu"][name] - row["bleu"][baseline] for row in rows]
            axes.plot(places, differences, label=name, markersize=4, linewidth=1.2, **style_of(name, others))
        axes.set_xticks(places, [f"{row['words'].replace(' to ', '–')}\n{row['lines']} lines" for row in rows])
        axes.set_xlabel("source words")
    add_legend(figure)
    return figure


def speed(measured: list[dict[str, Any]]) -> Figure:
    """Draw sacreBLEU against words per second of complete translation commands, with their slowest and fastest run.

    Each line connects beam search (filled) with greedy search (hollow) of one system.
    """
    (found,) = measured
    figure, (axes,) = panels(["Text to text, whole command"], "sacreBLEU")
    words = found["settings"]["words"]
    systems = dict.fromkeys((row["program"], row["model"], row["dtype"]) for row in found["rows"])
    for system, style in zip(systems, line_styles()):  # noqa: B905  line_styles() is endless
        rows = [row for row in found["rows"] if (row["program"], row["model"], row["dtype"]) == system]
        program, model, dtype = system
        label = f"{program}, {model}" + ("" if dtype in model else f", {dtype}")
        line = {"linewidth": 1, "color": style["color"], "linestyle": style["linestyle"]}
        axes.plot([row["words_per_second"] for row in rows], [row["bleu"] for row in rows], label=label, **line)
        axes.lines[-1].set(marker=style["marker"], markevery=[])  # for the legend
        for row in rows:
            face = "white" if row["beam"] == 1 else style["color"]
            ends = words / max(row["seconds"]), words / min(row["seconds"])
            axes.plot(ends, (row["bleu"],) * 2, color=style["color"], linewidth=3, alpha=0.3)
            axes.plot(row["words_per_second"], row["bleu"], markerfacecolor=face, **{**style, "linestyle": "none"})
    axes.set_xlabel("words per second (filled: beam 4, hollow: greedy)")
    axes.set_xscale("log")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda x, _: f"{x:,.0f}" if f"{x:.0e}"[0] in "125" else "")
    figure.set_size_inches(7.5, 5)
    add_legend(figure)
    return figure


def growth(measured: list[dict[str, Any]]) -> Figure:
    """Draw the time per token of translation by length, beam, batch and vocabulary: the median of the measurements."""
    (found,) = measured
    labels = {
        "length": "tokens per sentence",
        "beam": "beam size",
        "batch": "sentences per batch",
        "vocabulary": "vocabulary",
    }
    figure, plots = panels([""] * len(labels), "µs per token")
    figure.set_figwidth(2.6 * len(labels))
    for axes, (sweep, label) in zip(plots, labels.items(), strict=True):
        rows = [row for row in found["rows"] if row["sweep"] == sweep]
        values = [row[sweep] for row in rows]
        for name, style in zip(rows[0]["microseconds"], line_styles()):  # noqa: B905  line_styles() is endless
            times = [row["microseconds"][name] for row in rows]
            axes.plot(values, list(map(statistics.median, times)), label=name, markersize=4, linewidth=1.2, **style)
            axes.fill_between(values, list(map(min, times)), list(map(max, times)), alpha=0.2, color=style["color"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value // 1000}k" if value >= 1000 else str(value) for value in values])
        axes.set_xticks([], minor=True)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        axes.set_xlabel(label)
    add_legend(figure)
    return figure


MEASURED = ROOT / "docs" / "measured"
COMPARISONS = [MEASURED / f"quality-comparison-{name}.json" for name in ("en-de", "en-fr", "tatoeba")]
LENGTHS = {
    "Multi30k En-De, seed 3": MEASURED / "lengths-seed-3.json",
    "Multi30k En-Fr, seed 3": MEASURED / "lengths-en-fr.json",
    "Tatoeba En-De": MEASURED / "lengths-tatoeba.json",
}
PICTURES: dict[str, tuple[Callable[[list[dict[str, Any]]], Figure], list[Path]]] = {
    "learning-curves": (learning_curves, COMPARISONS),
    "parameters": (parameters, COMPARISONS),
    "lengths": (lengths, list(LENGTHS.values())),
    "translation-speed": (speed, [MEASURED / "translation-speed.json"]),
    "growth": (growth, [MEASURED / "growth.json"]),
}


if __name__ == "__main__":
    main()
