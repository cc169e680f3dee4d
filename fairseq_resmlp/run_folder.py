"""Folders of trainings: what scripts/train.sh and evaluate.sh, the demo, or a user's own commands left in one.

A run folder is any folder with a checkpoint, training logs or scores. Dictionaries, pieces and raw text may lie in it,
or one or two levels above, as in DIR/data-bin, DIR/spm.model and DIR/raw beside DIR/NAME of the scripts.
"""

import glob
import os
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from .errors import InputError
from .model import ResMLPModel
from .names import short_names
from .score import read_parallel


@dataclass
class RunFolder:
    """Where the parts of a run lie; a part that is not there is None, or an empty list."""

    path: str
    name: str
    checkpoint: Optional[str]
    dictionaries: Optional[str]  # folder of dict.*.txt
    pieces: Optional[str]  # SentencePiece model
    raw: Optional[str]  # folder of valid.LANGUAGE and so on
    events: List[str]  # folders of TensorBoard's event files
    logs: List[str]  # text logs of fairseq-train
    scores: List[str]  # of fairseq-resmlp score --json

    def load(self):
        """(options, task, model) as trained, weights-only; InputError with the remedy if that cannot be."""
        if self.checkpoint is None:
            raise InputError(f"no checkpoint in {self.path}: scripts/train.sh or fairseq-train --save-dir writes them")
        if self.dictionaries is None:
            raise InputError(
                f"no dict.*.txt in {self.path} or in data-bin beside it: copy those of the training's data-bin there"
            )
        pieces = {"bpe": "sentencepiece", "sentencepiece_model": self.pieces} if self.pieces else {}
        home, file = os.path.split(self.checkpoint)
        cfg, task, models = ResMLPModel.load(
            home, file, os.path.abspath(self.dictionaries), print_alignment="soft", **pieces
        )
        return cfg, task, models[0].eval()

    def text(self, split: str, languages: Sequence[str]) -> Tuple[str, List[str], List[str]]:
        """Name, source and target lines of the raw text of a split; of several test sets, the first by name.

        Args:
            split: valid or test

        Raises:
            InputError: there is none, or no SentencePiece model to cut it with
        """
        if self.pieces is None:
            raise InputError(f"no sentencepiece.bpe.model in {self.path}, and no spm.model beside it: copy it there")
        source, target = languages
        for path in sorted(glob.glob(os.path.join(glob.escape(self.raw or self.path), f"{split}*.{source}"))):
            name = os.path.basename(path)[: -len(source) - 1]
            other = os.path.join(os.path.dirname(path), f"{name}.{target}")
            if os.path.isfile(other):
                return (name, *(text.lines for text in read_parallel(path, other)))
        raise InputError(f"no raw/{split}*.{source} and .{target} beside {self.path}: put the raw text there")


def find(path: str) -> RunFolder:
    """Look into a folder; InputError if it is no run folder."""
    inside = ("", "checkpoints")
    checkpoint = _first(path, [f"{sub}/{name}" for name in _CHECKPOINTS for sub in inside])
    beside = [path, os.path.join(path, ".."), os.path.join(path, "..", "..")]
    # No deeper: in a folder of several runs these would be mixed up.
    events = [file for depth in ("", "*/", "*/*/") for file in _all(path, f"{depth}events.out.tfevents.*")]
    run = RunFolder(
        path=path,
        name=os.path.basename(os.path.abspath(path)),
        checkpoint=checkpoint,
        dictionaries=_home(beside, ("dict.*.txt", "data-bin/dict.*.txt")),
        pieces=next(filter(None, (_first(home, ["sentencepiece.bpe.model", "spm.model"]) for home in beside)), None),
        raw=_home(beside, ("raw/*",)),
        events=sorted({os.path.dirname(file) for file in events}),
        logs=_all(path, "*.log"),
        scores=[*_all(path, "scores.json"), *_all(path, "*/scores.json")],
    )
    if not (run.checkpoint or run.events or run.logs or run.scores):
        raise InputError(
            f"{path} is no run folder: it has no checkpoint, no training log and no scores.json; name a folder such as "
            "runs/CORPUS/ARCH of scripts/reproduce.sh, or demo/model of make demo"
        )
    return run


def find_all(paths: Sequence[str]) -> List[RunFolder]:
    """`find` each folder, under names of their own."""
    runs = [find(path) for path in paths]
    for run, name in zip(runs, short_names(paths)):
        run.name = name
    return runs


# The mean that evaluate.sh scores stands first.
_CHECKPOINTS = ("average*.pt", "model.pt", "checkpoint_best.pt", "checkpoint_last.pt")


def _all(folder: str, pattern: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))


def _first(folder: str, patterns: Sequence[str]) -> Optional[str]:
    """Of the first pattern that has files, the newest."""
    found = (_all(folder, pattern.lstrip("/")) for pattern in patterns)
    return next((max(files, key=os.path.getmtime) for files in found if files), None)


def _home(folders: Sequence[str], patterns: Sequence[str]) -> Optional[str]:
    found = (_first(folder, patterns) for folder in folders)
    return next((os.path.dirname(file) for file in found if file), None)
