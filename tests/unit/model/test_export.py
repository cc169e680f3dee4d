"""Exporting: the inference network computes what the trained model computes, for every supported variant."""

import shutil

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import model_format
from fairseq_resmlp.inference.model_format import SENTENCEPIECE, load_exported_model
from fairseq_resmlp.inference.network import PAD, Network
from fairseq_resmlp.model.export import export_model, to_inference_weights
from support.inference import LAYER_NORM, teacher_forced_log_probs
from support.models import make_batch, make_model, make_sentences
from support.paths import GOLDEN


@pytest.mark.parametrize(
    "options",
    [
        {"share_all_embeddings": True},
        {"token_mixing": "none"},
        {"token_mixing": "toeplitz"},
        {"token_mixing": "toeplitz", "mixing_heads": 4, "encoder_max_positions": 15},
        {"token_mixing": "toeplitz_linear", "decoder_max_positions": 15},
        {"token_mixing": "toeplitz_linear", "mixing_heads": 4},
        {"mixing_heads": 2, "encoder_embed_dim": 24},
        {"no_mixing_bias": True},
        {"activation_fn": "geglu"},
        LAYER_NORM,
        {**LAYER_NORM, "token_mixing": "toeplitz", "mixing_heads": 4, "encoder_embed_dim": 24},
        {**LAYER_NORM, "token_mixing": "none"},
        {"encoder_embed_dim": 24, "encoder_layers": 3, "encoder_max_positions": 15, "decoder_attention_heads": 4},
        {"share_decoder_input_output_embed": True, "decoder_layers": 1},
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_inference_network_computes_what_the_model_computes(options):
    model = make_model(**options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config, weights = to_inference_weights(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: tuple(value.shape) for name, value in weights.items()} == config.weight_shapes()
    assert (weights["decoder.embed"] is weights["encoder.embed"]) == ("share_all_embeddings" in options)
    batch = make_batch(make_sentences(5), make_sentences(5, seed=1), left_pad_source=False)["net_input"]
    expected = model(**batch)[0].log_softmax(-1)
    network = Network(config, weights)
    found = teacher_forced_log_probs(network, batch["src_tokens"], batch["prev_output_tokens"])
    real = batch["prev_output_tokens"].ne(PAD)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


def test_a_model_prepared_for_generation_gives_the_same_weights():
    prepared = make_model(seed=2)
    prepared.make_generation_fast_()
    weights = to_inference_weights(prepared)[1]
    for name, expected in to_inference_weights(make_model(seed=2))[1].items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"token_mixing": "mlp"}, "--token-mixing other than linear, toeplitz, toeplitz_linear and none"),
        ({"token_mixing": "conv"}, "--token-mixing other than linear, toeplitz, toeplitz_linear and none"),
        ({"positional_embeddings": "learned"}, "--positional-embeddings"),
        ({"activation_fn": "relu"}, "--activation-fn relu"),
    ],
    ids=str,
)
def test_unsupported_variants_are_refused_naming_the_option(options, reason):
    with pytest.raises(InputError, match=f"a model with {reason} cannot be exported: translate with fairseq-generate"):
        to_inference_weights(make_model(**options))


def test_a_failed_export_leaves_nothing_and_existing_directories_are_kept(exported_models, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="int8 already exists: choose another directory, or remove it first"):
        export_model(str(GOLDEN), str(exported_models / "int8"))
    load_exported_model(str(exported_models / "int8"))
    with pytest.raises(InputError, match="sentencepiece.bpe.model not found: specify it as --spm"):
        export_model(str(GOLDEN / "model.pt"), str(tmp_path / "model"), sentencepiece=str(tmp_path / SENTENCEPIECE))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_format.shutil, "copyfile", full)
    with pytest.raises(InputError, match="cannot write .*: No space left"):
        export_model(str(GOLDEN), str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "nowhere"}, "dict.en.txt not found: specify the directory of"),
        ({"sentencepiece": __file__}, "is not a SentencePiece model"),
        ({"shortlist": "other"}, "has no subword of this model's dictionary"),
    ],
    ids=str,
)
def test_files_to_copy_are_validated_before_anything_is_written(options, message, tmp_path):
    (tmp_path / "other").write_text("\tnever seen\nnever\tseen\n")
    (tmp_path / "nowhere").mkdir()
    options = {name: str(tmp_path / value) for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        export_model(str(GOLDEN), str(tmp_path / "model"), **options)
    assert not (tmp_path / "model").exists()


def test_weights_that_a_dtype_cannot_represent_are_refused(tmp_path):
    config, weights = to_inference_weights(make_model())
    weights["output.weight"][3, 5] = 1e6  # above the largest float16
    files = (("en.txt", "de.txt"), "spm.model")
    with pytest.raises(InputError, match="output.weight has weights that float16 cannot represent"):
        model_format.save_exported_model(str(tmp_path / "model"), config, weights, "float16", ["en", "de"], *files)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_run_directory_can_be_exported(tmp_path):
    run = tmp_path / "corpus" / "table" / "run"
    run.mkdir(parents=True)
    shutil.copy(GOLDEN / "model.pt", run)
    (tmp_path / "corpus" / "data-bin").mkdir()
    for language in ("en", "de"):
        shutil.copy(GOLDEN / f"dict.{language}.txt", tmp_path / "corpus" / "data-bin")
    shutil.copy(GOLDEN / SENTENCEPIECE, tmp_path / "corpus")
    (tmp_path / "link").symlink_to(run)
    assert export_model(str(tmp_path / "link"), str(tmp_path / "exported")) == ["en", "de"]
