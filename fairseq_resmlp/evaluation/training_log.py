"""Training curves of fairseq-train, from TensorBoard event files or from text logs."""

import json
import math
import os
import re

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.run_directory import RunDirectory

# Metrics by fairseq's name: title, unit, whether the axis is logarithmic
METRICS = {
    "loss": ("Loss, with label smoothing", "bits per target token", False),
    "ppl": ("Perplexity", "2^(bits per target token)", True),
    "bleu": ("BLEU on validation", "BLEU", False),
    "lr": ("Learning rate", "learning rate", False),
    "gnorm": ("Gradient norm", "norm before clipping", True),
    "wps": ("Speed", "target tokens per second", False),
}

Curve = tuple[list[int], list[float]]
Curves = dict[str, dict[str, Curve]]


def read_training_log(run: RunDirectory) -> Curves:
    """Return the curves of a run: {"train" or "valid": {metric: (updates, values)}}, in order of updates.

    TensorBoard files are preferred over text logs. If an update was logged twice, for example after resuming, the later
    value is used.

    Raises:
        InputError: the run has no log, or tensorboard is not installed
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
        events = EventAccumulator(directory, size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            for event in sorted(events.Scalars(name), key=lambda event: event.wall_time):
                _add(found, split, name, event.step, event.value)
    return _prefer_inner(found)


def _read_text_logs(files: list[str]) -> dict[str, dict[str, dict[int, float]]]:
    """Read the output of fairseq-train with --log-format simple or json."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for path in files:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                split, stats = _parse_simple(line) or _parse_json(line) or (None, {})
                if "num_updates" in stats:
                    for name, value in stats.items():
                        _add(found, split, name, int(stats["num_updates"]), value)
    return _prefer_inner(found)


def _parse_simple(line: str) -> tuple[str, dict[str, str]] | None:
    """Parse "epoch 001: 100 / 518 loss=9.9, ...", "epoch 001 | loss 8.0 | ..." or "epoch 001 | valid on ... | ..."."""
    match = re.search(r"\bepoch \d+(:| \| valid on | \| )(.*)", line)
    if match is None:
        return None
    stats = dict(re.findall(r"(\w+)[= ]([\d.e+-]+)(?=,| \||$)", match[2]))
    if not stats.get("num_updates", "").isdigit():
        return None
    return _SPLITS["train_inner" if match[1] == ":" else "valid" if "valid" in match[1] else "train"], stats


def _parse_json(line: str) -> tuple[str, dict[str, str]] | None:
    """Parse JSON, on its own line or after "... | INFO | train_inner |"."""
    try:
        stats = json.loads(line[line.index("{") :])
        # Lines at the end of an epoch contain train_loss and valid_loss, those within it loss.
        prefix = next(p for p in ("", "train_", "valid_") if f"{p}num_updates" in stats)
        int(stats[f"{prefix}num_updates"])
    except (ValueError, TypeError, StopIteration):
        return None  # an unrelated line, or one that was truncated when training ended
    stats = {name[len(prefix) :]: value for name, value in stats.items() if name.startswith(prefix)}
    return _SPLITS[prefix[:-1] or "train_inner"], stats


def _add(found, split, name: str, step: int, value) -> None:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return
    if split is not None and name in METRICS and math.isfinite(value):
        found.setdefault(split, {}).setdefault(name, {})[step] = value


def _prefer_inner(found):
    """Keep what was logged within epochs, or else at their ends."""
    epochs = found.pop("epoch", None)
    if epochs and "train" not in found:
        found["train"] = epochs
    return found
