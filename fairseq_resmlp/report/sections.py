"""Sections of the report: plots, tables and sample translations of one run or of several."""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sacrebleu.metrics import CHRF
from torch import nn

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import read_json
from fairseq_resmlp.evaluation.evaluation_set import BEAM, AlignedTranslation, EvaluationSet, PrunedScores
from fairseq_resmlp.evaluation.run_directory import RunDirectory
from fairseq_resmlp.evaluation.training_log import METRICS, Curves
from fairseq_resmlp.inference.translation import MIN_WEIGHT
from fairseq_resmlp.model.pruning import feed_forward_weights, mixing_weights
from fairseq_resmlp.report import plots, statistics
from fairseq_resmlp.report.alignment import AlignmentTable, alignment_table
from fairseq_resmlp.resmlp import POST_ALPHA

THRESHOLDS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SAMPLES = 3  # number of worst and of best translations
ABOUT = {
    "scores": """
        Compare values only if the test set and the signature are the same. Values for the first lines of a test set
        are of translations by this report, with beam {beam} and at most twice as many tokens as the source plus 20.""",
    "mixing": """
        Row i of A contains the weights with which position i reads from every position. The maps show the positions
        that training visited, up to the length of the longest training sentence. By default A starts at zero, and its
        entries beyond that length are still exactly zero. Values near that length were learned from few sentences. A
        convolution has one weight per offset. The table and the plots give the share of the energy of A, the sum of
        its squares, that the closest convolution explains: over all visited positions, and over the first n. For
        layers with several heads, the values are means over the heads.""",
    "patches": """
        Row i of A contains the weights with which patch i reads from every patch. The plots show each row as an image,
        at the place of its patch. The table gives the share of the energy of A, the sum of its squares, that one weight
        per two-dimensional offset between patches explains, as in a convolution, and the share that one row for all
        patches explains. Of a matrix of independent random entries, they would explain {offsets} and {row}.""",
    "sparsity": """
        The share of entries smaller in magnitude than 5% of the largest entry of their matrix, as in Figures 3 and B.2
        of the paper. For A, it is given over the positions that training visited and over all N x N entries,
        including those that training never visited. For the A of the decoder, only entries on and below the diagonal
        count.""",
    "scales": """
        Every sublayer has an Aff or a LayerNorm before it and an Aff after it. Their alpha scales each channel of the
        input and of the output of the sublayer. If alpha after a sublayer has become small, the network makes little
        use of that sublayer.""",
    "pruning": """
        Entries smaller than a threshold times the largest entry of their matrix are set to zero, without further
        training. For A, only entries that training visited count toward the share removed. BLEU ({signature}) is
        measured on the first {lines:,} lines of {test}, as in the table of scores. Perplexity is measured on {pairs:,}
        validation pairs. To export a model with a pruned A, use fairseq-resmlp export --prune-mixing THRESHOLD.""",
    "samples": """
        The worst and the best of {lines:,} test sentences, by sentence chrF. The alignments show the attention of each
        translated word (rows) to the source words (columns) in percent, from the last decoder layer, averaged over its
        heads. Values below {least:.0f} are omitted, except the largest of a row. The downloads have every token.""",
}
Log = Callable[[str], None]


@dataclass
class Plot:
    """A figure as the content of its files, and the numbers that it shows."""

    name: str
    title: str
    svg: bytes
    png: bytes
    numbers: bytes  # JSON
    width: int  # CSS pixels at which its text is as large as that of the page


@dataclass
class Table:
    """A table of text cells."""

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass
class Sample:
    """A translation with its sentence chrF and its alignment, as a table and as a plot."""

    title: str
    source: str
    reference: str
    translation: str
    alignment: AlignmentTable
    plot: Plot


