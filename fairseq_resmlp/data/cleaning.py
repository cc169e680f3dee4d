"""Cleaning of parallel text, and joining of neighbouring pairs."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GROUP_SIZES = (2, 3, 4)  # pairs that are joined to one


@dataclass(frozen=True)
class CleaningRules:
    """Which sentence pairs to keep, like Moses' clean-corpus-n with the limits of Ott et al. (2018).

    Args:
        max_length: maximum number of subword tokens per side
        max_ratio: maximum ratio of the longer to the shorter side, in subword tokens
        join_share: share of the kept pairs to join with their neighbours
    """

    max_length: int = 250
    max_ratio: float = 1.5
    join_share: float = 0.0

    def reason_to_drop(self, *sides: str) -> str | None:
        """Return why to drop a pair of tokenized lines, or None to keep it."""
        lengths = sorted(map(_length, sides))
        if lengths[0] == 0:
            return "empty"
        if lengths[1] > self.max_length:
            return f"longer than {self.max_length} tokens"
        if lengths[1] > self.max_ratio * lengths[0]:
            return f"length ratio above {self.max_ratio:g}"
        return None

    def group_neighbours(self, pairs: Sequence[tuple[str, ...]], seed: int) -> Iterator[Sequence[tuple[str, ...]]]:
        """Yield groups of pairs to join: 2, 3 or 4 neighbours, equally often, or a single pair.

        `join_share` of the pairs are in groups of several. A group is smaller if it would exceed `max_length`.

        Args:
            pairs: kept pairs of tokenized lines
            seed: of the random numbers; the result depends on the arguments only
        """
        numbers = random.Random(seed)
        # Groups of several have 3 pairs on average: if each begins with probability p, 3p of 3p + (1 - p) pairs are in
        # one.
        p = self.join_share / (3 - 2 * self.join_share)
        i = 0
        while i < len(pairs):
            size = 1
            if numbers.random() < p:
                longest = numbers.choice(GROUP_SIZES)
                lengths = [_length(side) for side in pairs[i]]
                for pair in pairs[i + 1 : i + longest]:
                    lengths = [length + _length(side) for length, side in zip(lengths, pair)]
                    if max(lengths) > self.max_length:
                        break
                    size += 1
            yield pairs[i : i + size]
            i += size


def _length(side: str) -> int:
    return side.count(" ") + 1 if side else 0
