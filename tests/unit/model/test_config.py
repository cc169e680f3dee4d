"""Options of the model: architectures and validation."""

import re
from argparse import Namespace
from dataclasses import fields

import pytest
from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import OmegaConf

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ARCHITECTURES, ResMLPConfig
from support.models import make_model, make_task
from support.paths import ROOT


def test_architectures_are_as_documented():
    def built(arch):
        cfg = ResMLPConfig()
        options = type("Options", (), {})()
        ARCH_CONFIG_REGISTRY[arch](options)
        for name, value in vars(options).items():
            assert hasattr(cfg, name), name
            setattr(cfg, name, value)
        return cfg

    table = re.findall(r"^\| (`resmlp_.*) \|$", (ROOT / "docs" / "model.md").read_text(encoding="utf-8"), re.M)
    documented = {}
    for names, *figures, rest in (re.split(r" \| ?", row) for row in table):
        layers, d, hidden, heads, dropout = (cell.split(", ") for cell in figures)
        for arch, stacks in zip(re.findall("`(.*?)`", names), layers, strict=True):
            documented[arch] = [
                *map(int, stacks.split(" + ")),
                int(d[0]),
                int(hidden[0]),
                int(heads[0]),
                float(dropout[0]),
                rest,
            ]
    assert set(documented) == set(ARCHITECTURES)
    for arch, (encoder_layers, decoder_layers, d, hidden, heads, dropout, rest) in documented.items():
        cfg = built(arch)
        sizes = {"layers": encoder_layers, "embed_dim": d, "ffn_embed_dim": hidden, "max_positions": 256}
        expected = {f"{side}_{name}": size for name, size in sizes.items() for side in ("encoder", "decoder")}
        expected.update(decoder_layers=decoder_layers, decoder_attention_heads=heads, dropout=dropout)
        expected.update(re.findall(r"--(\S+) ([^\s`]+)", rest.replace("-", "_").replace("__", "--")))
        for option in fields(ResMLPConfig):
            value = expected.get(option.name, option.default)
            assert str(getattr(cfg, option.name)) == str(value), (arch, option.name)


def test_an_explicit_option_overrides_the_architecture():
    options = type("Options", (), {"encoder_layers": 2})()
    ARCH_CONFIG_REGISTRY["resmlp_base_12"](options)
    assert (options.encoder_layers, options.decoder_layers) == (2, 12)


def test_the_small_architectures_differ_only_in_mixing_and_normalization():
    small, paper = (type("Options", (), {})() for _ in range(2))
    ARCH_CONFIG_REGISTRY["resmlp_small"](small)
    ARCH_CONFIG_REGISTRY["resmlp_small_linear"](paper)
    changed = ("token_mixing", "mixing_heads", "normalization")
    assert [getattr(small, name) for name in changed] == ["toeplitz", 16, "layer"]
    assert [getattr(paper, name) for name in changed] == ["linear", 1, "affine"]
    same = dict.fromkeys(changed)
    assert {**vars(paper), **same} == {**vars(small), **same}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mixing_heads": 3}, "--encoder-embed-dim 16 is not a multiple of --mixing-heads 3"),
        ({"mixing_kernel": 4, "token_mixing": "conv"}, "--mixing-kernel 4 is even: use an odd number"),
        ({"mixing_kernel": 5}, "--mixing-kernel 5 has no effect with --token-mixing linear: pass --mixing-kernel 7"),
        ({"decoder_attention_heads": 0}, "--decoder-attention-heads 0 is less than 1"),
        ({"encoder_embed_dim": 0}, "--encoder-embed-dim 0 is less than 1"),
        ({"encoder_max_positions": -1}, "--encoder-max-positions -1 is less than 1"),
        ({"decoder_layers": -1}, "--decoder-layers -1 is less than 0"),
        ({"dropout": -0.1}, "--dropout -0.1 is less than 0"),
        ({"attention_dropout": 20.0}, "--attention-dropout 20.0 is greater than 1"),
        ({"dropout": float("nan")}, "--dropout nan is not a number"),
        ({"mixing_heads": 0}, "--mixing-heads 0 is less than 1"),
        ({"mixing_kernel": -1}, "--mixing-kernel -1 is less than 1"),
        ({"mixing_init_std": -0.1}, "--mixing-init-std -0.1 is less than 0"),
        (
            {"mixing_heads": 2, "token_mixing": "conv"},
            "--mixing-heads 2 has no effect with --token-mixing conv: pass --mix",
        ),
        ({"no_mixing_bias": True, "token_mixing": "toeplitz"}, "--no-mixing-bias has no effect with .*: omit it"),
        (
            {"mixing_init_std": 0.1, "token_mixing": "mlp"},
            "--mixing-init-std 0.1 has no effect with --token-mixing mlp",
        ),
    ],
    ids=str,
)
def test_invalid_options_are_rejected_by_name(options, message):
    with pytest.raises(InputError, match=message):
        make_model(**options)


def test_criterions_of_other_models_are_refused_when_they_are_built():
    task = make_task()
    make_model(task)
    for name in ("nat_loss", "label_smoothed_cross_entropy_with_ctc", "model"):
        with pytest.raises(InputError, match=f"--criterion {name} does not fit resmlp"):
            task.build_criterion(Namespace(criterion=name))
    assert task.build_criterion(OmegaConf.create({"_name": "cross_entropy", "sentence_avg": False})) is not None
