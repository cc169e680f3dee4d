"""The report: one page about trained models, with its pictures and the numbers behind them beside it."""

import base64
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from sacrebleu.metrics import CHRF

from . import analysis, curves, pictures
from .errors import InputError
from .files import written_whole
from .held_out import BEAM, Alignment, HeldOut, Pruned
from .pruning import feed_forward_weights, mixing_weights
from .resmlp import POST_ALPHA
from .run_folder import RunFolder, find_all

try:
    import jinja2
except ImportError as error:
    raise InputError("a report needs jinja2: pip install 'fairseq-resmlp[report]'") from error

THRESHOLDS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SAMPLES = 3  # of the worst and of the best translations
ABOUT = {
    "scores": "Values can be compared where the test set and the signature are the same.",
    "maps": """
        Each row of A says with which weights a position is written from those that are read. The maps go as far as the
        longest sentence of training: A starts at zero, and beyond that length it is exactly zero still. What lies near
        that length was taught by a few sentences alone. A convolution would have one weight an offset; how much of the
        energy of A, the sum of its squares, such weights explain is given over all that was visited and for the first
        n positions. Where a layer has several heads, its figures are means over them.""",
    "sparsity": """
        The share of entries smaller in magnitude than 5% of the largest of their matrix, as in Figures 3 and B.2 of the
        paper. Of A, once over the positions that training visited, once over all N x N, most of which it never saw; of
        the decoder's A, entries on and below the diagonal.""",
    "scales": """
        Each sublayer stands between an Aff (or a LayerNorm) and another Aff, whose alpha scales every channel on its
        way in and out. Where the outer one has become small, the network makes little of what the sublayer gives.""",
    "pruning": """
        Entries smaller than a threshold times the largest of their matrix are set to zero, without training after it;
        of A, only what training visited counts. BLEU is of the first {lines:,} lines of {test} with beam {beam} and at
        most twice as many pieces as the source, and 20 ({signature}), perplexity of {pairs:,} validation pairs.
        fairseq-resmlp export --prune-mixing THRESHOLD does this to A.""",
    "samples": """
        Of {lines:,} test sentences the worst and the best by sentence chrF, with the cross-attention of the last
        decoder layer, averaged over its heads.""",
}


@dataclass
class Picture:
    """A figure as files, and the numbers behind it."""

    name: str
    title: str
    svg: bytes
    png: bytes
    numbers: bytes  # JSON
    width: int  # in CSS pixels, where its text has the size of the page's


@dataclass
class Table:
    """Cells as text."""

    name: str
    title: str
    head: List[str]
    rows: List[List[str]]


@dataclass
class Sample:
    """A translation with its sentence chrF and its alignment."""

    title: str
    source: str
    reference: str
    translation: str
    picture: Picture


@dataclass
class Section:
    """A part of the page; `missing` says in a line each what is not there and how to get it."""

    title: str
    about: str = ""
    missing: List[str] = field(default_factory=list)
    tables: List[Table] = field(default_factory=list)
    pictures: List[Picture] = field(default_factory=list)
    samples: List[Sample] = field(default_factory=list)


def make(folders: Sequence[str], out: str, sentences: int, with_pruning: bool, say: Callable[[str], None]) -> str:
    """Write OUT/index.html about run folders, with PNG, SVG and JSON files beside it.

    Args:
        sentences: lines of the test and validation text to translate and to prune by; 0 for none
        with_pruning: measure what pruning does, too
        say: called with a line about what is being done

    Returns:
        the path of the page

    Raises:
        InputError: a folder is no run folder
    """
    runs = find_all(folders)
    os.makedirs(out, exist_ok=True)
    scores, training, own = _scores(runs), _curves(runs), []
    for run in runs:
        say(f"{run.name}: reading")
        found, row = _about_run(run, sentences, with_pruning, say)
        own += found
        scores.tables[0].rows += row
    scores.tables[0].rows.sort(key=lambda row: [run.name for run in runs].index(row[0]))
    sections = [scores, training, *own]
    for section in sections:
        for picture in [*section.pictures, *(sample.picture for sample in section.samples)]:
            _write(out, f"{picture.name}.svg", picture.svg)
            _write(out, f"{picture.name}.png", picture.png)
            _write(out, f"{picture.name}.json", picture.numbers)
        for table in section.tables:
            numbers = {"title": table.title, "head": table.head, "rows": table.rows}
            _write(out, f"{table.name}.json", _json(numbers))
        for line in section.missing:
            say(f"missing: {section.title}: {line}")
    _write(out, "index.html", page(sections, [run.name for run in runs]).encode("utf-8", "replace"))
    return os.path.join(out, "index.html")


