"""Pictures of a report, by matplotlib: each a small figure that is readable on a phone, on paper and without colours.

Lines differ in dashes and markers besides colour; in maps, cells that hold a negative weight are marked.
"""

import functools
import io
import itertools
import logging
import math
import re
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .errors import InputError

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise InputError("pictures need matplotlib: pip install 'fairseq-resmlp[report]'") from error

from .analysis import SMALL, LayerSparsity, Mixing, Offsets, Scale

# A piece in a script that no installed font has is a box in a PNG; browsers find a font for it in the SVG.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.color": "0.85",
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fairseq-resmlp",  # the same numbers give the same file
}
WIDTH, HEIGHT = 4.4, 3.6  # inches
POSITIONS = (1, 4, 8, 16)  # whose rows of A are drawn as curves
SUBLAYERS = {"mixing": "mixing", "attention": "cross-attention", "ffn": "feed-forward"}
Line = Tuple[str, Sequence[float], Sequence[float]]


def _figure(title: str):
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, wrap=True)
    return figure, axes


def _styles():
    """Colours of one lightness order, dashes and markers, all different at once."""
    looks = zip(
        itertools.cycle(["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#8c6d00"]),
        itertools.cycle(["-", "--", "-.", ":"]),
        itertools.cycle("os^DvXP"),
    )
    return ({"color": color, "linestyle": dash, "marker": marker} for color, dash, marker in looks)


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # it would break an SVG


def shortened(name: str, length: int = 40) -> str:
    """A run's name for a legend: its beginning and its end, where it is long."""
    name = _NOT_XML.sub("\ufffd", name)
    name = name if len(name) <= length else f"{name[: length // 2 - 1]}\u2026{name[-length // 2 :]}"
    return f" {name}" if name.startswith("_") else name  # matplotlib leaves out what begins with an underscore


def _legend(figure: Figure, title: Optional[str] = None) -> None:
    """Below the axes, where it hides nothing and takes no room from them."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    columns = max(1, min(4, 64 // (6 + max(map(len, labels)))))
    lines = -(-len(labels) // columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 2))
    legend = figure.legend(loc="outside lower center", ncols=columns, title=title, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar in a name begins no formula


def _logarithmic(axes) -> None:
    """A logarithmic axis of values, with 1, 2, 5, 10 and so on along it."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")


def files(figure: Figure) -> Dict[str, bytes]:
    """A figure as files: {"svg": ..., "png": ...}, the same bytes for the same figure."""
    found = {}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # it is laid out: savefig would do so again, twice for each file
        for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"metadata": {"Software": None}})):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=110, **options)
            found[kind] = file.getvalue()
    return found


