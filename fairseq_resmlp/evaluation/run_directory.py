"""Run directories: the files that scripts/train.sh and evaluate.sh, the demo, or a user's own commands have written.

A run directory is any directory with a checkpoint, training logs or scores. Dictionaries, the SentencePiece model and
raw text may be in it, or one or two levels above, like DIR/data-bin, DIR/spm.model and DIR/raw next to DIR/NAME of the
scripts.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file
from fairseq_resmlp.common.sentencepiece_model import load_sentencepiece
from fairseq_resmlp.common.unique_names import unique_names
from fairseq_resmlp.evaluation.metrics import read_parallel
from fairseq_resmlp.model import hub


@dataclass
class RunDirectory:
    """Locations of the files of a run. Missing ones are None, or an empty list."""

    path: str
    name: str
    checkpoint: str | None
    dictionaries: str | None  # directory of dict.*.txt
    sentencepiece: str | None  # model
    raw: str | None  # directory of valid.LANGUAGE and so on
    events: list[str]  # directories of TensorBoard event files
    logs: list[str]  # text logs of fairseq-train
    scores: list[str]  # of fairseq-resmlp score --json

    def load(self):
        """Return (options, task, model) as trained.

        Raises:
            InputError: a file is missing or not a regular file, or the checkpoint is not safe to load
        """
        if self.checkpoint is None:
            raise InputError(f"checkpoint not found in {self.path}: run scripts/train.sh or fairseq-train --save-dir")
        if self.dictionaries is None:
            raise InputError(
                f"dict.*.txt not found in {self.path} or in data-bin next to it: copy them from the training's data-bin"
            )
        for path in (self.checkpoint, self.sentencepiece, *_all(self.dictionaries, "dict.*.txt")):
            if path is not None:
                check_regular_file(path)
        if self.sentencepiece is not None:
            load_sentencepiece(self.sentencepiece)  # fairseq would report an invalid model with a traceback
        bpe = {"bpe": "sentencepiece", "sentencepiece_model": self.sentencepiece} if self.sentencepiece else {}
        home, file = os.path.split(self.checkpoint)
        cfg, task, models = hub.load(home, file, os.path.abspath(self.dictionaries), print_alignment="soft", **bpe)
        return cfg, task, models[0].eval()

    def text(self, split: str, languages: Sequence[str]) -> tuple[str, list[str], list[str]]:
        """Return name, source and target lines of the raw text of a split; of several test sets, the first by name.

        Args:
            split: valid or test

        Raises:
            InputError: the text or the SentencePiece model is missing; see also `read_parallel`
        """
        if self.sentencepiece is None:
            raise InputError(
                f"sentencepiece.bpe.model not found in {self.path}, nor spm.model next to it: copy one of them there"
            )
        source, target = languages
        for path in sorted(glob.glob(os.path.join(glob.escape(self.raw or self.path), f"{split}*.{source}"))):
            name = os.path.basename(path)[: -len(source) - 1]
            other = os.path.join(os.path.dirname(path), f"{name}.{target}")
            if os.path.exists(other):
                check_regular_file(path)
                check_regular_file(other)
                sides = read_parallel(path, other)
                return name, sides[0].lines, sides[1].lines
        raise InputError(f"raw/{split}*.{source} and .{target} not found next to {self.path}: put the raw text there")


def find_run(path: str) -> RunDirectory:
    """Locate the files of a run.

    Raises:
        InputError: the directory is not a run directory
    """
    inside = ("", "checkpoints")
    checkpoint = _first(path, [f"{sub}/{name}" for name in _CHECKPOINTS for sub in inside])
    nearby = [path, os.path.join(path, ".."), os.path.join(path, "..", "..")]
    # No deeper, because a directory of several runs would mix them up.
    events = [file for depth in ("", "*/", "*/*/") for file in _all(path, f"{depth}events.out.tfevents.*")]
    run = RunDirectory(
        path=path,
        name=os.path.basename(os.path.abspath(path)),
        checkpoint=checkpoint,
        dictionaries=_parent(nearby, ("dict.*.txt", "data-bin/dict.*.txt")),
        sentencepiece=next(
            filter(None, (_first(place, ["sentencepiece.bpe.model", "spm.model"]) for place in nearby)), None
        ),
        raw=_parent(nearby, ("raw/*",)),
        events=sorted({os.path.dirname(file) for file in events}),
        logs=_all(path, "*.log"),
        scores=[*_all(path, "scores.json"), *_all(path, "*/scores.json")],
    )
    if not (run.checkpoint or run.events or run.logs or run.scores):
        raise InputError(
            f"{path} is not a run directory: it has no checkpoint, training log or scores.json; specify a directory "
            "such as runs/CORPUS/ARCH of scripts/reproduce.sh, or demo/model of make demo"
        )
    return run


def find_runs(paths: Sequence[str]) -> list[RunDirectory]:
    """Call `find_run` for each directory, and give the runs distinct names."""
    runs = [find_run(path) for path in paths]
    for run, name in zip(runs, unique_names(paths)):
        run.name = name
    return runs


# In order of preference: evaluate.sh scores the average.
_CHECKPOINTS = ("average*.pt", "model.pt", "checkpoint_best.pt", "checkpoint_last.pt")


def _all(directory: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))


def _first(directory: str, patterns: Sequence[str]) -> str | None:
    """Return the newest file that matches the first pattern with any match."""
    found = (_all(directory, pattern.lstrip("/")) for pattern in patterns)
    return next((max(files, key=lambda file: os.lstat(file).st_mtime) for files in found if files), None)


def _parent(directories: Sequence[str], patterns: Sequence[str]) -> str | None:
    """Return the directory of the first file found."""
    found = (_first(directory, patterns) for directory in directories)
    return next((os.path.dirname(file) for file in found if file), None)
