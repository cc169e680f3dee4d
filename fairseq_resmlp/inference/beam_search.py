"""Beam search with the inference network: the hypotheses and scores of fairseq's SequenceGenerator.

beam_search(network, [[5, 6, 2], [7, 2]], SearchOptions(beam=4))    # [[Hypothesis(tokens, score), ...], ...]
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_resmlp.common.errors import InputError, check_length
from fairseq_resmlp.inference.config import EOS, PAD
from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.inference.step_graphs import fixed_size_decoder
from fairseq_resmlp.inference.transfer import to_lists, to_tensors

_RANGES = (
    ("beam", 1, 10_000),
    ("lenpen", -10, 10),
    ("unkpen", -1000, 1000),
    ("min_len", 0, 1_000_000),
    ("max_len_a", 0, 1000),
    ("max_len_b", 0, 1_000_000),
)


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search. Names and defaults are fairseq-generate's, except the beam, which is the paper's 4.

    Args:
        beam: hypotheses per sentence
        lenpen: length penalty; scores are sums of log-probabilities divided by length ** lenpen, so values above 1
            favor longer translations
        unkpen: penalty subtracted from the log-probability of the unknown word
        min_len: minimum length in tokens, excluding the end-of-sentence token
        max_len_a, max_len_b: maximum length, max_len_a * S + max_len_b, where S is the length of the longest source of
            the batch, including its end-of-sentence token

    Raises:
        InputError: a value is out of range
    """

    beam: int = 4
    lenpen: float = 1.0
    unkpen: float = 0.0
    min_len: int = 1
    max_len_a: float = 0.0
    max_len_b: int = 200

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:  # also false for NaN
                raise InputError(
                    f"--{name.replace('_', '-')} {value} is out of range: use a number from {least} to {most}"
                )


class Hypothesis(NamedTuple):
    """A translation: entries of the target dictionary, ending with EOS, and its score."""

    tokens: list[int]
    score: float


NOT_FINITE = "a sentence has no translation with a finite score: the model's activations overflow or are NaN"


class Stopped(Exception):
    """A search was ended from another thread."""


# Called after each step with the best translation of each sentence so far, in entries of the target dictionary. Returns
# the numbers of the sentences to abandon, or None.
StepCallback = Callable[[list[list[int]]], Iterable[int] | None]


@torch.inference_mode()
def beam_search(
    network: Network,
    sources: Sequence[Sequence[int]],
    options: SearchOptions,
    allowed: Tensor | None = None,
    step_callback: StepCallback | None = None,
    stop: threading.Event | None = None,
) -> list[list[Hypothesis]]:
    """Translate one batch.

    Args:
        network: the model
        sources: entries of the source dictionary, each sentence ending with EOS
        options: options of the search
        allowed (LongTensor): the entries of the target dictionary to choose from, see `Network.output_layer`
        step_callback: see `StepCallback`
        stop: set by another thread to end the search

    Returns:
        the hypotheses of each source, best first: as many as the beam, or fewer if the maximum length was reached; none
        if the source was abandoned

    Raises:
        InputError: a source exceeds N, the options are not possible with this model, or a sentence has no translation
            with a finite score
        Stopped: `stop` was set
    """
    longest = max(map(len, sources))
    check_length(longest, network.config.encoder_max_positions, "source", "encoder")
    max_len = min(int(options.max_len_a * longest + options.max_len_b), network.config.decoder_max_positions - 1)
    if options.min_len > max_len:
        raise InputError(f"the minimum length {options.min_len} exceeds the maximum length {max_len}")
    entries = network.config.decoder_vocab_size if allowed is None else len(allowed)
    if 2 * options.beam > entries - 2:
        raise InputError(
            f"a beam of {options.beam} is too large for {entries} target entries: the maximum is --beam "
            f"{max(1, (entries - 2) // 2)}"
        )
    with network.search_memory(max_len + 1, len(sources) * options.beam) as store:
        search = _Search(network, sources, options, allowed, max_len, store)
        search.run(step_callback, stop)
    found = [sorted(sentence.finished, key=lambda hypothesis: -hypothesis.score) for sentence in search.sentences]
    for sentence, hypotheses in zip(search.sentences, found):
        if not sentence.is_abandoned and not (hypotheses and math.isfinite(hypotheses[0].score)):
            raise InputError(NOT_FINITE)
    return found


@dataclass
class _Sentence:
    """A sentence in the search: its unfinished hypotheses, best first, and its finished ones."""

    options: SearchOptions
    rows: list[int] = field(default_factory=list)  # row of the last step that each unfinished hypothesis extends
    scores: list[float] = field(default_factory=lambda: [0.0])
    tokens: list[list[int]] = field(default_factory=lambda: [[]])
    finished: list[Hypothesis] = field(default_factory=list)
    is_abandoned: bool = False

    @property
    def is_done(self) -> bool:
        return len(self.finished) == self.options.beam

    def extend(self, first_row: int, candidates: Iterable[tuple[float, int, int]], t: int) -> None:
        """Choose from the candidates (score, token, hypothesis), best first: finish some, continue others.

        As in fairseq, an EOS counts if it is among the first `beam` candidates, and the best `beam` other candidates
        continue. There are always enough of them: each hypothesis has one EOS, and there are 2 * beam candidates.
        """
        rows: list[int] = []
        scores: list[float] = []
        tokens: list[list[int]] = []
        for place, (score, token, hypothesis) in enumerate(candidates):
            if token == EOS and score > -math.inf:
                if place < self.options.beam:
                    self.finish(self.tokens[hypothesis], score, t)
            elif len(rows) < self.options.beam:
                rows.append(first_row + hypothesis)
                scores.append(score)
                tokens.append([*self.tokens[hypothesis], token])
        self.rows, self.scores, self.tokens = rows, scores, tokens

    def finish(self, tokens: list[int], score: float, t: int) -> None:
        if not self.is_done:
            self.finished.append(Hypothesis([*tokens, EOS], score / (t + 1) ** self.options.lenpen))

    def best(self, length: int) -> list[int]:
        """Return the tokens of the best hypothesis so far, finished or not."""
        unfinished = Hypothesis(self.tokens[0], self.scores[0] / length**self.options.lenpen)
        candidates = self.finished if self.is_done else [*self.finished, unfinished]
        return max(candidates, key=lambda hypothesis: hypothesis.score).tokens


