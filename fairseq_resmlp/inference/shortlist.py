"""Lexical shortlists: the target subwords that may translate a source sentence, which make the output layer small.

The file has the format of CTranslate2's vocabulary map (`vmap`): per line a source n-gram, a tab, and the target
subwords that it allows, separated by spaces. The line of the empty n-gram lists the subwords that are always allowed.
Here, an n-gram is a single subword. A source subword that is missing from the file allows nothing more.

    <TAB>. , ▁ein e n
    ▁dog<TAB>▁Hund ▁Hunde hund

`fairseq_resmlp.data.shortlist_learning` learns one from a bitext.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.config import SPECIAL_SYMBOLS


class Shortlist:
    """Allowed target entries for each source entry.

    Args:
        always (LongTensor): target entries that are allowed in every sentence
        by_source: for each source entry, a LongTensor of the entries that it allows
    """

    def __init__(self, always: Tensor, by_source: dict[int, Tensor]):
        self.always = torch.cat([torch.arange(len(SPECIAL_SYMBOLS)), always])
        self.by_source = by_source

    @classmethod
    def read(cls, path: str, source: Sequence[str], target: Sequence[str]) -> "Shortlist":
        """Read a file, ignoring subwords that are not in the dictionaries `source` and `target`.

        Raises:
            InputError: a line is malformed, or its n-gram is longer than one subword
        """
        source_ids = {entry: i for i, entry in enumerate(source)}
        target_ids = {entry: i for i, entry in enumerate(target)}
        always, by_source = torch.zeros(0, dtype=torch.long), {}
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    subword, tab, allowed = line.rstrip("\n").partition("\t")
                    if not tab or " " in subword:
                        raise InputError(f"{path}: line {number} is not a source subword, a tab, and target subwords")
                    found = [target_ids[word] for word in allowed.split(" ") if word in target_ids]
                    ids = torch.tensor(found, dtype=torch.long)
                    if not subword:
                        always = ids
                    elif subword in source_ids:
                        by_source[source_ids[subword]] = ids
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8") from error
        return cls(always, by_source)

    @property
    def is_empty(self) -> bool:
        """Whether no subword of the file is in the dictionaries."""
        return not self.by_source and len(self.always) == len(SPECIAL_SYMBOLS)

    def allowed(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """Return the target entries that a batch of sentences may use: a LongTensor in ascending order."""
        entries = {entry for sentence in sources for entry in sentence}
        return torch.cat([self.always, *(self.by_source[i] for i in entries if i in self.by_source)]).unique()
