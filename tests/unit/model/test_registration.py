"""The registered model: training and translation of every architecture, loading of checkpoints."""

import json
import platform
import shutil

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ARCHITECTURES, ResMLPConfig
from support.models import make_batch, make_model, make_sentences, make_task
from support.paths import GOLDEN
from support.variants import VARIANTS


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


def test_tied_embeddings_are_one_parameter():
    model = ResMLPModel.build_model(ResMLPConfig(share_all_embeddings=True), make_task())
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    model = ResMLPModel.build_model(ResMLPConfig(share_decoder_input_output_embed=True), make_task())
    assert model.encoder.embed_tokens.weight is not model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    model = ResMLPModel.build_model(ResMLPConfig(), make_task())
    assert model.decoder.output_projection.weight is not model.decoder.embed_tokens.weight


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_old_checkpoint_keeps_its_options_when_its_architecture_changes(arch, tmp_path):
    """The golden checkpoint is older than most options. Some architectures have changed the values of these since."""
    shutil.copytree(GOLDEN, tmp_path / "model")
    state = torch.load(GOLDEN / "model.pt", weights_only=True)
    assert "normalization" not in state["cfg"]["model"]
    state["cfg"]["model"]["_name"] = arch
    torch.save(state, tmp_path / "model" / "model.pt")
    (first,) = ResMLPModel.load(GOLDEN)[2]
    (second,) = ResMLPModel.load(tmp_path / "model")[2]
    assert str(first) == str(second)


def test_zeros_that_older_versions_stored_for_a_missing_b_are_dropped(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "model")
    file = str(tmp_path / "model" / "model.pt")
    state = torch.load(file, weights_only=True)
    state["cfg"]["model"]["no_mixing_bias"] = True
    for name in [name for name in state["model"] if name.endswith("mixing.b")]:
        state["model"][name].zero_()
    torch.save(state, file)
    (model,) = ResMLPModel.load(tmp_path / "model")[2]
    assert not any(name.endswith("mixing.b") for name in [*model.state_dict(), *read_checkpoint(file)["model"]])
    state["model"]["decoder.layers.0.mixing.b"].fill_(1.0)
    torch.save(state, file)
    with pytest.raises(InputError, match=r"another model: Unexpected .*mixing\.b"):
        ResMLPModel.load(tmp_path / "model")


def test_the_stored_model_translates_as_when_it_was_stored(tmp_path, record_promise):
    """The checkpoint is from tests/golden/make.py. If this test fails, old checkpoints translate differently now."""
    shutil.copytree(GOLDEN, tmp_path / "model")
    hub = ResMLPModel.from_pretrained(tmp_path / "model")
    for expected in json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8")):
        hypotheses = hub.generate([hub.encode(expected["source"])], beam=4)[0]
        assert [hub.decode(h["tokens"]) for h in hypotheses] == [h["translation"] for h in expected["hypotheses"]]
        for got, stored in zip(hypotheses, expected["hypotheses"], strict=True):
            torch.testing.assert_close(
                got["positional_scores"], torch.tensor(stored["scores"]), atol=1e-4, rtol=0, check_dtype=False
            )
    python = ".".join(platform.python_version_tuple()[:2])
    record_promise(
        f"The stored checkpoint translates as when it was stored: Python {python}, torch {torch.__version__}",
        "all of its sentences, 4 hypotheses each, log-probabilities within 1e-4",
    )


WITHOUT_BIAS = [
    {"no_mixing_bias": True},
    {"token_mixing": "toeplitz"},
    {"token_mixing": "toeplitz_linear", "no_mixing_bias": True},
]


@pytest.mark.parametrize("options", WITHOUT_BIAS, ids=str)
def test_without_a_bias_b_is_not_stored(options):
    """A stored b would be counted as a parameter."""
    model = make_model(**options)
    state = model.state_dict()
    assert not any(name.endswith("mixing.b") for name in state)
    with pytest.raises(InputError, match=r"another model: Unexpected .*mixing\.b"):
        model.load_state_dict({**state, "encoder.layers.0.mixing.b": torch.ones(24)})
    with pytest.raises(InputError, match=r"another model: Missing .*mixing\.b"):
        make_model().load_state_dict(make_model(no_mixing_bias=True).state_dict())


def test_a_model_without_layers_can_be_loaded():
    state = make_model(encoder_layers=0, decoder_layers=0).state_dict()
    make_model(encoder_layers=0, decoder_layers=0).load_state_dict(state)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_checkpoint_with_another_n_is_resized_with_a_warning(options, caplog):
    state = make_model(encoder_max_positions=14, **options).state_dict()
    make_model(**options).load_state_dict(state)
    warnings = [r.message for r in caplog.records if "the encoder of this checkpoint has N = 14" in r.message]
    resizes = options.get("token_mixing") not in ("none", "conv") or "positional_embeddings" in options
    assert len(warnings) == resizes and "decoder of this checkpoint" not in caplog.text
