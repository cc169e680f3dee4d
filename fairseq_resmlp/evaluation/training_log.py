"""Training curves of fairseq-train, from TensorBoard event files or from text logs."""

import glob
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file
from fairseq_resmlp.evaluation.run_directory import RunDirectory

# Metrics by fairseq's name: title, unit, whether the axis is logarithmic
METRICS = {
    "loss": ("Loss, with label smoothing", "bits per target token", False),
    "ppl": ("Perplexity", "2^(bits per target token)", True),
    "bleu": ("BLEU on validation", "BLEU", False),
    "accuracy": ("Accuracy", "percent of images", False),
    "lr": ("Learning rate", "learning rate", False),
    "gnorm": ("Gradient norm", "norm before clipping", True),
    "wps": ("Speed", "target tokens per second", False),
}

MAX_LINE = 1 << 20  # characters of a line of a log that are read together
MAX_VALUE = 1e100  # values that are larger or, unless zero, smaller than 1 / MAX_VALUE are omitted, like infinite ones
MAX_UPDATES = 1 << 53  # the largest number up to which plots represent every update

Curve = tuple[list[int], list[float]]
Curves = dict[str, dict[str, Curve]]


def read_training_log(run: RunDirectory) -> Curves:
    """Return the curves of a run: {"train" or "valid": {metric: (updates, values)}}, in order of updates.

    TensorBoard files are preferred over text logs. If an update was logged twice, for example after resuming, the later
    value is used.

    Raises:
        InputError: the run has no log, tensorboard is not installed, or a log is not a regular file
        OSError: a log cannot be read
    """
    found = _read_events(run.events) or _read_text_logs(run.logs)
    if not found:
        events, log = (os.path.join(run.path, name) for name in ("tensorboard", "train.log"))
        raise InputError(
            f"training log not found in {run.path}: train with --tensorboard-logdir {events}, or with "
            f"--log-format simple --log-file {log}"
        )
    return {
        split: {name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in metrics.items()}
        for split, metrics in found.items()
    }


# fairseq logs "train" once per epoch and "train_inner" every --log-interval.
_SPLITS = {"train_inner": "train", "train": "epoch", "valid": "valid"}


def _read_events(directories: list[str]) -> dict[str, dict[str, dict[int, float]]]:
    if not directories:
        return {}
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise InputError(
            "reading TensorBoard files requires tensorboard: pip install 'fairseq-resmlp[report]'"
        ) from error
    found: dict[str, dict[str, dict[int, float]]] = {}
    for directory in directories:
        split = _SPLITS.get(os.path.basename(directory))
        for file in glob.glob(os.path.join(glob.escape(directory), "*tfevents*")):  # as read by TensorBoard
            check_regular_file(file)
        events = EventAccumulator(directory, size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            for event in sorted(events.Scalars(name), key=lambda event: event.wall_time):
                _add(found, split, name, event.step, event.value)
    return _prefer_inner(found)


def _read_text_logs(files: list[str]) -> dict[str, dict[str, dict[int, float]]]:
    """Read the output of fairseq-train with --log-format simple or json."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for path in files:
        check_regular_file(path)
        for line in _lines(path):
            split, step, stats = _parse_simple(line) or _parse_json(line) or (None, 0, {})
            for name, value in stats.items():
                _add(found, split, name, step, value)
    return _prefer_inner(found)


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            yield line


def _parse_simple(line: str) -> tuple[str, int, dict[str, str]] | None:
    """Parse "epoch 001: 100 / 518 loss=9.9, ...", "epoch 001 | loss 8.0 | ..." or "epoch 001 | valid on ... | ..."."""
    match = re.search(r"\bepoch \d+(:| \| valid on | \| )(.*)", line)
    if match is None:
        return None
    fields = (field.replace("=", " ").split() for field in re.split(r",| \|", match[2]))
    stats = {words[-2]: words[-1] for words in fields if len(words) > 1}
    step = _updates(stats.get("num_updates"))
    if step is None:
        return None
    return _SPLITS["train_inner" if match[1] == ":" else "valid" if "valid" in match[1] else "train"], step, stats


def _parse_json(line: str) -> tuple[str, int, dict[str, str]] | None:
    """Parse JSON, on its own line or after "... | INFO | train_inner |"."""
    try:
        stats = json.loads(line[line.index("{") :])
        # Lines at the end of an epoch contain train_loss and valid_loss, those within it loss.
        prefix = next(p for p in ("", "train_", "valid_") if f"{p}num_updates" in stats)
    except (ValueError, RecursionError, StopIteration):
        return None  # an unrelated line, or one that was truncated when training ended
    step = _updates(stats[f"{prefix}num_updates"])
    if step is None:
        return None
    stats = {name[len(prefix) :]: value for name, value in stats.items() if name.startswith(prefix)}
    return _SPLITS[prefix[:-1] or "train_inner"], step, stats


def _updates(value: Any) -> int | None:
    """Return a number of updates as an integer, or None if it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= MAX_UPDATES else None


def _add(found, split, name: str, step: int, value) -> None:
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return
    plausible = value == 0 or 1 / MAX_VALUE <= abs(value) <= MAX_VALUE  # NaN is not
    if split is not None and name in METRICS and plausible:
        found.setdefault(split, {}).setdefault(name, {})[step] = value


def _prefer_inner(found):
    """Keep what was logged within epochs, or else at their ends."""
    epochs = found.pop("epoch", None)
    if epochs and "train" not in found:
        found["train"] = epochs
    return found
