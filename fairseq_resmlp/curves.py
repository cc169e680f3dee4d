"""Training curves: what fairseq-train logged, from TensorBoard's event files or from the lines that it printed."""

import json
import math
import os
import re
from typing import Dict, List, Optional, Tuple

from .errors import InputError
from .run_folder import RunFolder

# What is drawn, by fairseq's name: title, unit, whether the axis is logarithmic
METRICS = {
    "loss": ("Loss, with label smoothing", "bits a target piece", False),
    "ppl": ("Perplexity", "2^bits a target piece", True),
    "bleu": ("BLEU on validation", "BLEU", False),
    "lr": ("Learning rate", "learning rate", False),
    "gnorm": ("Gradient norm", "norm before clipping", True),
    "wps": ("Speed", "target pieces a second", False),
}

Curve = Tuple[List[int], List[float]]
Curves = Dict[str, Dict[str, Curve]]


def read(run: RunFolder) -> Curves:
    """The curves of a run: {"train" or "valid": {fairseq's name: (updates, values)}}, in order of updates.

    TensorBoard's files are preferred where there are both. Of an update that was logged twice, as when a training was
    resumed, the later value counts.

    Raises:
        InputError: there are none, or tensorboard is missing
    """
    found = _read_events(run.events) or _read_lines(run.logs)
    if not found:
        raise InputError(
            f"no training log in {run.path}: train with --tensorboard-logdir {os.path.join(run.path, 'tensorboard')}, "
            f"or with --log-format simple --log-file {os.path.join(run.path, 'train.log')}"
        )
    return {
        split: {name: tuple(map(list, zip(*sorted(points.items())))) for name, points in metrics.items()}
        for split, metrics in found.items()
    }


# "train" comes once an epoch, "train_inner" every --log-interval.
_SPLITS = {"train_inner": "train", "train": "epoch", "valid": "valid"}


def _read_events(folders: List[str]) -> Dict[str, Dict[str, Dict[int, float]]]:
    if not folders:
        return {}
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise InputError(
            "reading TensorBoard's files needs tensorboard: pip install 'fairseq-resmlp[report]'"
        ) from error
    found: Dict[str, Dict[str, Dict[int, float]]] = {}
    for folder in folders:
        split = _SPLITS.get(os.path.basename(folder))
        events = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            for event in sorted(events.Scalars(name), key=lambda event: event.wall_time):
                _add(found, split, name, event.step, event.value)
    return _without_epochs(found)


def _read_lines(files: List[str]) -> Dict[str, Dict[str, Dict[int, float]]]:
    """What fairseq-train prints, by --log-format simple or json."""
    found: Dict[str, Dict[str, Dict[int, float]]] = {}
    for path in files:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                split, stats = _of_simple(line) or _of_json(line) or (None, {})
                if "num_updates" in stats:
                    for name, value in stats.items():
                        _add(found, split, name, int(stats["num_updates"]), value)
    return _without_epochs(found)


def _of_simple(line: str) -> Optional[Tuple[str, Dict[str, str]]]:
    """Of "epoch 001: 100 / 518 loss=9.9, ...", "epoch 001 | loss 8.0 | ...", "epoch 001 | valid on ... | loss ..."."""
    match = re.search(r"\bepoch \d+(:| \| valid on | \| )(.*)", line)
    stats = dict(re.findall(r"(\w+)[= ]([\d.e+-]+)(?=,| \||$)", match[2])) if match else {}
    if not stats.get("num_updates", "").isdigit():
        return None
    return _SPLITS["train_inner" if match[1] == ":" else "valid" if "valid" in match[1] else "train"], stats


def _of_json(line: str) -> Optional[Tuple[str, Dict[str, str]]]:
    """Of JSON in a line of its own or after "... | INFO | train_inner |"."""
    try:
        stats = json.loads(line[line.index("{") :])
        # The lines at the end of an epoch say train_loss and valid_loss, those within it loss.
        prefix = next(p for p in ("", "train_", "valid_") if f"{p}num_updates" in stats)
        int(stats[f"{prefix}num_updates"])
    except (ValueError, TypeError, StopIteration):
        return None  # a line of something else, or one that was cut off by the end of the training
    stats = {name[len(prefix) :]: value for name, value in stats.items() if name.startswith(prefix)}
    return _SPLITS[prefix[:-1] or "train_inner"], stats


def _add(found, split, name: str, step: int, value) -> None:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return
    if split is not None and name in METRICS and math.isfinite(value):
        found.setdefault(split, {}).setdefault(name, {})[step] = value


def _without_epochs(found):
    """What was logged within epochs, or else at their ends."""
    epochs = found.pop("epoch", None)
    if epochs and "train" not in found:
        found["train"] = epochs
    return found