class _Search:
    """The beam search of one batch.

    `active` contains the sentences that are not done. Sentence i of them owns the rows i k to (i + 1) k of `tokens`,
    `scores` and `ancestors`, and sentence i of `cache`.
    """

    def __init__(
        self,
        network: Network,
        sources: Sequence[Sequence[int]],
        options: SearchOptions,
        allowed: Tensor | None,
        max_len: int,
        store: Tensor,
    ):
        self.network, self.options, self.max_len, self.device = network, options, max_len, network.device
        batch = pad_sequence([torch.tensor(source) for source in sources], batch_first=True, padding_value=PAD)
        self.cache = network.encode(batch.to(self.device))
        self.output = network.output if allowed is None else network.output_layer(allowed.to(self.device))
        self.sentences = [_Sentence(options) for _ in sources]
        self.active = list(self.sentences)
        self.decoder = None
        if network.cuda_graphs:
            self.decoder = fixed_size_decoder(network, len(sources), batch.size(1), options.beam)
            self.cache, self.width, self.store = self.decoder.load(self.cache), self.decoder.R, self.decoder.store
        else:
            self.width, self.store = len(sources) * options.beam, store
        self.ancestors = torch.empty(len(sources), 0, dtype=torch.long, device=self.device)  # R x t
        self.tokens = torch.full((len(sources),), EOS, device=self.device)  # R
        self.scores = torch.zeros(len(sources), 1, device=self.device)  # B x k

    def run(self, step_callback: StepCallback | None, stop: threading.Event | None) -> None:
        for t in range(self.max_len + 1):
            if stop is not None and stop.is_set():
                raise Stopped
            if self.decoder is None or t == 0:  # the first step has one row per sentence
                x = self.network.step(self.tokens, t, self.ancestors, self.store, self.cache)
            else:
                x = self.decoder.step(self.tokens, t, self.ancestors)
            if t == self.max_len:
                self.finish_all(x, t)
                break
            self.extend_all(x, t)
            if step_callback is not None:
                for i in step_callback([sentence.best(t + 1) for sentence in self.sentences]) or ():
                    self.sentences[i].is_abandoned = True
            self.remove_done()
            if not self.active:
                break
            self.update_rows(t)

    def finish_all(self, x: Tensor, t: int) -> None:
        """End every hypothesis at the maximum length."""
        for sentence, ends in zip(self.active, self.network.score_eos(x, self.scores, self.output).tolist()):
            for score, tokens in sorted(zip(ends, sentence.tokens), key=lambda pair: -pair[0]):
                sentence.finish(tokens, score, t)

    def extend_all(self, x: Tensor, t: int) -> None:
        """Extend the hypotheses of every sentence by one token."""
        banned = (PAD, EOS) if t < self.options.min_len else (PAD,)
        found = self.network.topk_candidates(
            x, self.scores, 2 * self.options.beam, banned, self.options.unkpen, self.output
        )
        scores, tokens, hypotheses = to_lists(*found)
        if any(math.isnan(best) for best, *_ in scores):  # NaN sorts first, also in columns beyond the dictionary
            raise InputError(NOT_FINITE)
        k = self.scores.size(1)
        for i, (sentence, *candidates) in enumerate(zip(self.active, scores, tokens, hypotheses)):
            sentence.extend(i * k, zip(*candidates), t)

    def remove_done(self) -> None:
        """Remove the sentences that are done or abandoned, filling each gap with the last sentence."""
        places = list(range(len(self.active)))
        for i in reversed(range(len(self.active))):
            if self.active[i].is_done or self.active[i].is_abandoned:
                self.active[i], places[i] = self.active[-1], places[-1]
                self.active.pop()
                places.pop()
        if self.active and len(self.active) < self.cache.keys.size(1):
            moves = [(i, place) for i, place in enumerate(places) if i != place]
            self.cache = self.cache.compact(moves, len(self.active))

    def update_rows(self, t: int) -> None:
        """Prepare the rows of the next step from the hypotheses that continue."""
        lists = [
            [sentence.rows for sentence in self.active],
            [[tokens[-1] for tokens in sentence.tokens] for sentence in self.active],
            [sentence.scores for sentence in self.active],
        ]  # B x k each
        rows, self.tokens, self.scores = to_tensors([torch.long, torch.long, torch.float], lists, self.device)
        rows, self.tokens = rows.flatten(), self.tokens.flatten()
        self.ancestors = torch.cat([self.ancestors.index_select(0, rows), (rows + t * self.width)[:, None]], 1)
