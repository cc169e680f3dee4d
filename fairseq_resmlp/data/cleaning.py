"""Cleaning of parallel text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CleaningRules:
    """Which sentence pairs to keep, like Moses' clean-corpus-n with the limits of Ott et al. (2018).

    Args:
        max_length: maximum number of subword tokens per side
        max_ratio: maximum ratio of the longer to the shorter side, in subword tokens
    """

    max_length: int = 250
    max_ratio: float = 1.5

    def reason_to_drop(self, *sides: str) -> str | None:
        """Return why to drop a pair of tokenized lines, or None to keep it."""
        lengths = sorted(side.count(" ") + 1 if side else 0 for side in sides)
        if lengths[0] == 0:
            return "empty"
        if lengths[1] > self.max_length:
            return f"longer than {self.max_length} tokens"
        if lengths[1] > self.max_ratio * lengths[0]:
            return f"length ratio above {self.max_ratio:g}"
        return None
