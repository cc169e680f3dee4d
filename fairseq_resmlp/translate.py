"""Text in, text out, with an exported model: one translation for each line, in order. Needs no fairseq.

translator = Translator.load("model")
translator(["Hello!", "A second line."])    # ["Hallo!", "Eine zweite Zeile."]
"""

import logging
from typing import Callable, Iterable, Iterator, List, Optional, Sequence

import sentencepiece
import torch

from . import folder, search
from .errors import InputError
from .fast import EOS, UNK, Network
from .shortlist import Shortlist

logger = logging.getLogger(__name__)

WINDOW = 4096  # lines that are read, sorted by length, and written again in their order
SPACE = "\u2581"  # how SentencePiece writes a space


def read_pieces(path: str) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model; InputError if the file is none."""
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a SentencePiece model") from error


class Translator:
    """An exported model, ready to translate.

    Args:
        exported: what `folder.read` gives
        dtype: of the matrices; None: as stored on a CPU, float16 on a GPU
        device: as torch names it
        options: of the search
        batch_size: the most sentences that are translated together
        max_tokens: the most source pieces of them, padding included; one sentence may have more
    """

    def __init__(
        self,
        exported: folder.Exported,
        dtype: Optional[str] = None,
        device: str = "cpu",
        options: search.Options = search.Options(),  # noqa: B008  it cannot be changed
        batch_size: int = 64,
        max_tokens: int = 4096,
    ):
        if dtype is None:
            on_cpu = torch.device(device).type == "cpu"
            dtype = exported.dtype if on_cpu and exported.dtype != "float16" else "float32" if on_cpu else "float16"
        self.network = Network(exported.shape, exported.weights, dtype, device)
        self.options, self.batch_size, self.max_tokens = options, batch_size, max_tokens
        self.number = {entry: number for number, entry in enumerate(exported.source)}
        self.target = exported.target
        self.pieces = read_pieces(exported.pieces)
        self.shortlist = None
        if exported.shortlist is not None:
            self.shortlist = Shortlist.read(exported.shortlist, exported.source, exported.target)

    @classmethod
    def load(cls, path: str, **kwargs) -> "Translator":
        """Read an exported model from a folder; further arguments and errors are those of the class and `folder`."""
        return cls(folder.read(path), **kwargs)

    def __call__(self, lines: Iterable[str]) -> List[str]:
        """Translate any number of lines of text."""
        return list(self.stream([list(lines)]))

    def stream(self, windows: Iterable[List[str]], done: Callable[[int], None] = lambda lines: None) -> Iterator[str]:
        """Translate lines that come in lists, whose order is kept; within each, lines of a length go together.

        Args:
            windows: lists of lines, such as `text.read` gives
            done: called with the number of lines after each batch
        """
        for window in windows:
            sources = [self.encode(line) for line in window]
            found = [""] * len(window)
            empty = sum(len(source) == 1 for source in sources)
            if empty:
                done(empty)
            for batch in self.batches([len(source) for source in sources]):
                for i, tokens in zip(batch, self.translate([sources[i] for i in batch])):
                    found[i] = self.decode(tokens)
                done(len(batch))
            yield from found

    def split(self, line: str) -> List[str]:
        """The pieces of a line."""
        # Half a surrogate pair is no text. Odd spaces inside of pieces part them, as in fairseq's dictionary.
        line = line.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return " ".join(self.pieces.encode(line.strip(), out_type=str)).split()

    def encode(self, line: str) -> List[int]:
        """The pieces of a line as entries of the dictionary, with EOS; a line that does not fit N is cut."""
        pieces = self.split(line)
        limit = self.network.shape.encoder_N
        if len(pieces) >= limit:
            logger.warning(
                f"a line of {len(pieces):,} pieces is cut to its first {limit - 1}, which is what N = {limit} holds "
                f"with the end-of-sentence mark: {' '.join(pieces[:8])} ..."
            )
        return [*(self.number.get(piece, UNK) for piece in pieces[: limit - 1]), EOS]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of entries of the target dictionary."""
        text = "".join(self.target[token] for token in tokens if token not in (0, EOS))
        return text.replace(" ", "").replace(SPACE, " ").strip()

    def batches(self, lengths: Sequence[int]) -> Iterator[List[int]]:
        """Numbers of sentences that go together, those of a length, longest first, but for empty ones (length 1)."""
        batch: List[int] = []
        for i in sorted((i for i, length in enumerate(lengths) if length > 1), key=lambda i: -lengths[i]):
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * lengths[batch[0]] > self.max_tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def translate(self, sources: Sequence[Sequence[int]]) -> List[List[int]]:
        """The best translation of each sentence of a batch, in entries of the dictionaries."""
        return [found[0].tokens for found in self.hypotheses(sources)]

    def hypotheses(
        self, sources: Sequence[Sequence[int]], watch: Optional[search.Watch] = None
    ) -> List[List[search.Hypothesis]]:
        """The translations of each sentence of a batch, best first; `watch` is called after each step."""
        allowed = None if self.shortlist is None else self.shortlist.allowed(sources)
        return search.translate(self.network, sources, self.options, allowed, watch)
