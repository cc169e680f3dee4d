"""Provenance identifies the checkpoint, its training and the software behind a score."""

import argparse
import hashlib
import json
import re

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.metrics import Comparison, Score, Text
from fairseq_resmlp.evaluation.provenance import (
    count_parameters,
    describe_checkpoint,
    read_metadata,
    score_environment,
    to_json,
)
from support.models import make_model


def test_a_checkpoint_is_identified_by_hash_updates_parameters_and_options(tmp_path):
    model, path = make_model(share_all_embeddings=True), tmp_path / "model.pt"
    options = {"model": argparse.Namespace(dropout=0.1), "optimization": {"lr": [0.2], "max_update": float("inf")}}
    history, extra = [{"num_updates": 7}], {"previous_training_time": 12.5}
    state = {"model": model.state_dict(), "cfg": options, "optimizer_history": history, "extra_state": extra}
    torch.save(state, path)
    found = describe_checkpoint(str(path))
    assert json.loads(to_json(found)) == {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "updates": 7,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": 12.5,
        "options": {"model": {"dropout": 0.1}, "optimization": {"lr": [0.2], "max_update": "inf"}},
    }


def test_other_files_are_not_described_as_checkpoints(tmp_path):
    (tmp_path / "text").write_text("not a checkpoint\n")
    with pytest.raises(InputError, match="text is not a checkpoint"):
        describe_checkpoint(str(tmp_path / "text"))


def test_copies_of_tied_embeddings_count_once():
    for tied in ({"share_all_embeddings": True}, {"share_decoder_input_output_embed": True}, {}):
        model = make_model(**tied)
        copies = {name: value.clone() for name, value in model.state_dict().items()}
        assert count_parameters(copies) == sum(p.numel() for p in model.parameters())
    buffers = ("encoder.version", "encoder.embed_positions._float_tensor")
    assert count_parameters({name: torch.ones(1) for name in buffers}) == 0


def test_the_environment_lists_versions_machine_date_and_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/fairseq-resmlp", "score", "a"])
    found = score_environment()
    packages = ["fairseq-resmlp", "python", "torch", "fairseq", "sacrebleu", "sacremoses", "sentencepiece"]
    assert list(found["versions"]) == packages
    assert all(re.match(r"\d+\.\d", version) for version in found["versions"].values())
    assert found["machine"]["cpus"] >= 1 and found["machine"]["cpu"]
    assert found["date"].endswith("+00:00")
    assert found["command"] == "fairseq-resmlp score a"


def test_metadata_consists_of_strings_and_json_files(tmp_path):
    (tmp_path / "times.json").write_text('{"seconds": 1.5}')
    found = read_metadata(["command=generate --beam=4 ä"], [f"times={tmp_path / 'times.json'}"])
    assert found == {"command": "generate --beam=4 ä", "times": {"seconds": 1.5}}


@pytest.mark.parametrize(
    ("texts", "files", "message"),
    [
        (["command"], [], "--metadata command: use NAME=..."),
        (["=x"], [], "--metadata =x: use NAME=..."),
        (["a=1", "a=2"], [], "--metadata a=2: a is given twice"),
        (["a=1"], ["a=text"], "--metadata-json a=text: a is given twice"),
        ([], ["a=text"], "text is not JSON"),
    ],
)
def test_invalid_metadata_is_refused(texts, files, message, tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no JSON\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        read_metadata(texts, files)


def test_everything_is_converted_to_valid_json():
    """Infinity and NaN are not JSON. Texts are identified by their hash, because their lines are long."""
    score = Score("BLEU", 1 / 3, "sig", "note")
    comparison = Comparison("BLEU", 2.0, 1.0, 1.0, 0.5, "sig")
    values = [score, comparison, Text("a", "00", ["line"]), (1, None, True), {1: float("nan")}, float("-inf"), 1j, "ä"]
    text = to_json(values)
    assert "ä" in text and text.endswith("]\n")
    assert json.loads(text) == [
        {"name": "BLEU", "value": 1 / 3, "signature": "sig", "note": "note"},
        {"name": "BLEU", "value": 2.0, "baseline": 1.0, "difference": 1.0, "p_value": 0.5, "signature": "sig"},
        {"file": "a", "sha256": "00"},
        [1, None, True],
        {"1": "nan"},
        "-inf",
        "1j",
        "ä",
    ]


def test_surrogates_of_file_names_and_metadata_are_escaped():
    """They stand for bytes that are not UTF-8, so that no UTF-8 file could contain them."""
    values = {"file": "K\udcc3\udca4se", "text": "\ud800", "plain": "\u00e4"}
    text = to_json(values)
    text.encode("utf-8")
    assert json.loads(text) == values
    assert "\\udcc3" in text and "\u00e4" in text
