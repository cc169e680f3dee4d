"""Translations as HTML. The templates escape all text and set the direction and language of each text."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jinja2
from torch import Tensor

MAX_ALIGNED = 60  # tokens shown on either side of an alignment

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("fairseq_resmlp.server", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Translation:
    """The translations of one sentence.

    Args:
        line: the sentence
        source: its tokens, without the end-of-sentence token
        texts: the translations, best first
        scores: of the translations: mean log-probability per token
        target: the tokens of the best translation, without the end-of-sentence token
        attention: T x S, including the end-of-sentence tokens, see `Network.attention`
    """

    line: str
    source: list[str]
    texts: list[str]
    scores: list[float]
    target: list[str]
    attention: Tensor


class _Cell(NamedTuple):
    weight: float
    percent: str  # empty if it rounds to 0
    is_dark: bool


def render_model(name: str, description: str) -> str:
    """Return the heading of a model's column."""
    return _render("model", name=name, description=description)


def render_notice(message: str) -> str:
    """Return an error message, which screen readers announce at once."""
    return _render("notice", message=message)


def render_partial(lines: Sequence[str], texts: Sequence[str], language: str) -> str:
    """Return the best translations so far, during the search."""
    return _render("partial", sentences=list(zip(lines, texts, strict=True)), language=language)


def render_result(translations: Sequence[Translation], timing: str, language: str) -> str:
    """Return the translations of all sentences with their scores and alignments."""
    sentences = [(translation, _alignment(translation)) for translation in translations]
    return _render("result", sentences=sentences, timing=timing, language=language)


def render_maps(plots: Mapping[str, bytes]) -> str:
    """Return the interaction maps of a model, given as SVG by layer name."""
    return _render("maps", plots={name: b64encode(svg).decode() for name, svg in plots.items()})


def _render(template: str, **values: object) -> str:
    return _ENVIRONMENT.get_template(f"{template}.html").render(values)


def _alignment(translation: Translation) -> dict[str, object]:
    columns, rows = [*translation.source, "</s>"], [*translation.target, "</s>"]
    weights = translation.attention[:MAX_ALIGNED, :MAX_ALIGNED].tolist()
    return {
        "columns": columns[:MAX_ALIGNED],
        "rows": [(token, list(_cells(row))) for token, row in zip(rows[:MAX_ALIGNED], weights, strict=True)],
        "truncated": [
            f"Only the first {MAX_ALIGNED} of the {len(tokens)} {side} tokens are shown."
            for side, tokens in (("source", columns), ("target", rows))
            if len(tokens) > MAX_ALIGNED
        ],
    }


def _cells(weights: Sequence[float]) -> Iterator[_Cell]:
    for weight in weights:
        yield _Cell(weight, f"{100 * weight:.0f}" if weight >= 0.005 else "", weight > 0.6)