def page(sections: List[Section], names: List[str]) -> str:
    """The HTML page of a report with these sections."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "."), autoescape=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("report.html").render(sections=sections, names=names)


def _write(folder: str, name: str, data: bytes) -> None:
    with written_whole(os.path.join(folder, name)) as partial, open(partial, "wb") as file:
        file.write(data)


def _json(value: Any) -> bytes:
    return (json.dumps(_plain(value), ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """Lists and numbers of 5 digits, with None for what is no number."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple, range)) else value


def _picture(run: Optional[RunFolder], name: str, figure, numbers: Dict[str, Any]) -> Picture:
    title = (figure.get_label() or figure.axes[0].get_title()).replace("\n", " ")
    name = re.sub(r"[^\w.-]+", "-", f"{run.name}.{name}" if run else name)
    width = round(96 * figure.get_size_inches()[0])
    return Picture(name, title, numbers=_json({"title": title, **numbers}), width=width, **pictures.files(figure))


def _about_run(run: RunFolder, sentences: int, with_pruning: bool, say) -> Tuple[List[Section], List[List[str]]]:
    """Its sections, and rows for the table of scores."""
    try:
        cfg, task, model = run.load()
    except InputError as error:
        return [Section(f"{run.name}: the model", missing=[str(error)])], []
    samples, pruned = Section(f"{run.name}: sample translations"), Section(f"{run.name}: pruning")
    rows: List[List[str]] = []
    median: Dict[str, int] = {}
    try:
        if sentences == 0:
            raise InputError("--sentences 0 asked for none")
        text = HeldOut(run, cfg, task, sentences)
    except InputError as error:
        samples.missing = pruned.missing = [str(error)]
    else:
        median = dict(zip(("encoder", "decoder"), text.median_lengths))
        say(f"{run.name}: translating")
        translations = text.translate(model)
        value, signature = text.bleu(translations)
        rows.append([run.name, f"{text.test}, its first {len(text.sources):,}", "sacreBLEU", f"{value:.1f}", signature])
        samples = _samples(run, text, translations)
        if with_pruning:
            pruned = _pruning(run, model, text, signature, say)
        else:
            pruned.missing = ["--no-pruning asked for none"]
    return [_maps(run, model, median), _sparsity(run, model), _scales(run, model), pruned, samples], rows


def _maps(run: RunFolder, model, median: Dict[str, int]) -> Section:
    """The mixing matrices; `median` is the length of the median sentence by stack, where it is known."""
    section = Section(f"{run.name}: what tokens read from each other")
    found = analysis.mixings(model)
    if not found:
        section.missing.append("the layers of this model mix tokens without a matrix A (--token-mixing)")
        return section
    section.about = ABOUT["maps"]
    rows, shares = [], {"encoder": [], "decoder": []}
    for (stack, number), heads in analysis.by_layer(found).items():
        layer = f"{stack} layer {number}"
        L, N = max(mixing.L for mixing in heads), len(heads[0].A)
        A = np.array([mixing.A[:L, :L] for mixing in heads])
        offsets = [analysis.by_offset(one, stack == "decoder") for one in A]
        shares[stack].append((layer, range(2, L + 1), np.mean([analysis.convolution_by_length(one) for one in A], 0)))
        parts = {f"all {L} visited, of N = {N}": L}
        if stack in median:
            parts[f"first {median[stack]}, the median sentence"] = median[stack]
        for positions, n in parts.items():
            of_heads = [
                (analysis.convolution_share(one), analysis.mean_distance(one), *analysis.directions(one).values())
                for one in A[:, :n, :n]
            ]
            explained, distance, *energy = np.mean(of_heads, 0)
            rows.append([layer, positions, _percent(explained), f"{distance:.1f}", *map(_percent, energy)])
        drawn = {"A": A[0] if len(heads) == 1 else A, "causal": stack == "decoder"}
        section.pictures.append(_picture(run, f"map.{layer}", pictures.interaction_map(layer, heads), drawn))
        if len(heads) == 1:
            share = analysis.convolution_share(A[0])
            section.pictures += [
                _picture(run, f"rows.{layer}", pictures.rows(heads[0]), {"positions": pictures.POSITIONS, "A": A[0]}),
                _picture(run, f"offsets.{layer}", pictures.offsets(heads[0], offsets[0], share), offsets[0]._asdict()),
            ]
        else:
            every = {"heads": [head._asdict() for head in offsets]}
            section.pictures.append(_picture(run, f"offsets.{layer}", pictures.offsets_of_heads(layer, offsets), every))
    for stack, lines in shares.items():
        figure = pictures.convolution(stack, lines, median.get(stack))
        numbers = {"lines": [dict(zip(("layer", "n", "share"), line)) for line in lines], "median": median.get(stack)}
        section.pictures.append(_picture(run, f"convolution.{stack}", figure, numbers))
    head = ["A of", "positions", "one weight an offset explains", "mean distance (pieces)"]
    head += ["energy behind", "on the diagonal", "ahead"]
    section.tables.append(Table(_name(run, "layers"), "Each mixing layer", head, rows))
    return section


