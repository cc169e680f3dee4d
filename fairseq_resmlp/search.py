"""Beam search over the folded network: the hypotheses and scores of fairseq's SequenceGenerator, without fairseq.

translate(network, [[5, 6, 2], [7, 2]], Options(beam=4))    # [[Hypothesis(tokens, score), ...], ...]
"""

import math
from dataclasses import dataclass
from typing import Callable, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .errors import InputError, check_length
from .fast import EOS, PAD, Network


@dataclass(frozen=True)
class Options:
    """What to search for; names and defaults are fairseq-generate's, but for the beam, where the paper's is 4.

    Args:
        beam: hypotheses kept of each sentence
        lenpen: the sum of log-probabilities is divided by length ** lenpen; above 1 favours longer translations
        unkpen: taken off the log-probability of the unknown word
        min_len, max_len_a, max_len_b: no translation is shorter than min_len or longer than max_len_a * S + max_len_b
            pieces, without its end mark; S is the longest source of the batch, with its end mark
    """

    beam: int = 4
    lenpen: float = 1.0
    unkpen: float = 0.0
    min_len: int = 1
    max_len_a: float = 0.0
    max_len_b: int = 200

    def __post_init__(self):
        for name, least, most in (("lenpen", -10, 10), ("max_len_a", 0, 1000)):
            value = getattr(self, name)
            if not least <= value <= most:  # nor is NaN
                raise InputError(f"--{name.replace('_', '-')} {value}: give a number from {least} to {most}")


class Hypothesis(NamedTuple):
    """A translation: entries of the target dictionary, the last one EOS, and its score."""

    tokens: List[int]
    score: float


# Called after each step with the translation of each sentence that is ahead, in entries of the target dictionary.
Watch = Callable[[List[List[int]]], None]


class _Sentence:
    """A sentence in the search: its hypotheses that go on, best first, and those that have ended."""

    def __init__(self):
        self.rows: List[int] = []  # which row of the last step each hypothesis that goes on extends
        self.scores: List[float] = [0.0]
        self.tokens: List[List[int]] = [[]]
        self.ended: List[Hypothesis] = []

    def ahead(self, length: int, options: Options) -> List[int]:
        """The hypothesis with the best score so far, of those that have ended and the best that goes on."""
        on = Hypothesis(self.tokens[0], self.scores[0] / length**options.lenpen)
        left = [on] if len(self.ended) < options.beam else []
        return max(self.ended + left, key=lambda hypothesis: hypothesis.score).tokens


@torch.inference_mode()
def translate(
    network: Network,
    sources: Sequence[Sequence[int]],
    options: Options,
    allowed: Optional[Tensor] = None,
    watch: Optional[Watch] = None,
) -> List[List[Hypothesis]]:
    """Translate one batch.

    Args:
        network: see `fast`
        sources: entries of the source dictionary, each sentence with EOS at its end
        options: what to search for
        allowed (LongTensor): the only entries of the target dictionary to choose from, see `Network.output_layer`
        watch: see `Watch`

    Returns:
        for each source its hypotheses, best first: as many as the beam, or fewer if the greatest length came first

    Raises:
        InputError: a source that does not fit N, or a sentence without a translation of finite score
    """
    longest = max(map(len, sources))
    check_length(longest, network.shape.encoder_N, "source", "encoder")
    last = min(int(options.max_len_a * longest + options.max_len_b), network.shape.decoder_N - 1)
    if options.min_len > last:
        raise InputError(f"the least length {options.min_len} is more than the greatest, {last}")
    entries = network.shape.decoder_entries if allowed is None else len(allowed)
    if 2 * options.beam > entries - 2:
        raise InputError(
            f"a beam of {options.beam} is too large for {entries} target entries to choose from: --beam "
            f"{max(1, (entries - 2) // 2)} is the largest"
        )
    with network.lock:
        return _search(network, sources, options, allowed, last, watch)


