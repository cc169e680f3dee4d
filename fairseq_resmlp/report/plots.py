"""Plots of the report, drawn with matplotlib: small figures that are readable on a phone, on paper and in grayscale.

Lines differ in dashes and markers as well as in color. In heatmaps, negative weights are marked.
"""

import functools
import io
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fairseq_resmlp.common.errors import InputError

try:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise InputError("plots require matplotlib: pip install 'fairseq-resmlp[report]'") from error

from fairseq_resmlp.report.statistics import SMALL, LayerSparsity, Mixing, Offsets, Scale

# No warnings about missing glyphs: the PNG shows a box instead, and browsers find a font for the SVG.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.color": "0.85",
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text is stored as text, not as paths
    "svg.hashsalt": "fairseq-resmlp",  # reproducible files
}
WIDTH, HEIGHT = 4.4, 3.6  # inches
# --negative and --positive of palette.css, on white
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#b03a10", "#ffffff", "#0b5394"])
MAX_ALIGNED = 60  # tokens of a plot, or words of a table, on either side of an alignment
POSITIONS = (1, 4, 8, 16)  # output positions whose rows of A are plotted
SUBLAYERS = {"mixing": "mixing", "attention": "cross-attention", "ffn": "feed-forward"}
Line = tuple[str, Sequence[float], Sequence[float]]  # label, x, y


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, wrap=True)
    return figure, axes


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield line styles that differ in color, dashes and marker."""
    styles = zip(
        itertools.cycle(["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#8c6d00"]),
        itertools.cycle(["-", "--", "-.", ":"]),
        itertools.cycle("os^DvXP"),
    )
    return ({"color": color, "linestyle": dash, "marker": marker} for color, dash, marker in styles)


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not allowed in an SVG


def shorten(name: str, length: int = 40) -> str:
    """Shorten a run's name for a legend to its beginning and its end."""
    name = _NOT_XML.sub("\ufffd", name)
    name = name if len(name) <= length else f"{name[: length // 2 - 1]}\u2026{name[-length // 2 :]}"
    return f" {name}" if name.startswith("_") else name  # matplotlib omits labels that begin with an underscore