def _sparsity(run: RunFolder, model) -> Section:
    found = analysis.sparsities(model)
    section = Section(f"{run.name}: sparsity", ABOUT["sparsity"])
    head = ["layer", "A, as far as visited", "A, all N", "B", "C"]
    rows = [[f"{f.stack} layer {f.layer}", *map(_percent, (f.A_visited, f.A_all, f.B, f.C))] for f in found]
    section.tables.append(Table(_name(run, "sparsity.table"), "Share of small entries", head, rows))
    section.pictures.append(_picture(run, "sparsity", pictures.sparsity(found), {"layers": found}))
    return section


def _scales(run: RunFolder, model) -> Section:
    section = Section(f"{run.name}: scales", ABOUT["scales"])
    medians: Dict[Tuple[str, str], Dict[str, str]] = {}
    for place, start in (("post", POST_ALPHA), ("pre", 1.0)):
        found = [scale for scale in analysis.scales(model) if scale.place == place]
        figure = pictures.scales(found, start)
        section.pictures.append(_picture(run, f"scales.{place}", figure, {"scales": found, "start": start}))
        for scale in found:
            key = (f"{scale.stack} layer {scale.layer}", pictures.SUBLAYERS[scale.sublayer])
            medians.setdefault(key, {})[place] = f"{np.median(np.abs(scale.alpha)):.3f}"
    rows = [[*key, of.get("pre", ""), of["post"]] for key, of in medians.items()]
    head = ["layer", "sublayer", "before it", "after it"]
    section.tables.append(Table(_name(run, "scales.table"), "Median of |alpha|", head, rows))
    return section


def _pruning(run: RunFolder, model, text: HeldOut, signature: str, say) -> Section:
    """BLEU and perplexity without the small entries of A, or of B and C."""
    kinds, missing = {"A": mixing_weights, "B and C": feed_forward_weights}, []
    try:
        mixing_weights(model)
    except InputError as error:
        missing.append(str(error))
        del kinds["A"]
    found: Dict[str, List[Pruned]] = {kind: [] for kind in kinds}
    for kind, weights in kinds.items():
        for point in text.prune(model, weights, THRESHOLDS):
            found[kind].append(point)
            say(
                f"{run.name}: {point.removed:.0%} of {kind} removed at {point.threshold:g}: BLEU {point.bleu:.1f}, "
                f"perplexity {point.perplexity:.2f}"
            )
    sizes = {"lines": len(text.sources), "pairs": len(text.pairs)}
    about = ABOUT["pruning"].format(test=text.test, beam=BEAM, signature=signature, **sizes)
    section = Section(f"{run.name}: pruning", about, missing)
    for metric, title, unit in (
        ("bleu", "BLEU", f"BLEU, {len(text.sources):,} test sentences"),
        ("perplexity", "Perplexity", "2^bits a target piece of validation"),
    ):
        curve = [
            (kind, [p.removed for p in points], [getattr(p, metric) for p in points]) for kind, points in found.items()
        ]
        figure = pictures.pruning(f"{title} without small weights", unit, curve, metric == "perplexity")
        section.pictures.append(_picture(run, f"pruning.{metric}", figure, {"points": found}))
    rows = [
        [kind, f"{p.threshold:g}", _percent(p.removed), f"{p.bleu:.1f}", f"{p.perplexity:.2f}"]
        for kind, points in found.items()
        for p in points
    ]
    head = ["pruned", "threshold", "removed", "BLEU", "perplexity"]
    section.tables.append(Table(_name(run, "pruning.table"), "Each threshold", head, rows))
    return section