def _search(
    network: Network,
    sources: Sequence[Sequence[int]],
    options: Options,
    allowed: Optional[Tensor],
    last: int,
    watch: Optional[Watch],
) -> List[List[Hypothesis]]:
    beam, device = options.beam, network.device
    batch = pad_sequence([torch.tensor(source) for source in sources], batch_first=True, padding_value=PAD)
    memory = network.encode(batch.to(device))
    output = network.output if allowed is None else network.output_layer(allowed.to(device))
    sentences = [_Sentence() for _ in sources]
    active = list(sentences)
    width = len(sources) * beam
    store = network.store(last + 1, width)
    ancestors = torch.empty(len(sources), 0, dtype=torch.long, device=device)
    tokens = torch.full((len(sources),), EOS, device=device)
    scores = torch.zeros(len(sources), 1, device=device)
    for t in range(last + 1):
        x = network.step(tokens, t, ancestors, store, memory)
        if t == last:
            for sentence, ends in zip(active, network.end(x, scores, output).tolist()):
                for score, old in sorted(zip(ends, sentence.tokens), key=lambda pair: -pair[0]):
                    _end(sentence, old, score, t, options)
            break
        banned = (PAD, EOS) if t < options.min_len else (PAD,)
        found = network.best(x, scores, 2 * beam, banned, options.unkpen, output)
        k = scores.size(1)
        for i, (sentence, *candidates) in enumerate(zip(active, *(part.tolist() for part in found))):
            _go_on(sentence, i * k, zip(*candidates), t, options)
        if watch is not None:
            watch([sentence.ahead(t + 1, options) for sentence in sentences])
        # The last sentences take the places of those that have ended.
        to, of = [], []
        places = list(range(len(active)))
        for i in reversed(places[:]):
            if len(active[i].ended) == beam:
                active[i], places[i] = active[-1], places[-1]
                active.pop()
                places.pop()
        for i, place in enumerate(places):
            if i != place:
                to.append(i)
                of.append(place)
        if not active:
            break
        if len(active) < memory.keys.size(1):
            memory = memory.move(to, of, len(active))
        rows = torch.tensor([sentence.rows for sentence in active], device=device).view(-1)
        tokens = torch.tensor([[old[-1] for old in sentence.tokens] for sentence in active], device=device).view(-1)
        scores = torch.tensor([sentence.scores for sentence in active], device=device)
        ancestors = torch.cat([ancestors.index_select(0, rows), (rows + t * width)[:, None]], 1)
    found = [sorted(sentence.ended, key=lambda hypothesis: -hypothesis.score) for sentence in sentences]
    if not all(hypotheses and math.isfinite(hypotheses[0].score) for hypotheses in found):
        raise InputError("a sentence has no translation with a finite score: the model's numbers overflow or are none")
    return found


def _go_on(sentence: _Sentence, first_row: int, candidates, t: int, options: Options) -> None:
    """Choose from the candidates (score, token, hypothesis), best first: end some, go on with others.

    As in fairseq, an end counts where it is among the first `beam` candidates, and the best `beam` of the others go
    on. There are as many, for a hypothesis has one end and there are twice as many candidates.
    """
    rows, scores, tokens = [], [], []
    for place, (score, token, hypothesis) in enumerate(candidates):
        if token == EOS and score > -math.inf:
            if place < options.beam:
                _end(sentence, sentence.tokens[hypothesis], score, t, options)
        elif len(rows) < options.beam:
            rows.append(first_row + hypothesis)
            scores.append(score)
            tokens.append([*sentence.tokens[hypothesis], token])
    sentence.rows, sentence.scores, sentence.tokens = rows, scores, tokens


def _end(sentence: _Sentence, tokens: List[int], score: float, t: int, options: Options) -> None:
    if len(sentence.ended) < options.beam:
        sentence.ended.append(Hypothesis([*tokens, EOS], score / (t + 1) ** options.lenpen))
