"""What a person sees of a translation: HTML, in which all text is escaped and each language keeps its direction."""

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from typing import Dict, List, Sequence

from torch import Tensor

DRAWN = 60  # pieces that an alignment shows of either side: more than fit any screen


@dataclass(frozen=True)
class Found:
    """What was found for one sentence.

    Args:
        source: its pieces, without the end mark
        texts: the translations, best first
        scores: of the translations: the mean log-probability of a piece
        target: the pieces of the best translation, without the end mark
        attention: T x S, end marks included, see `Network.attention`
    """

    source: List[str]
    texts: List[str]
    scores: List[float]
    target: List[str]
    attention: Tensor


def title(name: str, about: str) -> str:
    """The head of a model's column."""
    return f'<h2>{escape(name)}</h2><p class="quiet">{escape(about)}</p>'


def notice(message: str) -> str:
    """What went wrong, said by screen readers at once."""
    return f'<p class="notice" role="alert">{escape(message)}</p>'


def growing(sources: Sequence[str], texts: Sequence[str], language: str) -> str:
    """The translations that are ahead while the search goes on."""
    return "".join(
        _head(source, text, language, "translation growing") + '<p class="quiet">searching ...</p>'
        for source, text in zip(sources, texts)
    )


def result(sources: Sequence[str], found: Sequence[Found], timing: str, language: str) -> str:
    """The translations of all sentences with what there is to know of them."""
    parts = [f'<p class="quiet timing">{escape(timing)}</p>']
    for source, sentence in zip(sources, found):
        parts.append(_head(source, sentence.texts[0], language, "translation"))
        parts.append(_best(sentence, language))
        parts.append(_alignment(sentence))
    return "".join(parts)


def maps(pictures: Dict[str, bytes]) -> str:
    """The interaction maps of a model, SVG by the name of the layer."""
    shown = "".join(
        f'<img alt="Interaction map: A of {escape(name)}" src="data:image/svg+xml;base64,{b64encode(svg).decode()}">'
        for name, svg in pictures.items()
    )
    return (
        "<details><summary>Interaction maps: how each layer mixes tokens</summary>"
        '<p class="quiet">Each layer adds to the token at position i those at all positions j, times A[i, j]. A is the '
        "same for all sentences. It is drawn up to the longest sentence of training; the decoder sees the past alone."
        f'</p><div class="maps">{shown or "<p>This model mixes no tokens: A = 0.</p>"}</div></details>'
    )


def _head(source: str, text: str, language: str, kind: str) -> str:
    return (
        f'<p class="quiet source" dir="auto">{escape(source)}</p>'
        f'<p class="{kind}" dir="auto" lang="{escape(language)}">{escape(text)}</p>'
    )


def _best(found: Found, language: str) -> str:
    rows = "".join(
        f'<tr><td>{rank}</td><td>{score:.3f}</td><td dir="auto" lang="{escape(language)}">{escape(text)}</td></tr>'
        for rank, (text, score) in enumerate(zip(found.texts, found.scores), 1)
    )
    return (
        f"<details open><summary>The {len(found.texts)} best translations</summary>"
        '<p class="quiet">Score: the mean of the natural logarithms of the probabilities of its pieces. 0 would be '
        "certainty; the nearer, the better.</p>"
        f'<table class="best"><tr><th scope="col">#</th><th scope="col">score</th><th scope="col">translation</th></tr>'
        f"{rows}</table></details>"
    )


def _alignment(found: Found) -> str:
    columns, rows = [*found.source, "</s>"], [*found.target, "</s>"]
    cut = " ".join(
        f"Of the {len(pieces)} {side} pieces, the first {DRAWN} are shown."
        for side, pieces in (("source", columns), ("target", rows))
        if len(pieces) > DRAWN
    )
    head = "".join(_label("col", piece) for piece in columns[:DRAWN])
    body = ""
    for piece, weights in zip(rows[:DRAWN], found.attention[:DRAWN, :DRAWN].tolist()):
        cells = "".join(
            f'<td style="--weight:{weight:.2f}"{" class=deep" if weight > 0.6 else ""}>'
            f"{round(100 * weight) if weight >= 0.005 else ''}</td>"
            for weight in weights
        )
        body += f"<tr>{_label('row', piece)}{cells}</tr>"
    return (
        "<details open><summary>Alignment: from which source pieces each target piece was read</summary>"
        '<p class="quiet">Cross-attention of the last decoder layer, the mean of its heads, in percent: '
        f'0 <span class="ramp"></span> 100. Each row adds up to 100. \u2581 begins a word, &lt;/s&gt; is the end. {cut}'
        f'</p><div class="scroll" tabindex="0"><table class="alignment"><tr><th class="axis">target \u2193</th>'
        f'<th class="axis" colspan="{len(columns[:DRAWN])}">source \u2192</th></tr><tr><th></th>{head}</tr>'
        f"{body}</table></div></details>"
    )


def _label(scope: str, piece: str) -> str:
    return f'<th scope="{scope}" title="{escape(piece)}"><bdi>{escape(piece)}</bdi></th>'
