"""Finding the files of a trained model, given its run directory, a model directory or a checkpoint."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq_resmlp.common.errors import InputError

# In order of preference: scripts/evaluate.sh scores the average.
CHECKPOINTS = ("average*.pt", "model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
DICTIONARIES = ("dict.*.txt", "data-bin/dict.*.txt")
SENTENCEPIECE_NAMES = ("sentencepiece.bpe.model", "spm.model")


@dataclass(frozen=True)
class ModelFiles:
    """Locations of the files of a model. Missing ones are None.

    Args:
        home: the directory of the run or model
        checkpoint: a file
        dictionaries: directory of dict.*.txt
        sentencepiece: a SentencePiece model
    """

    home: str
    checkpoint: str | None
    dictionaries: str | None
    sentencepiece: str | None

    def require_checkpoint(self, also: str = "") -> str:
        """Return the checkpoint, or raise InputError that says what was looked for, and `also`."""
        if self.checkpoint is None:
            raise InputError(
                f"no model found in {self.home}: there is no {', '.join(CHECKPOINTS)}, also not in checkpoints/{also}; "
                "specify a run directory, a model directory or a checkpoint"
            )
        return self.checkpoint


def find_model_files(path: str) -> ModelFiles:
    """Find the files of a model.

    Args:
        path: a run directory such as runs/CORPUS/ARCH, a model directory with model.pt, or a checkpoint in one of them.
            Dictionaries and the SentencePiece model may also be one or two levels above it.
    """
    if os.path.isdir(path):
        home = path
        checkpoint = newest_file(path, [f"{sub}{name}" for name in CHECKPOINTS for sub in ("", "checkpoints/")])
    else:
        home, checkpoint = os.path.dirname(path) or ".", path
        if os.path.basename(os.path.abspath(home)) == "checkpoints":
            home = os.path.normpath(os.path.join(home, ".."))  # "checkpoints" may be a link
    places = [os.path.dirname(checkpoint or path), home, os.path.join(home, ".."), os.path.join(home, "..", "..")]
    dictionary, sentencepiece = (
        next(filter(None, (newest_file(place or ".", patterns) for place in places)), None)
        for patterns in (DICTIONARIES, SENTENCEPIECE_NAMES)
    )
    return ModelFiles(home, checkpoint, os.path.dirname(dictionary) if dictionary else None, sentencepiece)


def matching_files(directory: str, pattern: str) -> list[str]:
    """Return the files in a directory that match a pattern, sorted by name."""
    return sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))


def newest_file(directory: str, patterns: Sequence[str]) -> str | None:
    """Return the newest file that matches the first pattern with any match."""
    found = (matching_files(directory, pattern) for pattern in patterns)
    return next((max(files, key=lambda file: os.lstat(file).st_mtime) for files in found if files), None)