def _legend(figure: Figure, title: str | None = None) -> None:
    """Add a legend below the axes, and enlarge the figure by its height."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    columns = max(1, min(4, 64 // (6 + max(map(len, labels)))))
    lines = -(-len(labels) // columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 2))
    legend = figure.legend(loc="outside lower center", ncols=columns, title=title, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may contain a dollar sign


def _logarithmic(axes: Any) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2, 5, 10 and so on."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "25" else "")


def render(figure: Figure) -> dict[str, bytes]:
    """Return the content of the files of a figure, {"svg": ..., "png": ...}. The bytes are reproducible.

    The background of the SVG is transparent.
    """
    files = {}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # the layout is done; savefig would repeat it twice per file
        for kind, varying in (("svg", "Date"), ("png", "Software")):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=110, transparent=kind == "svg", metadata={varying: None})
            files[kind] = file.getvalue()
    return files


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function to draw with `STYLE`."""

    @functools.wraps(draw)
    def with_style(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return with_style


@styled
def interaction_map(layer: str, heads: list[Mixing]) -> Figure:
    """Draw A of a layer over the visited positions as a heatmap, or one small heatmap per head with shared colors."""
    L = max(mixing.L for mixing in heads)
    matrices = [mixing.A[:L, :L] for mixing in heads]
    largest = max(np.abs(A).max() for A in matrices) or 1.0
    columns = math.ceil(math.sqrt(len(heads)))
    lines = -(-len(heads) // columns)
    title = f"A of {layer}" + (", per head" if len(heads) > 1 else "")
    figure = Figure(figsize=(WIDTH, HEIGHT * (1 + lines / columns) / 2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    edges = (0.5, L + 0.5)
    for axes, A in itertools.zip_longest(grid.flat, matrices):
        if A is None:
            axes.set_visible(False)
            continue
        image = axes.imshow(A, cmap=WEIGHTS, vmin=-largest, vmax=largest, extent=(*edges, *edges[::-1]))
        axes.grid(False)
        i, j = np.nonzero(-SMALL * largest > A)
        size = 0.6 * 72 * 2.9 / L / columns  # points, most of a cell
        axes.scatter(j + 1, i + 1, size**2, "k", marker="_", linewidths=size / 6, rasterized=True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(8 if columns == 1 else 2, integer=True))
    x, y = "input position j (tokens)", "output position i (tokens)"
    if len(heads) == 1:
        axes.set(title=title, xlabel=x, ylabel=y)
    else:
        figure.set_label(title)
        figure.suptitle(title, fontsize=STYLE["axes.titlesize"])
        figure.supxlabel(x, fontsize=STYLE["font.size"])
        figure.supylabel(y, fontsize=STYLE["font.size"])
    figure.colorbar(image, ax=grid, label=f"weight A[i, j] (dash: below −{SMALL:.0%} of the largest)", shrink=0.85)
    return figure


@styled
def patch_rows(mixing: Mixing) -> Figure:
    """Draw the rows of A of an image model as images (Figures 2 and B.1 of the paper).

    The image at each place of the grid has the weights with which the patch at that place reads from every patch.
    """
    A, side = mixing.A, math.isqrt(len(mixing.A))
    largest = np.abs(A).max() or 1.0
    figure, axes = _figure(f"Rows of A as images, {mixing.name}")
    # Rows and columns of the output patch outside, those of the input patch inside
    mosaic = A.reshape(side, side, side, side).transpose(0, 2, 1, 3).reshape(side**2, side**2)
    edges = (0.5, side + 0.5)
    image = axes.imshow(mosaic, cmap=WEIGHTS, vmin=-largest, vmax=largest, extent=(*edges, *edges[::-1]))
    axes.grid(False)
    i, j = np.nonzero(-SMALL * largest > mosaic)
    size = 0.6 * 72 * 2.9 / side**2  # points, most of a cell
    axes.scatter(0.5 + (j + 0.5) / side, 0.5 + (i + 0.5) / side, size**2, "k", marker="_", linewidths=size / 6)
    for edge in np.arange(1.5, side):
        axes.axhline(edge, color="k", linewidth=0.6)
        axes.axvline(edge, color="k", linewidth=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set(xlabel="column of the output patch", ylabel="row of the output patch")
    figure.colorbar(image, label=f"weight A[i, j] (dash: below −{SMALL:.0%} of the largest)", shrink=0.85)
    return figure


@styled
def rows(mixing: Mixing) -> Figure:
    """Draw the rows of A of a few output positions as curves."""
    figure, axes = _figure(f"Rows of A, {mixing.name}")
    A, L = mixing.visited, mixing.L
    axes.axhline(0, color="0.5", linewidth=0.8)
    for position, style in zip([p for p in POSITIONS if p <= L], line_styles()):
        row = A[position - 1, : position if mixing.causal else L]
        axes.plot(range(1, len(row) + 1), row, label=f"i = {position}", markersize=3, linewidth=1.2, **style)
    axes.set(xlabel="input position j (tokens)", ylabel="weight A[i, j]")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure, "output position")
    return figure


@styled
def offsets(mixing: Mixing, weights: Offsets, share: float) -> Figure:
    """Draw the mean weight by offset and its standard deviation.

    Args:
        share: share of the energy that one weight per offset explains
    """
    figure, axes = _figure(f"Weight by offset, {mixing.name}:\na convolution explains {share:.0%} of the energy")
    axes.axhline(0, color="0.5", linewidth=0.8)
    low, high = weights.mean - weights.deviation, weights.mean + weights.deviation
    axes.fill_between(weights.offset, low, high, color="0.8", label="± standard deviation")
    axes.plot(weights.offset, weights.mean, "k-o", markersize=2.5, linewidth=1, label="mean")
    axes.set(xlabel="offset j − i (tokens; negative: earlier text)", ylabel="weight A[i, j]")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure)
    return figure


@styled
def offsets_of_heads(layer: str, heads: list[Offsets]) -> Figure:
    """Draw the mean weight by offset, one row per head of a layer. All heads have the same offsets."""
    figure, axes = _figure(f"Mean weight by offset, {layer}")
    means = np.array([head.mean for head in heads])
    first, last = heads[0].offset[[0, -1]]
    largest = np.abs(means).max() or 1.0
    edges = (first - 0.5, last + 0.5, len(heads) + 0.5, 0.5)
    image = axes.imshow(means, cmap=WEIGHTS, vmin=-largest, vmax=largest, extent=edges, aspect="auto")
    axes.grid(False)
    i, j = np.nonzero(-SMALL * largest > means)
    axes.scatter(j + first, i + 1, 4, "k", marker="_", linewidths=0.5, rasterized=True)
    axes.set(xlabel="offset j − i (tokens; negative: earlier text)", ylabel="head")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, label=f"weight (dash: below −{SMALL:.0%} of the largest)", shrink=0.85)
    return figure


@styled
def convolution(stack: str, lines: list[Line], median: int | None) -> Figure:
    """Draw the share that one weight per offset explains among the first n positions, one line per layer.

    Args:
        median: the median length of the validation sentences, if known
    """
    figure, axes = _figure(f"Similarity to a convolution: {stack}")
    _draw(axes, lines, markevery=8)
    if median:
        axes.axvline(median, color="0.4", linestyle=(0, (1, 1)), label=f"median sentence, {median}")
    axes.set(xlabel="first n positions (tokens)", ylabel="energy explained by\none weight per offset", ylim=(0, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure)
    return figure


@styled
def sparsity(layers: list[LayerSparsity]) -> Figure:
    """Draw the share of small entries of A, B and C by layer."""
    figure, axes = _figure(f"Entries smaller than {SMALL:.0%} of the largest")
    lines = []
    for part, label in (("A_visited", "A, visited"), ("A_all", "A, all N x N"), ("B", "B"), ("C", "C")):
        shares = [getattr(layer, part) for layer in layers]
        lines.append((label, range(len(layers)), [float("nan") if share is None else share for share in shares]))
    _draw(axes, [line for line in lines if not np.isnan(line[2]).all()])
    axes.set(ylabel="share of entries", ylim=(-0.02, 1.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _label_layers(axes, [(layer.stack, layer.layer) for layer in layers])
    _legend(figure)
    return figure


@styled
def scales(alphas: list[Scale], initial: float) -> Figure:
    """Draw the magnitude of alpha by layer and sublayer, either before or after the sublayers.

    Args:
        initial: the value of every alpha before training
    """
    place = "after" if alphas[0].place == "post" else "before"
    figure, axes = _figure(f"Scale alpha {place} each sublayer")
    layers = list(dict.fromkeys((scale.stack, scale.layer) for scale in alphas))
    for sublayer, style in zip(dict.fromkeys(scale.sublayer for scale in alphas), line_styles()):
        own = [scale for scale in alphas if scale.sublayer == sublayer]
        at = np.array([layers.index((scale.stack, scale.layer)) for scale in own], dtype=float)
        size = [np.abs(scale.alpha) for scale in own]
        middle = np.array([np.median(alpha) for alpha in size])
        low, high = np.array([np.percentile(alpha, (10, 90)) for alpha in size]).T
        shift = 0.12 * (list(SUBLAYERS).index(sublayer) - 1)
        style.update(linestyle="none", markersize=5, label=SUBLAYERS[sublayer])
        axes.errorbar(at + shift, middle, [middle - low, high - middle], capsize=3, **style)
    axes.axhline(initial, color="0.4", linestyle=(0, (1, 1)), linewidth=1, label=f"initial value, {initial:g}")
    axes.set(ylabel="|alpha|: median over channels,\nbars from 10% to 90%", ylim=(0, None))
    _label_layers(axes, layers)
    _legend(figure)
    return figure


def _label_layers(axes: Any, layers: list[tuple[str, int]]) -> None:
    """Label the x axis with the layers, and separate encoder and decoder."""
    axes.set_xticks(range(len(layers)), [f"{stack[:3]} {layer}" for stack, layer in layers])
    axes.set(xlabel="layer of the encoder (enc) and decoder (dec)", xlim=(-0.5, len(layers) - 0.5))
    if len(layers) > 6:
        axes.tick_params("x", rotation=90)
    first = sum(stack == "encoder" for stack, _ in layers)
    axes.axvline(first - 0.5, color="0.5", linewidth=0.8)


@styled
def training_curve(title: str, unit: str, runs: dict[str, list[Line]], logarithmic: bool) -> Figure:
    """Draw one metric by update, with one color and marker per run. The second line of a run, validation, is dashed."""
    figure, axes = _figure(title)
    for lines, style in zip(runs.values(), line_styles()):
        for (label, x, y), dash, fill in zip(lines, ("-", "--"), ("full", "none")):
            style.update(linestyle=dash, fillstyle=fill, markevery=max(1, len(x) // 10))
            axes.plot(x, y, label=label, markersize=4, linewidth=1.2, **style)
    axes.set(xlabel="updates", ylabel=unit)
    if logarithmic:
        _logarithmic(axes)
    _legend(figure)
    return figure


@styled
def pruning(title: str, unit: str, lines: list[Line], logarithmic: bool) -> Figure:
    """Draw a score against the share of weights removed, one line for A and one for B and C."""
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
    """Draw cross-attention as a heatmap: one row per target token, one column per source token.

    Args:
        source, target: S and T tokens, of which the first `MAX_ALIGNED` are drawn
        attention: T x S
    """
    source, target = source[:MAX_ALIGNED], target[:MAX_ALIGNED]
    T, S = len(target), len(source)
    figure = Figure(figsize=(max(WIDTH * 0.8, 1.9 + 0.19 * S), max(2.6, 1.5 + 0.19 * T)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    image = axes.imshow(attention[:T, :S], cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    for tokens, set_ticks, rotation in ((source, axes.set_xticks, 90), (target, axes.set_yticks, 0)):
        labels = [_NOT_XML.sub("\ufffd", token.replace("\u2581", "_")) for token in tokens]
        set_ticks(range(len(labels)), labels, fontsize=8, parse_math=False, rotation=rotation)
    axes.set(xlabel="source tokens (_ begins a word)", ylabel="translation")
    figure.colorbar(image, label="attention, last layer").ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _draw(axes: Any, lines: list[Line], **options: Any) -> None:
    for (label, x, y), style in zip(lines, line_styles()):
        axes.plot(x, y, label=label, markersize=4, linewidth=1.2, **options, **style)
