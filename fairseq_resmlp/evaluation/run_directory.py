"""Run directories: the files that scripts/train.sh and evaluate.sh, the demo, or a user's own commands have written.

A run directory is any directory with a checkpoint, training logs or scores. Dictionaries, the SentencePiece model and
raw text may be in it, or one or two levels above, like DIR/data-bin, DIR/spm.model and DIR/raw next to DIR/NAME of the
scripts.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import CHECKPOINTS, find_model_files, matching_files
from fairseq_resmlp.common.regular_files import check_regular_file
from fairseq_resmlp.common.sentencepiece_model import load_sentencepiece
from fairseq_resmlp.common.unique_names import unique_names
from fairseq_resmlp.evaluation.metrics import read_parallel
from fairseq_resmlp.model import hub
from fairseq_resmlp.vision.loading import classifies_images, load_image_model


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

    @cached_property
    def is_of_images(self) -> bool:
        """Whether the checkpoint is one of an image model. False if there is none, or if it cannot be loaded."""
        try:
            return self.checkpoint is not None and classifies_images(self.checkpoint)
        except (InputError, OSError):
            return False

    def load(self):
        """Return (options, task, model) as trained.

        Raises:
            InputError: a file is missing or not a regular file, or the checkpoint is not safe to load
        """
        if self.checkpoint is None:
            raise InputError(f"checkpoint not found in {self.path}: run scripts/train.sh or fairseq-train --save-dir")
        if self.is_of_images:
            return load_image_model(self.checkpoint)
        if self.dictionaries is None:
            raise InputError(
                f"dict.*.txt not found in {self.path} or in data-bin next to it: copy them from the training's data-bin"
            )
        for path in (self.checkpoint, self.sentencepiece, *matching_files(self.dictionaries, "dict.*.txt")):
            if path is not None:
                check_regular_file(path)
        if self.sentencepiece is not None:
            load_sentencepiece(self.sentencepiece)  # fairseq would report an invalid model with a traceback
        bpe = {"bpe": "sentencepiece", "sentencepiece_model": self.sentencepiece} if self.sentencepiece else {}
        home, file = os.path.split(self.checkpoint)
        cfg, task, models = hub.load(home, file, os.path.realpath(self.dictionaries), print_alignment="soft", **bpe)
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

    Args:
        path: see `find_model_files`

    Raises:
        InputError: the directory is not a run directory
    """
    files = find_model_files(path)
    home = files.home
    # No deeper, because a directory of several runs would mix them up.
    events = [file for depth in ("", "*/", "*/*/") for file in matching_files(home, f"{depth}events.out.tfevents.*")]
    scores = [*matching_files(home, "scores.json"), *matching_files(home, "*/scores.json")]
    chosen = files.checkpoint if os.path.isdir(path) else find_model_files(home).checkpoint
    if files.checkpoint and chosen and os.path.realpath(files.checkpoint) != os.path.realpath(chosen):
        scores = []  # those of another checkpoint of the run
    raw = next(filter(None, (matching_files(home, f"{place}raw/*") for place in ("", "../", "../../"))), None)
    run = RunDirectory(
        path=home,
        name=os.path.basename(os.path.abspath(path)),
        checkpoint=files.checkpoint,
        dictionaries=files.dictionaries,
        sentencepiece=files.sentencepiece,
        raw=os.path.dirname(raw[0]) if raw else None,
        events=sorted({os.path.dirname(file) for file in events}),
        logs=matching_files(home, "*.log"),
        scores=scores,
    )
    if not (run.checkpoint or run.events or run.logs or run.scores):
        raise InputError(
            f"{path} is not a run directory: it has no checkpoint ({', '.join(CHECKPOINTS)}, also in checkpoints/), "
            "training log or scores.json; specify a directory such as runs/CORPUS/ARCH of scripts/reproduce.sh, or "
            "demo/model of make demo"
        )
    return run


def find_runs(paths: Sequence[str]) -> list[RunDirectory]:
    """Call `find_run` for each directory, and give the runs distinct names."""
    runs = [find_run(path) for path in paths]
    for run, name in zip(runs, unique_names(paths)):
        run.name = name
    return runs