def _samples(run: RunFolder, text: HeldOut, translations: List[Alignment]) -> Section:
    """The worst and the best translations."""
    sources, references = text.sources, text.references
    section = Section(f"{run.name}: sample translations", ABOUT["samples"].format(lines=len(sources)))
    chrf = CHRF()
    values = [chrf.sentence_score(t.text, [reference]).score for t, reference in zip(translations, references)]
    order = sorted((i for i, source in enumerate(sources) if source.strip()), key=lambda i: values[i])
    worst, best = order[:SAMPLES], [i for i in order[::-1][:SAMPLES] if i not in order[:SAMPLES]]
    for kind, chosen in (("Worst", worst), ("Best", best)):
        for number, i in enumerate(chosen, 1):
            found = translations[i]
            title = f"{kind} {number}: chrF {values[i]:.1f}"
            figure = pictures.alignment(title, found.source, found.target, found.attention)
            numbers = {"chrF": values[i], "line": i + 1, "reference": references[i], **found._asdict()}
            picture = _picture(run, f"alignment.{kind}.{number}".lower(), figure, numbers)
            section.samples.append(Sample(title, sources[i], references[i], found.text, picture))
    return section


def _scores(runs: List[RunFolder]) -> Section:
    """The scores that lie in the folders; those of the report's own translations come in later."""
    section = Section("Scores", ABOUT["scores"])
    rows = []
    for run in runs:
        if not run.scores:
            section.missing.append(
                f"{run.name} has no scores.json: scripts/evaluate.sh writes it, or fairseq-resmlp score --json "
                f"{os.path.join(run.path, 'test', 'scores.json')}"
            )
        for path in run.scores:
            try:
                with open(path, encoding="utf-8") as file:
                    report = json.load(file)
                test = f"{os.path.basename(os.path.dirname(path))} ({report['lines']:,} lines)"
                rows += [[run.name, test, s["name"], f"{s['value']:.1f}", s["signature"]] for s in report["scores"]]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path} is not what fairseq-resmlp score --json writes: {error!r}") from error
    head = ["run", "test set", "score", "value", "signature"]
    section.tables.append(Table("scores", "Final scores", head, rows))
    return section


def _curves(runs: List[RunFolder]) -> Section:
    section = Section("Training")
    found = {}
    for run in runs:
        try:
            found[run.name] = curves.read(run)
        except InputError as error:
            section.missing.append(f"{run.name}: {error}")
    for metric, (title, unit, logarithmic) in curves.METRICS.items():
        splits = ("train", "valid") if metric in ("loss", "ppl", "bleu") else ("train",)
        lines = {
            name: [
                (pictures.shortened(name) + (", validation" if split == "valid" else ""), *of_run[split][metric])
                for split in splits
                if metric in of_run.get(split, {})
            ]
            for name, of_run in found.items()
        }
        if any(lines.values()):
            figure = pictures.training_curve(title, unit, lines, logarithmic)
            numbers = [dict(zip(("run", "updates", "values"), line)) for run in lines.values() for line in run]
            section.pictures.append(_picture(None, f"training.{metric}", figure, {"lines": numbers}))
        elif found:
            hint = ": BLEU during training is logged with --eval-bleu" if metric == "bleu" else " in any log"
            section.missing.append(f"no {title}{hint}")
    return section


def _name(run: RunFolder, name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{run.name}.{name}")


def _percent(share: Optional[float]) -> str:
    return "" if share is None or math.isnan(share) else f"{100 * share:.0f}%"
