"""Translation of text with an exported model: one translation per line, in order.

translator = Translator.load("model")
translator(["Hello!", "A second line."])    # ["Hallo!", "Eine zweite Zeile."]
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from fairseq_resmlp.common.sentencepiece_model import WORD_BOUNDARY, load_sentencepiece
from fairseq_resmlp.common.text import replace_surrogates
from fairseq_resmlp.inference.beam_search import Hypothesis, SearchOptions, StepCallback, beam_search
from fairseq_resmlp.inference.config import BOS, EOS, UNK
from fairseq_resmlp.inference.model_format import ExportedModel, load_exported_model
from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.inference.shortlist import Shortlist

logger = logging.getLogger(__name__)

WINDOW = 4096  # lines that are read, sorted by length, translated, and written in their original order


class Translator:
    """An exported model, ready to translate.

    Args:
        exported: from `load_exported_model`
        dtype: of the matrices; None: as stored on a CPU, float16 on a GPU
        device: a torch device
        options: options of the search
        batch_size: maximum number of sentences in a batch
        max_tokens: maximum number of source tokens in a batch, including padding; a single sentence may have more
    """

    def __init__(
        self,
        exported: ExportedModel,
        dtype: str | None = None,
        device: str = "cpu",
        options: SearchOptions = SearchOptions(),  # noqa: B008  immutable
        batch_size: int = 64,
        max_tokens: int = 4096,
    ):
        if dtype is None:
            on_cpu = torch.device(device).type == "cpu"
            dtype = exported.dtype if on_cpu and exported.dtype != "float16" else "float32" if on_cpu else "float16"
        self.network = Network(exported.config, exported.weights, dtype, device)
        self.options, self.batch_size, self.max_tokens = options, batch_size, max_tokens
        self.source_ids = {entry: number for number, entry in enumerate(exported.source)}
        self.target = exported.target
        self.languages = exported.languages
        self.sentencepiece = load_sentencepiece(exported.sentencepiece)
        self.shortlist = None
        if exported.shortlist is not None:
            self.shortlist = Shortlist.read(exported.shortlist, exported.source, exported.target)

    @classmethod
    def load(cls, path: str, **kwargs: Any) -> "Translator":
        """Read an exported model from a directory. Further arguments are those of the class.

        Raises:
            InputError: see `load_exported_model` and `Network`
        """
        return cls(load_exported_model(path), **kwargs)

    def __call__(self, lines: Iterable[str]) -> list[str]:
        """Translate any number of lines of text."""
        return list(self.stream([list(lines)]))

    def stream(
        self, windows: Iterable[list[str]], progress_callback: Callable[[int], object] = lambda lines: None
    ) -> Iterator[str]:
        """Translate lists of lines, in order. Within a list, lines of similar length are translated together.

        Args:
            windows: lists of lines, for example from `read_lines`
            progress_callback: called with the number of lines after each batch
        """
        for window in windows:
            sources = [self.encode(line) for line in window]
            found = [""] * len(window)
            empty = sum(len(source) == 1 for source in sources)
            if empty:
                progress_callback(empty)
            for batch in self.batches([len(source) for source in sources]):
                for i, (best, *_) in zip(batch, self.hypotheses([sources[i] for i in batch])):
                    found[i] = self.decode(best.tokens)
                progress_callback(len(batch))
            yield from found

    def tokenize(self, line: str) -> list[str]:
        """Split a line into subword tokens."""
        # Like fairseq's dictionary, split at unusual spaces within subwords.
        return " ".join(self.sentencepiece.encode(replace_surrogates(line).strip(), out_type=str)).split()

    def encode(self, line: str) -> list[int]:
        """Return the tokens of a line as entries of the source dictionary, ending with EOS.

        A line that exceeds N is truncated, with a warning.
        """
        tokens = self.tokenize(line)
        limit = self.network.config.encoder_max_positions
        if len(tokens) >= limit:
            logger.warning(
                f"a line of {len(tokens):,} tokens was truncated to its first {limit - 1}, because N = {limit} "
                f"includes the end-of-sentence token: {' '.join(tokens[:8])} ..."
            )
        return [*(self.source_ids.get(token, UNK) for token in tokens[: limit - 1]), EOS]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of entries of the target dictionary."""
        text = "".join(self.target[token] for token in tokens if token not in (BOS, EOS))
        return text.replace(" ", "").replace(WORD_BOUNDARY, " ").strip()

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield batches of sentence numbers, longest sentences first, without empty sentences (length 1)."""
        batch: list[int] = []
        for i in sorted((i for i, length in enumerate(lengths) if length > 1), key=lambda i: -lengths[i]):
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * lengths[batch[0]] > self.max_tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def hypotheses(
        self, sources: Sequence[Sequence[int]], step_callback: StepCallback | None = None
    ) -> list[list[Hypothesis]]:
        """Translate a batch. Arguments, result and errors are those of `beam_search`."""
        allowed = None if self.shortlist is None else self.shortlist.allowed(sources)
        return beam_search(self.network, sources, self.options, allowed, step_callback)
