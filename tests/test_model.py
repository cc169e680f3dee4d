"""Every architecture builds, learns and translates; a stored model translates as the day it was stored."""

import json
import platform
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_batch, make_sentences, make_task
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp import ResMLPModel, checkpoint
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.model import ARCHITECTURES, ResMLPConfig
from fairseq_resmlp.score import surroundings

STORED = Path(__file__).parent / "stored"


@pytest.mark.parametrize("arch", ["resmlp", *ARCHITECTURES])
def test_every_architecture_learns_and_translates(arch):
    torch.manual_seed(1)
    assert ARCH_MODEL_REGISTRY[arch] is ResMLPModel
    task = make_task()
    model = ResMLPModel.build_model(ResMLPConfig(**ARCHITECTURES.get(arch, {}), share_all_embeddings=True), task)
    sources = make_sentences(4)
    sample = make_batch(sources, sources)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-4)

    def loss():
        logits, _ = model(**sample["net_input"])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten(), ignore_index=1)

    model.eval()
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before
    hypotheses = SequenceGenerator([model], task.target_dictionary, beam_size=2, max_len_b=4).generate([model], sample)
    assert [len(h) for h in hypotheses] == [2] * 4


def test_architectures_are_what_the_docs_say():
    def built(arch):
        cfg = ResMLPConfig()
        options = type("Options", (), {})()
        ARCH_CONFIG_REGISTRY[arch](options)
        for name, value in vars(options).items():
            assert hasattr(cfg, name), name
            setattr(cfg, name, value)
        return cfg

    table = re.findall(r"^\| (`resmlp_.*) \|$", (ROOT / "docs" / "model.md").read_text(encoding="utf-8"), re.M)
    told = {}
    for names, *figures, rest in (re.split(r" \| ?", row) for row in table):
        layers, d, hidden, heads, dropout = (cell.split(", ") for cell in figures)
        for arch, stacks in zip(re.findall("`(.*?)`", names), layers):
            told[arch] = [
                *map(int, stacks.split(" + ")),
                int(d[0]),
                int(hidden[0]),
                int(heads[0]),
                float(dropout[0]),
                rest,
            ]
    assert set(told) == set(ARCHITECTURES)
    for arch, (encoder_layers, decoder_layers, d, hidden, heads, dropout, rest) in told.items():
        cfg = built(arch)
        sizes = {"layers": encoder_layers, "embed_dim": d, "ffn_embed_dim": hidden, "max_positions": 256}
        expected = {f"{side}_{name}": size for name, size in sizes.items() for side in ("encoder", "decoder")}
        expected.update(decoder_layers=decoder_layers, decoder_attention_heads=heads, dropout=dropout)
        expected.update(re.findall(r"--(\S+) ([^\s`]+)", rest.replace("-", "_").replace("__", "--")))
        for option in fields(ResMLPConfig):
            value = expected.get(option.name, option.default)
            assert str(getattr(cfg, option.name)) == str(value), (arch, option.name)


def test_an_option_given_by_the_user_wins_over_the_architecture():
    options = type("Options", (), {"encoder_layers": 2})()
    ARCH_CONFIG_REGISTRY["resmlp_base_12"](options)
    assert (options.encoder_layers, options.decoder_layers) == (2, 12)


def test_the_small_architectures_differ_in_what_quality_was_measured_for():
    small, paper = (type("Options", (), {})() for _ in range(2))
    ARCH_CONFIG_REGISTRY["resmlp_small"](small)
    ARCH_CONFIG_REGISTRY["resmlp_small_linear"](paper)
    differ = ("token_mixing", "mixing_heads", "normalization")
    assert [getattr(small, name) for name in differ] == ["toeplitz", 16, "layer"]
    assert [getattr(paper, name) for name in differ] == ["linear", 1, "affine"]
    same = dict.fromkeys(differ)
    assert {**vars(paper), **same} == {**vars(small), **same}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_checkpoint_stays_the_model_it_was_when_its_architecture_changes(arch, tmp_path):
    """The stored one is older than most options; the architectures have got other values for some since."""
    shutil.copytree(STORED, tmp_path / "model")
    state = torch.load(STORED / "model.pt", weights_only=True)
    assert "normalization" not in state["cfg"]["model"]
    state["cfg"]["model"]["_name"] = arch
    torch.save(state, tmp_path / "model" / "model.pt")
    (first,) = ResMLPModel.load(STORED)[2]
    (second,) = ResMLPModel.load(tmp_path / "model")[2]
    assert str(first) == str(second)


def test_the_zeros_once_stored_for_a_layer_without_b_are_left_out(tmp_path):
    shutil.copytree(STORED, tmp_path / "model")
    file = str(tmp_path / "model" / "model.pt")
    state = torch.load(file, weights_only=True)
    state["cfg"]["model"]["no_mixing_bias"] = True
    for name in [name for name in state["model"] if name.endswith("mixing.b")]:
        state["model"][name].zero_()
    torch.save(state, file)
    (model,) = ResMLPModel.load(tmp_path / "model")[2]
    assert not any(name.endswith("mixing.b") for name in [*model.state_dict(), *checkpoint.read(file)["model"]])
    state["model"]["decoder.layers.0.mixing.b"].fill_(1.0)
    torch.save(state, file)
    with pytest.raises(InputError, match=r"another model: Unexpected .*mixing\.b"):
        ResMLPModel.load(tmp_path / "model")


def test_tied_embeddings_are_one_parameter():
    model = ResMLPModel.build_model(ResMLPConfig(share_all_embeddings=True), make_task())
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    model = ResMLPModel.build_model(ResMLPConfig(share_decoder_input_output_embed=True), make_task())
    assert model.encoder.embed_tokens.weight is not model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    model = ResMLPModel.build_model(ResMLPConfig(), make_task())
    assert model.decoder.output_projection.weight is not model.decoder.embed_tokens.weight


def test_the_stored_model_translates_as_when_it_was_stored(tmp_path, record_promise):
    """Made by tests/stored/make.py; a change here means that old checkpoints translate otherwise than they did."""
    shutil.copytree(STORED, tmp_path / "model")
    hub = ResMLPModel.from_pretrained(tmp_path / "model")
    for expected in json.loads((STORED / "expected.json").read_text(encoding="utf-8")):
        hypotheses = hub.generate([hub.encode(expected["source"])], beam=4)[0]
        assert [hub.decode(h["tokens"]) for h in hypotheses] == [h["translation"] for h in expected["hypotheses"]]
        for got, stored in zip(hypotheses, expected["hypotheses"]):
            torch.testing.assert_close(
                got["positional_scores"], torch.tensor(stored["scores"]), atol=1e-4, rtol=0, check_dtype=False
            )
    python, versions = ".".join(platform.python_version_tuple()[:2]), surroundings()["versions"]
    record_promise(
        f"The stored checkpoint translates as when it was stored: Python {python}, torch {versions['torch']}",
        "all of its sentences, 4 hypotheses each, log-probabilities within 1e-4",
    )
