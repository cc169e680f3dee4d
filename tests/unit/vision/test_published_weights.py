"""Published image weights: equal outputs in both directions, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.vision.config import IMAGE_ARCHITECTURES, ImageResMLPConfig
from fairseq_resmlp.vision.image_resmlp import ImageResMLPModel
from fairseq_resmlp.vision.published_weights import FORMATS, convert, from_published, model_options, to_published
from support.commands import run
from support.images import CLASSES, TINY_IMAGES, make_image_model, write_folder


def published_logits(weights, images):
    """The published model from its formula, with the names of DeiT: LayerScale gamma, no beta after sublayers."""

    def affine(x, name):
        return weights[f"{name}.alpha"] * x + weights[f"{name}.beta"]

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    stride = weights["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=stride)
    x = x.flatten(2).transpose(1, 2)  # B x N x d
    for number in range(len({name.split(".")[1] for name in weights if name.startswith("blocks.")})):
        block = f"blocks.{number}"
        mixed = dense(affine(x, f"{block}.norm1").transpose(1, 2), f"{block}.attn").transpose(1, 2)
        x = x + weights[f"{block}.gamma_1"] * mixed
        hidden = F.gelu(dense(affine(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.gamma_2"] * dense(hidden, f"{block}.mlp.fc2")
    return dense(affine(x, "norm").mean(1), "head")


def published_weights(**options):
    """Random weights in the format of DeiT, float64."""
    weights = to_published(make_image_model(**options).double().state_dict(), "deit")
    torch.manual_seed(5)
    return {name: torch.randn_like(weight) * 0.3 for name, weight in weights.items()}


def load(model_weights):
    model = ImageResMLPModel(ImageResMLPConfig(**model_options(model_weights)), CLASSES).double().eval()
    model.load_state_dict(model_weights)
    return model


IMAGES = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_model_with_published_weights_has_the_published_outputs():
    weights = published_weights()
    found = load(from_published(weights))(IMAGES)[0][:, 0]
    assert (found - published_logits(weights, IMAGES)).abs().max() < 1e-12


def test_the_way_back_is_exact_although_the_published_code_lacks_a_parameter():
    model = make_image_model().double()
    assert model.encoder.layers[0].ffn_post.beta.abs().min() > 1e-4  # the parameter that it lacks
    weights = to_published(model.state_dict(), "deit")
    assert not any("gamma" in name and "beta" in name for name in weights)
    expected = model(IMAGES)[0][:, 0]
    assert (published_logits(weights, IMAGES) - expected).abs().max() < 1e-12
    assert (load(from_published(weights))(IMAGES)[0][:, 0] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("to", FORMATS)
def test_published_weights_survive_both_conversions(to):
    weights = to_published(from_published(published_weights()), to)
    again = to_published(from_published(weights), to)
    assert list(again) == list(weights) and all(torch.equal(again[name], weights[name]) for name in weights)


def test_timms_own_model_has_the_same_outputs():
    mlp_mixer = pytest.importorskip("timm.models.mlp_mixer", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = mlp_mixer.resmlp_12_224().double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model = ImageResMLPModel(ImageResMLPConfig(**IMAGE_ARCHITECTURES["resmlp_s12"]), 1000).double().eval()
    model.load_state_dict(from_published(theirs.state_dict()))
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images)
        assert (model(images)[0][:, 0] - expected).abs().max() < 1e-12 * expected.abs().max()
        theirs.load_state_dict(to_published(model.state_dict(), "timm"))
        assert (theirs(images) - expected).abs().max() < 1e-12 * expected.abs().max()


# The command.


@pytest.mark.parametrize(("to", "suffix"), [("deit", ".pth"), ("timm", ".safetensors")])
def test_the_command_converts_both_ways(tmp_path, to, suffix):
    weights = {name: weight.float() for name, weight in to_published(from_published(published_weights()), to).items()}
    source, back = tmp_path / f"published{suffix}", tmp_path / f"back{suffix}"
    if suffix == ".pth":
        torch.save({"model": weights}, source)
    else:
        save_file(weights, source)
    done = run("fairseq-resmlp", "convert", source, tmp_path / "model.pt")
    assert done.stdout.endswith(": 2 layers, d 16, 12 x 12 pixels in patches of 4, 5 classes\n")
    run("fairseq-resmlp", "convert", tmp_path / "model.pt", back, "--to", to)
    found = torch.load(back) if suffix == ".pth" else load_file(back)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_fairseq_validate_loads_a_converted_model(tmp_path):
    weights = {name: weight.float() for name, weight in published_weights().items()}
    torch.save(weights, tmp_path / "published.pth")
    convert(str(tmp_path / "published.pth"), str(tmp_path / "model.pt"))
    images = torch.randint(0, 256, (10, 12, 12, 3), dtype=torch.uint8).numpy()
    write_folder(tmp_path / "data" / "val", images, range(5))
    write_folder(tmp_path / "data" / "val", images[5:], range(5))
    done = run(
        *("fairseq-validate", tmp_path / "data", "--user-dir", "fairseq_resmlp", "--task", "image_classification"),
        *("--path", tmp_path / "model.pt", "--batch-size", "4", "--cpu", "--num-workers", "0"),
    )
    assert "accuracy" in done.stdout and "valid: 5 images of 5 classes" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("blocks.1.attn.weight"), "they have no blocks.1.attn.weight"),
        (lambda w: w.update({"blocks.0.attn.qkv": w["head.bias"]}), "such as blocks.0.attn.qkv"),
        (lambda w: w["norm.alpha"].fill_(float("nan")), "norm.alpha has weights that are infinite or NaN"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    weights = published_weights()
    change(weights)
    torch.save(weights, tmp_path / "published.pth")
    with pytest.raises(InputError, match=message):
        convert(str(tmp_path / "published.pth"), str(tmp_path / "model.pt"))
    assert not (tmp_path / "model.pt").exists()


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_weights_that_contain_code_are_refused(tmp_path, capfd):
    torch.save({"head.bias": Harmful()}, tmp_path / "published.pth")
    with pytest.raises(InputError, match="not safe to load"):
        convert(str(tmp_path / "published.pth"), str(tmp_path / "model.pt"))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"head.bias": Harmful()}))
    with pytest.raises(InputError, match="is not a checkpoint"):
        convert(str(tmp_path / "plain.pth"), str(tmp_path / "model.pt"))
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("options", [{"token_mixing": "mlp"}, {"pooling": "class_mlp"}], ids=str)
def test_variants_without_a_published_counterpart_are_refused(options):
    with pytest.raises(InputError, match="only models with --token-mixing linear and --pooling average"):
        to_published(make_image_model(**options).state_dict(), "deit")


def test_the_options_of_the_named_architectures_are_read_from_their_weights():
    for arch in ("resmlp_s24", "resmlp_b24_8"):
        cfg = ImageResMLPConfig(**IMAGE_ARCHITECTURES[arch])
        with torch.device("meta"):
            found = model_options(ImageResMLPModel(cfg, 1000).state_dict())
        assert found == {name: getattr(cfg, name) for name in TINY_IMAGES}
