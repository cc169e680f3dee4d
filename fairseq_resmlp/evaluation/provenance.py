"""Provenance of scores: the texts, the checkpoint and its training options, and the software, as JSON."""

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.environment import environment_info
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import read_json
from fairseq_resmlp.evaluation.metrics import Comparison, Score, Text, paper_remark

PACKAGES = ("torch", "fairseq", "sacrebleu", "sacremoses", "sentencepiece")  # whose versions a score may depend on

# Names under which a checkpoint may contain one matrix several times
_TIED = ("embed_tokens.weight", "output_projection.weight")
# Buffers that fairseq's own models and ours store among the parameters
_BUFFERS = (".version", "._float_tensor", ".dictionary_version")


def score_report(
    hypotheses: Text,
    reference: Text,
    baseline: Text | None,
    scores: Sequence[Score],
    comparisons: Sequence[Comparison],
    target_lang: str,
    checkpoint: str | None,
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of `fairseq-resmlp score --json`, for `to_json`.

    Args:
        hypotheses, reference, baseline: the scored texts
        scores: from `metrics.score`
        comparisons: from `metrics.compare`
        target_lang: language of the texts
        checkpoint: path of the model, to add `describe_checkpoint`
        metadata: from `read_metadata`

    Raises:
        InputError: `checkpoint` is not a checkpoint, or not safe to load
    """
    return {
        "scores": scores,
        "comparisons": comparisons,
        "paper": paper_remark(metadata.get("corpus")),
        "target_lang": target_lang,
        "lines": len(hypotheses.lines),
        "hypotheses": hypotheses,
        "reference": reference,
        "baseline": baseline,
        "checkpoint": describe_checkpoint(checkpoint) if checkpoint else None,
        "metadata": metadata,
        **score_environment(),
    }


def score_environment() -> dict[str, Any]:
    """Return versions, machine, date and command (see `environment_info`)."""
    return environment_info(PACKAGES)


def describe_checkpoint(path: str) -> dict[str, Any]:
    """Identify a fairseq checkpoint: its hash, updates, number of parameters, and training options.

    Raises:
        InputError: it is not a checkpoint, or not safe to load
    """
    state = read_checkpoint(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    history = state.get("optimizer_history") or [{}]
    return {
        "file": path,
        "sha256": digest.hexdigest(),
        "updates": history[-1].get("num_updates"),
        "parameters": count_parameters(state["model"]),
        "training_seconds": state.get("extra_state", {}).get("previous_training_time"),
        "options": state.get("cfg") or state.get("args"),
    }


def count_parameters(parameters: dict[str, torch.Tensor]) -> int:
    """Count trained values. Tied embeddings count once, although an averaged checkpoint contains copies."""
    embeddings: list[torch.Tensor] = []
    total = 0
    for name, value in parameters.items():
        if name.endswith(_BUFFERS) or (name.endswith(_TIED) and any(torch.equal(value, e) for e in embeddings)):
            continue
        if name.endswith(_TIED):
            embeddings.append(value)
        total += value.numel()
    return total


def read_metadata(texts: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """Read metadata that a user adds to the JSON.

    Args:
        texts: NAME=VALUE each
        files: NAME=FILE each, where FILE contains JSON

    Raises:
        InputError: a name is missing or given twice, or a file is not JSON
    """
    metadata: dict[str, Any] = {}
    sources: tuple[tuple[str, Sequence[str], Callable[[str], Any]], ...] = (
        ("--metadata", texts, str),
        ("--metadata-json", files, read_json),
    )
    for option, pairs, read in sources:
        for pair in pairs:
            name, equals, value = pair.partition("=")
            if not name or not equals:
                raise InputError(f"{option} {pair}: use NAME=..., where NAME is the key in the JSON")
            if name in metadata:
                raise InputError(f"{option} {pair}: {name} is given twice")
            metadata[name] = read(value)
    return metadata


def to_json(report: Any) -> str:
    """Return JSON of scores, texts (without their lines) and plain data. Other values become strings.

    Unpaired surrogates, which stand for bytes of a file name that are not UTF-8, are escaped.
    """
    text = json.dumps(_to_plain(report), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # \udcff is also an escape of JSON


def _to_plain(value: Any) -> Any:
    if isinstance(value, Text):
        return {"file": value.file, "sha256": value.sha256}
    if isinstance(value, (Score, Comparison, argparse.Namespace)):  # some checkpoints store options in a Namespace
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
