"""A shortlist: the target pieces that a source sentence's pieces may become, so that the output layer is small.

The file is that of CTranslate2's vocabulary map (`vmap`): a line for each n-gram of the source, a tab, and the target
pieces it allows, separated by spaces. The line of the empty n-gram names the pieces that are always allowed. Here an
n-gram is a single piece; a source piece that is not in the file allows nothing more.

    <TAB>. , ▁ein e n
    ▁dog<TAB>▁Hund ▁Hunde hund
"""

from collections import Counter
from typing import Dict, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .errors import InputError

ROUNDS = 4  # of expectation and maximisation
TOGETHER = 500  # sentence pairs at a time


class Shortlist:
    """Target entries by source entries.

    Args:
        always: target entries that every sentence may use
        of: for each source entry those that it adds
    """

    def __init__(self, always: Tensor, of: Dict[int, Tensor]):
        self.always = torch.cat([torch.arange(4), always])  # with the dictionary's special entries
        self.of = of

    @classmethod
    def read(cls, path: str, source: Sequence[str], target: Sequence[str]) -> "Shortlist":
        """Read a file; `source` and `target` are the entries of the dictionaries. Entries they lack are left out.

        Raises:
            InputError: a line is not N-GRAM TAB PIECES, or is longer than one piece
        """
        numbers = {entry: i for i, entry in enumerate(source)}
        entries = {entry: i for i, entry in enumerate(target)}
        always, of = torch.zeros(0, dtype=torch.long), {}
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    piece, tab, allowed = line.rstrip("\n").partition("\t")
                    if not tab or " " in piece:
                        raise InputError(f"{path}: line {number} is not one source piece, a tab and target pieces")
                    found = [entries[word] for word in allowed.split(" ") if word in entries]
                    found = torch.tensor(found, dtype=torch.long)
                    if not piece:
                        always = found
                    elif piece in numbers:
                        of[numbers[piece]] = found
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8") from error
        return cls(always, of)

    def allowed(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """What a batch of sentences may use: a LongTensor of target entries in rising order."""
        pieces = {piece for sentence in sources for piece in sentence}
        return torch.cat([self.always, *(self.of[piece] for piece in pieces if piece in self.of)]).unique()


def learn(pairs: Sequence[Tuple[str, str]], always: int = 200, each: int = 50) -> Iterator[Tuple[str, List[str]]]:
    """Learn a shortlist from a bitext in pieces by IBM Model 1 (Brown et al., 1993, section 4.1).

    Args:
        pairs: source and target lines, pieces separated by spaces
        always: how many of the most frequent target pieces are allowed everywhere
        each: how many a source piece adds, those with the largest p(target | source)

    Returns:
        lines of the file: a source piece ("" first) and the target pieces it allows; a source piece that is a target
        piece, too, such as one of a name, allows itself
    """
    counts = [Counter(piece for pair in pairs for piece in pair[side].split()) for side in (0, 1)]
    pieces = [[piece for piece, _ in count.most_common()] for count in counts]
    numbers = [{piece: i for i, piece in enumerate(side)} for side in pieces]
    V = len(pieces[1])
    batches = []  # by length, since they are padded
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), TOGETHER):
        chosen = [pairs[i] for i in order[start : start + TOGETHER] if all(map(str.split, pairs[i]))]
        sides = zip(*chosen)
        batches.append(
            [
                pad_sequence([torch.tensor([of[piece] for piece in line.split()]) for line in side], True, -1)
                for of, side in zip(numbers, sides)
            ]
        )
    batches = [batch for batch in batches if batch]

    def links(source: Tensor, target: Tensor) -> Tuple[Tensor, Tensor]:  # n x T x S numbers of pairs, and which are
        source, target = source[:, None], target[:, :, None]
        return source * V + target, (source >= 0) & (target >= 0)

    table = torch.zeros(0, dtype=torch.long)  # every pair of pieces that meet
    for batch in batches:
        keys, real = links(*batch)
        table = torch.cat([table, keys[real].unique()]).unique()
    p = torch.ones(len(table), dtype=torch.float64)
    for _ in range(ROUNDS):
        expected = torch.zeros_like(p)
        for batch in batches:
            keys, real = links(*batch)
            places = torch.searchsorted(table, keys).clamp_max(len(table) - 1)
            share = p[places] * real
            share /= share.sum(-1, keepdim=True).clamp_min(1e-300)
            expected.index_add_(0, places[real], share[real])
        source = table // V
        p = expected / torch.zeros(len(pieces[0]), dtype=p.dtype).index_add_(0, source, expected)[source]
    yield "", pieces[1][:always]
    ends = torch.searchsorted(table, torch.arange(1, len(pieces[0]) + 1) * V).tolist()
    for piece, start, end in zip(pieces[0], [0, *ends], ends):
        best = table[start:end][p[start:end].topk(min(each, end - start))[1]] % V
        allowed = [pieces[1][i] for i in best.tolist()]
        yield piece, allowed if piece in allowed or piece not in numbers[1] else [*allowed, piece]