def styled(draw):
    """A function that draws, with the style of these pictures."""

    @functools.wraps(draw)
    def with_style(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return with_style


@styled
def interaction_map(layer: str, heads: List[Mixing]) -> Figure:
    """A of a layer as a heatmap, over what training visited; of several heads, small ones in the same colours."""
    L = max(mixing.L for mixing in heads)
    matrices = [mixing.A[:L, :L] for mixing in heads]
    largest = max(np.abs(A).max() for A in matrices) or 1.0
    columns = math.ceil(math.sqrt(len(heads)))
    lines = -(-len(heads) // columns)
    title = f"A of {layer}" + (", each head" if len(heads) > 1 else "")
    figure = Figure(figsize=(WIDTH, HEIGHT * (1 + lines / columns) / 2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    edges = (0.5, L + 0.5)
    for axes, A in itertools.zip_longest(grid.flat, matrices):
        if A is None:
            axes.set_visible(False)
            continue
        image = axes.imshow(A, cmap="PuOr", vmin=-largest, vmax=largest, extent=(*edges, *edges[::-1]))
        axes.grid(False)
        i, j = np.nonzero(-SMALL * largest > A)
        size = 0.6 * 72 * 2.9 / L / columns  # points, most of a cell
        axes.scatter(j + 1, i + 1, size**2, "k", marker="_", linewidths=size / 6, rasterized=True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(8 if columns == 1 else 2, integer=True))
    read, written = "position j that is read (pieces)", "position i that is written (pieces)"
    if len(heads) == 1:
        axes.set(title=title, xlabel=read, ylabel=written)
    else:
        figure.set_label(title)
        figure.suptitle(title, fontsize=STYLE["axes.titlesize"])
        figure.supxlabel(read, fontsize=STYLE["font.size"])
        figure.supylabel(written, fontsize=STYLE["font.size"])
    figure.colorbar(image, ax=grid, label=f"weight A[i, j]   (− : below −{SMALL:.0%} of the largest)", shrink=0.85)
    return figure


@styled
def rows(mixing: Mixing) -> Figure:
    """Rows of A as curves, of a few positions."""
    figure, axes = _figure(f"Rows of A, {mixing.name}")
    A, L = mixing.visited, mixing.L
    axes.axhline(0, color="0.5", linewidth=0.8)
    for position, style in zip([p for p in POSITIONS if p <= L], _styles()):
        row = A[position - 1, : position if mixing.causal else L]
        axes.plot(range(1, len(row) + 1), row, label=f"i = {position}", markersize=3, linewidth=1.2, **style)
    axes.set(xlabel="position j that is read (pieces)", ylabel="weight A[i, j]")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure, "row of position")
    return figure


@styled
def offsets(mixing: Mixing, found: Offsets, share: float) -> Figure:
    """The mean weight by offset and its spread."""
    figure, axes = _figure(f"Weight by offset, {mixing.name}:\none an offset explains {share:.0%} of the energy")
    axes.axhline(0, color="0.5", linewidth=0.8)
    low, high = found.mean - found.deviation, found.mean + found.deviation
    axes.fill_between(found.offset, low, high, color="0.8", label="± standard deviation")
    axes.plot(found.offset, found.mean, "k-o", markersize=2.5, linewidth=1, label="mean")
    axes.set(xlabel="offset j − i (pieces; left is earlier text)", ylabel="weight A[i, j]")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure)
    return figure


@styled
def offsets_of_heads(layer: str, found: List[Offsets]) -> Figure:
    """The mean weight by offset of every head of a layer, a row a head; all have the same offsets."""
    figure, axes = _figure(f"Mean weight by offset, {layer}")
    means = np.array([head.mean for head in found])
    first, last = found[0].offset[[0, -1]]
    largest = np.abs(means).max() or 1.0
    edges = (first - 0.5, last + 0.5, len(found) + 0.5, 0.5)
    image = axes.imshow(means, cmap="PuOr", vmin=-largest, vmax=largest, extent=edges, aspect="auto")
    axes.grid(False)
    i, j = np.nonzero(-SMALL * largest > means)
    axes.scatter(j + first, i + 1, 4, "k", marker="_", linewidths=0.5, rasterized=True)
    axes.set(xlabel="offset j − i (pieces; left is earlier text)", ylabel="head")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, label=f"weight   (− : below −{SMALL:.0%} of the largest)", shrink=0.85)
    return figure


@styled
def convolution(stack: str, lines: List[Line], typical: Optional[int]) -> Figure:
    """The share that one weight an offset explains among the first n positions, a line a layer.

    Args:
        typical: the median length of the validation sentences, if known
    """
    figure, axes = _figure(f"How much like a convolution: {stack}")
    _draw(axes, lines, markevery=8)
    if typical:
        axes.axvline(typical, color="0.4", linestyle=(0, (1, 1)), label=f"median sentence, {typical}")
    axes.set(xlabel="first n positions (pieces)", ylabel="energy that one weight\nan offset explains", ylim=(0, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure)
    return figure


@styled
def sparsity(found: List[LayerSparsity]) -> Figure:
    """The share of small entries of A, B and C by layer."""
    figure, axes = _figure(f"Entries smaller than {SMALL:.0%} of the largest")
    lines = [
        (label, range(len(found)), [float("nan") if v is None else v for v in (getattr(f, part) for f in found)])
        for part, label in (("A_visited", "A, as far as visited"), ("A_all", "A, all N"), ("B", "B"), ("C", "C"))
    ]
    _draw(axes, [line for line in lines if not np.isnan(line[2]).all()])
    axes.set(ylabel="share of entries", ylim=(-0.02, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _layers(axes, [(f.stack, f.layer) for f in found])
    _legend(figure)
    return figure


@styled
def scales(found: List[Scale], start: float) -> Figure:
    """The magnitude of alpha by layer and sublayer, of the Affs on one side of the sublayers.

    Args:
        start: the value of each alpha before training
    """
    place = "after" if found[0].place == "post" else "before"
    figure, axes = _figure(f"Scales of the Aff {place} each sublayer")
    layers = list(dict.fromkeys((scale.stack, scale.layer) for scale in found))
    for sublayer, style in zip(dict.fromkeys(scale.sublayer for scale in found), _styles()):
        own = [scale for scale in found if scale.sublayer == sublayer]
        at = np.array([layers.index((scale.stack, scale.layer)) for scale in own], dtype=float)
        size = [np.abs(scale.alpha) for scale in own]
        middle = np.array([np.median(alpha) for alpha in size])
        low, high = np.array([np.percentile(alpha, (10, 90)) for alpha in size]).T
        shift = 0.12 * (list(SUBLAYERS).index(sublayer) - 1)
        style.update(linestyle="none", markersize=5, label=SUBLAYERS[sublayer])
        axes.errorbar(at + shift, middle, [middle - low, high - middle], capsize=3, **style)
    axes.axhline(start, color="0.4", linestyle=(0, (1, 1)), linewidth=1, label=f"start, {start:g}")
    axes.set(ylabel="|alpha|: median of the channels,\nbars from 10 to 90%", ylim=(0, None))
    _layers(axes, layers)
    _legend(figure)
    return figure


def _layers(axes, layers: List[Tuple[str, int]]) -> None:
    """Name the layers along the x axis, encoder and decoder apart."""
    axes.set_xticks(range(len(layers)), [f"{stack[:3]} {layer}" for stack, layer in layers])
    axes.set(xlabel="layer of the encoder (enc) and decoder (dec)", xlim=(-0.5, len(layers) - 0.5))
    if len(layers) > 6:
        axes.tick_params("x", rotation=90)
    first = sum(stack == "encoder" for stack, _ in layers)
    axes.axvline(first - 0.5, color="0.5", linewidth=0.8)


@styled
def training_curve(title: str, unit: str, of_runs: Dict[str, List[Line]], logarithmic: bool) -> Figure:
    """One metric over the updates, a colour and marker a run; its second line, validation, is dashed."""
    figure, axes = _figure(title)
    for lines, style in zip(of_runs.values(), _styles()):
        for (label, x, y), dash, fill in zip(lines, ("-", "--"), ("full", "none")):
            style.update(linestyle=dash, fillstyle=fill, markevery=max(1, len(x) // 10))
            axes.plot(x, y, label=label, markersize=4, linewidth=1.2, **style)
    axes.set(xlabel="updates", ylabel=unit)
    if logarithmic:
        _logarithmic(axes)
    _legend(figure)
    return figure


@styled
def pruning(title: str, unit: str, lines: List[Line], logarithmic: bool) -> Figure:
    """A score against the share of weights removed, a line for A and one for B and C."""
    figure, axes = _figure(title)
    _draw(axes, lines)
    axes.set(xlabel="weights removed", ylabel=unit, xlim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    if logarithmic:
        _logarithmic(axes)
    _legend(figure)
    return figure


@styled
def alignment(title: str, source: Sequence[str], target: Sequence[str], attention: np.ndarray) -> Figure:
    """Cross-attention as a heatmap, T x S: what each target piece looked at."""
    T, S = attention.shape
    figure = Figure(figsize=(max(WIDTH * 0.8, 1.9 + 0.19 * S), max(2.6, 1.5 + 0.19 * T)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    image = axes.imshow(attention, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    for pieces, set_ticks, options in ((source, axes.set_xticks, {"rotation": 90}), (target, axes.set_yticks, {})):
        labels = [_NOT_XML.sub("\ufffd", piece.replace("\u2581", "_")) for piece in pieces]
        set_ticks(range(len(labels)), labels, fontsize=8, parse_math=False, **options)
    axes.set(xlabel="source pieces (_ begins a word)", ylabel="translation")
    figure.colorbar(image, label="attention, last layer").ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _draw(axes, lines: List[Line], **options) -> None:
    for (label, x, y), style in zip(lines, _styles()):
        axes.plot(x, y, label=label, markersize=4, linewidth=1.2, **options, **style)