@dataclass
class Section:
    """A section of the page. Each line of `missing` names an omitted part, and how to add it."""

    title: str
    about: str = ""
    missing: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show except `missing`."""
        return bool(self.plots or self.samples or any(table.rows for table in self.tables))


def scores_section(runs: Sequence[RunDirectory]) -> Section:
    """Tabulate the scores in the `scores.json` files of the runs.

    Raises:
        InputError: a file is not an output of fairseq-resmlp score --json
    """
    section = Section("Scores", ABOUT["scores"].format(beam=BEAM))
    rows = []
    for run in runs:
        if not run.scores and not run.is_of_images:
            section.missing.append(
                f"{run.name} has no scores.json: run scripts/evaluate.sh, or fairseq-resmlp score --json "
                f"{os.path.join(run.path, 'test', 'scores.json')}"
            )
        for path in run.scores:
            report = read_json(path)
            try:
                test = f"{os.path.basename(os.path.dirname(path))} ({report['lines']:,} lines)"
                rows += [[run.name, test, s["name"], f"{s['value']:.1f}", s["signature"]] for s in report["scores"]]
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise InputError(f"{path} is not an output of fairseq-resmlp score --json: {error!r}") from error
    head = ["run", "test set", "score", "value", "signature"]
    section.tables.append(Table("scores.table", "Final scores", head, rows))
    return section


def training_section(curves: dict[str, Curves], missing: Sequence[str]) -> Section:
    """Plot the training curves of the runs, one plot per metric.

    Args:
        curves: training curves by the name of the run
        missing: reasons why those of other runs are missing
    """
    section = Section("Training", missing=[*missing])
    of_images = any("accuracy" in metrics for by_split in curves.values() for metrics in by_split.values())
    for metric, (title, unit, logarithmic) in METRICS.items():
        splits = ("train", "valid") if metric in ("loss", "ppl", "bleu", "accuracy") else ("train",)
        lines = {
            name: [
                (plots.shorten(name) + (", validation" if split == "valid" else ""), *by_split[split][metric])
                for split in splits
                if metric in by_split.get(split, {})
            ]
            for name, by_split in curves.items()
        }
        if any(lines.values()):
            figure = plots.training_curve(title, unit, lines, logarithmic)
            numbers = [dict(zip(("run", "updates", "values"), line)) for run in lines.values() for line in run]
            section.plots.append(_plot(None, f"training.{metric}", figure, {"lines": numbers}))
        elif curves and metric != "accuracy" and not (metric == "bleu" and of_images):
            hint = ": train with --eval-bleu" if metric == "bleu" else ""
            section.missing.append(f"{title} not found in any training log{hint}")
    return section


def run_sections(
    run: RunDirectory, loaded: tuple[Any, Any, nn.Module], sentences: int, with_pruning: bool, log: Log
) -> tuple[list[Section], list[list[str]]]:
    """Return the sections on one model, and its rows of the table of scores.

    Args:
        loaded: options, task and model, from `RunDirectory.load`
        sentences: maximum number of test and of validation sentences; 0 omits samples and pruning
        with_pruning: measure the effect of pruning, too
        log: called with a line about the progress
    """
    cfg, task, model = loaded
    samples, pruning = Section(f"{run.name}: sample translations"), Section(f"{run.name}: pruning")
    rows: list[list[str]] = []
    median: dict[str, int] = {}
    try:
        if sentences == 0:
            raise InputError("not requested (--sentences 0)")
        evaluation = EvaluationSet(run, cfg, task, sentences)
    except (InputError, OSError) as error:
        samples.missing = pruning.missing = [str(error)]
    else:
        median = dict(zip(("encoder", "decoder"), evaluation.median_lengths))
        log(f"{run.name}: translating")
        translations = evaluation.translate(model)
        value, signature = evaluation.bleu(translations)
        test = f"{evaluation.test}, first {len(evaluation.sources):,} lines"
        rows.append([run.name, test, "sacreBLEU", f"{value:.1f}", signature])
        samples = samples_section(run, evaluation, translations)
        if with_pruning:
            pruning = pruning_section(run, model, evaluation, signature, log)
        else:
            pruning.missing = ["not requested (--no-pruning)"]
    weights = [mixing_section(run, model, median), sparsity_section(run, model), scales_section(run, model)]
    return [*weights, pruning, samples], rows


def image_sections(run: RunDirectory, loaded: tuple[Any, Any, nn.Module]) -> list[Section]:
    """Return the sections on one image model.

    Args:
        loaded: options, task and model, from `RunDirectory.load`
    """
    cfg, _, model = loaded
    sections = [patches_section(run, model)]
    if statistics.stacks(model):
        sections += [sparsity_section(run, model), scales_section(run, model, cfg.model.post_alpha)]
    return sections


def patches_section(run: RunDirectory, model: nn.Module) -> Section:
    """Show the mixing matrices A of an image model."""
    section = Section(f"{run.name}: token mixing")
    matrices = statistics.mixings(model)
    if not matrices:
        section.missing.append("the layers of this model have no matrix A (see --token-mixing)")
        return section
    N = len(matrices[0].A)
    noise = {"offsets": _percent(statistics.grid_share_of_noise(N)), "row": _percent(1 / N)}
    section.about = ABOUT["patches"].format(**noise)
    rows = []
    for mixing in matrices:
        shares = statistics.grid_convolution_share(mixing.A), statistics.mean_row_share(mixing.A)
        rows.append([mixing.name, *map(_percent, shares)])
        section.plots.append(_plot(run, f"patches.{mixing.name}", plots.patch_rows(mixing), {"A": mixing.A}))
    head = ["layer", "energy explained by one weight per offset", "energy explained by one row for all patches"]
    section.tables.append(Table(_file_name(run, "layers"), "Matrix A by layer", head, rows))
    return section


def mixing_section(run: RunDirectory, model: nn.Module, median: dict[str, int]) -> Section:
    """Show the mixing matrices A of each layer.

    Args:
        median: median length of the validation sentences by stack, if known
    """
    section = Section(f"{run.name}: token mixing")
    matrices = statistics.mixings(model)
    if not matrices:
        section.missing.append("the layers of this model have no matrix A (see --token-mixing)")
        return section
    section.about = ABOUT["mixing"]
    rows: list[list[str]] = []
    shares: dict[str, list[plots.Line]] = {"encoder": [], "decoder": []}
    for (stack, number), heads in statistics.by_layer(matrices).items():
        layer = f"{stack} layer {number}"
        L, N = max(mixing.L for mixing in heads), len(heads[0].A)
        A = np.array([mixing.A[:L, :L] for mixing in heads])  # h x L x L
        offsets = [statistics.by_offset(one, stack == "decoder") for one in A]
        shares[stack].append((layer, range(2, L + 1), np.mean([statistics.convolution_by_length(one) for one in A], 0)))
        parts = {f"all {L} visited (N = {N})": L}
        if stack in median:
            parts[f"first {median[stack]} (median sentence)"] = median[stack]
        for positions, n in parts.items():
            per_head = [
                (
                    statistics.convolution_share(one),
                    statistics.mean_distance(one),
                    *statistics.directions(one).values(),
                )
                for one in A[:, :n, :n]
            ]
            explained, distance, *energy = np.mean(per_head, 0)
            rows.append([layer, positions, _percent(explained), f"{distance:.1f}", *map(_percent, energy)])
        numbers = {"A": A[0] if len(heads) == 1 else A, "causal": stack == "decoder"}
        section.plots.append(_plot(run, f"map.{layer}", plots.interaction_map(layer, heads), numbers))
        if len(heads) == 1:
            share = statistics.convolution_share(A[0])
            section.plots += [
                _plot(run, f"rows.{layer}", plots.rows(heads[0]), {"positions": plots.POSITIONS, "A": A[0]}),
                _plot(run, f"offsets.{layer}", plots.offsets(heads[0], offsets[0], share), offsets[0]._asdict()),
            ]
        else:
            numbers = {"heads": [head._asdict() for head in offsets]}
            section.plots.append(_plot(run, f"offsets.{layer}", plots.offsets_of_heads(layer, offsets), numbers))
    for stack, lines in shares.items():
        figure = plots.convolution(stack, lines, median.get(stack))
        numbers = {"lines": [dict(zip(("layer", "n", "share"), line)) for line in lines], "median": median.get(stack)}
        section.plots.append(_plot(run, f"convolution.{stack}", figure, numbers))
    head = ["layer", "positions", "energy explained by one weight per offset", "mean distance (tokens)"]
    head += ["energy on earlier positions", "on the diagonal", "on later positions"]
    section.tables.append(Table(_file_name(run, "layers"), "Matrix A by layer", head, rows))
    return section


def sparsity_section(run: RunDirectory, model: nn.Module) -> Section:
    """Show the share of small entries of A, B and C."""
    layers = statistics.sparsities(model)
    section = Section(f"{run.name}: sparsity", ABOUT["sparsity"])
    head = ["layer", "A, visited", "A, all N x N", "B", "C"]
    rows = [[f"{f.stack} layer {f.layer}", *map(_percent, (f.A_visited, f.A_all, f.B, f.C))] for f in layers]
    section.tables.append(Table(_file_name(run, "sparsity.table"), "Share of small entries", head, rows))
    section.plots.append(_plot(run, "sparsity", plots.sparsity(layers), {"layers": layers}))
    return section


def scales_section(run: RunDirectory, model: nn.Module, post_alpha: float = POST_ALPHA) -> Section:
    """Show the magnitude of alpha before and after each sublayer.

    Args:
        post_alpha: initial value after each sublayer
    """
    section = Section(f"{run.name}: scales", ABOUT["scales"])
    medians: dict[tuple[str, str], dict[str, str]] = {}
    for place, initial in (("post", post_alpha), ("pre", 1.0)):
        alphas = [scale for scale in statistics.scales(model) if scale.place == place]
        numbers = {"scales": alphas, "start": initial}
        section.plots.append(_plot(run, f"scales.{place}", plots.scales(alphas, initial), numbers))
        for scale in alphas:
            key = (f"{scale.stack} layer {scale.layer}", plots.SUBLAYERS[scale.sublayer])
            medians.setdefault(key, {})[place] = f"{np.median(np.abs(scale.alpha)):.3f}"
    rows = [[*key, by_place.get("pre", ""), by_place["post"]] for key, by_place in medians.items()]
    head = ["layer", "sublayer", "before the sublayer", "after the sublayer"]
    section.tables.append(Table(_file_name(run, "scales.table"), "Median of |alpha|", head, rows))
    return section


def pruning_section(
    run: RunDirectory, model: nn.Module, evaluation: EvaluationSet, signature: str, log: Log
) -> Section:
    """Measure BLEU and perplexity without the small entries of A, or of B and C."""
    kinds, missing = {"A": mixing_weights, "B and C": feed_forward_weights}, []
    try:
        mixing_weights(model)
    except InputError as error:
        missing.append(str(error))
        del kinds["A"]
    scores: dict[str, list[PrunedScores]] = {kind: [] for kind in kinds}
    for kind, weights in kinds.items():
        for point in evaluation.prune(model, weights, THRESHOLDS):
            scores[kind].append(point)
            log(
                f"{run.name}: {kind} pruned with threshold {point.threshold:g}: {point.removed:.0%} removed, "
                f"BLEU {point.bleu:.1f}, perplexity {point.perplexity:.2f}"
            )
    sizes = {"lines": len(evaluation.sources), "pairs": len(evaluation.pairs)}
    about = ABOUT["pruning"].format(test=evaluation.test, signature=signature, **sizes)
    section = Section(f"{run.name}: pruning", about, missing)
    for metric, title, unit in (
        ("bleu", "BLEU", f"BLEU, {len(evaluation.sources):,} test sentences"),
        ("perplexity", "Perplexity", "2^(bits per validation target token)"),
    ):
        curves = [
            (kind, [p.removed for p in points], [getattr(p, metric) for p in points]) for kind, points in scores.items()
        ]
        figure = plots.pruning(f"{title} after pruning", unit, curves, metric == "perplexity")
        section.plots.append(_plot(run, f"pruning.{metric}", figure, {"points": scores}))
    rows = [
        [kind, f"{p.threshold:g}", _percent(p.removed), f"{p.bleu:.1f}", f"{p.perplexity:.2f}"]
        for kind, points in scores.items()
        for p in points
    ]
    head = ["pruned", "threshold", "removed", "BLEU", "perplexity"]
    section.tables.append(Table(_file_name(run, "pruning.table"), "Scores by threshold", head, rows))
    return section


def samples_section(
    run: RunDirectory, evaluation: EvaluationSet, translations: Sequence[AlignedTranslation]
) -> Section:
    """Show the worst and the best translations by sentence chrF. Empty source lines are skipped."""
    sources, references = evaluation.sources, evaluation.references
    section = Section(
        f"{run.name}: sample translations", ABOUT["samples"].format(lines=len(sources), least=100 * MIN_WEIGHT)
    )
    chrf = CHRF()
    values = [chrf.sentence_score(t.text, [reference]).score for t, reference in zip(translations, references)]
    order = sorted((i for i, source in enumerate(sources) if source.strip()), key=lambda i: values[i])
    worst, best = order[:SAMPLES], [i for i in order[::-1][:SAMPLES] if i not in order[:SAMPLES]]
    for kind, chosen in (("Worst", worst), ("Best", best)):
        for number, i in enumerate(chosen, 1):
            translation = translations[i]
            title = f"{kind} {number}: chrF {values[i]:.1f}"
            alignment = alignment_table(translation)
            figure = plots.alignment(title, translation.source, translation.target, translation.attention)
            numbers = {"chrF": values[i], "line": i + 1, "reference": references[i], **translation._asdict()}
            plot = _plot(run, f"alignment.{kind}.{number}".lower(), figure, numbers)
            section.samples.append(Sample(title, sources[i], references[i], translation.text, alignment, plot))
    return section


def to_json(value: Any) -> bytes:
    """Return JSON of arrays and plain data. Floats have 5 significant digits; non-finite ones become null."""
    return (json.dumps(_to_plain(value), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _to_plain(item) for name, item in value.items()}
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple, range)) else value


def _plot(run: RunDirectory | None, name: str, figure: plots.Figure, numbers: dict[str, Any]) -> Plot:
    title = str(figure.get_label() or figure.axes[0].get_title()).replace("\n", " ")
    width = round(96 * figure.get_size_inches()[0])
    numbers_json = to_json({"title": title, **numbers})
    return Plot(_file_name(run, name), title, numbers=numbers_json, width=width, **plots.render(figure))


def _file_name(run: RunDirectory | None, name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{run.name}.{name}" if run else name)


def _percent(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else f"{100 * share:.0f}%"
