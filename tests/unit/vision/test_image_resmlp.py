"""The image model: the paper's formulas, sizes, pooling, stochastic depth, and what it refuses."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.modules.stochastic_depth import StochasticDepth
from fairseq_resmlp.vision.config import IMAGE_ARCHITECTURES, ImageResMLPConfig, validate
from fairseq_resmlp.vision.image_resmlp import ImageResMLPModel
from support.images import CLASSES, TINY_IMAGES, make_image_model
from support.reference import loop_aff, loop_ffn, loop_mixing, numpy_parameters


def part(p, prefix):
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def embed_patches(images, p):
    """One vector per patch, row by row: the products of each filter with the pixels. N x B x d."""
    weight, bias = p["encoder.embed_patches.weight"], p["encoder.embed_patches.bias"]
    size = weight.shape[-1]
    corners = [(i, j) for i in range(0, images.shape[2], size) for j in range(0, images.shape[3], size)]
    x = np.empty((len(corners), len(images), len(weight)))
    for n, (i, j) in enumerate(corners):
        for b, d in np.ndindex(x.shape[1:]):
            x[n, b, d] = (weight[d] * images[b, :, i : i + size, j : j + size]).sum() + bias[d]
    return x


def encode(images, p):
    """Equations (1) to (3) for each layer, and the final Aff. N x B x d."""
    x = embed_patches(images, p)
    for number in range(TINY_IMAGES["layers"]):
        layer = part(p, f"encoder.layers.{number}.")
        lengths = [len(x)] * x.shape[1]
        mixed = loop_mixing(loop_aff(x, layer, "mixing_pre"), layer["mixing.A"], layer["mixing.b"], lengths, False)
        x = x + loop_aff(mixed, layer, "mixing_post")
        x = x + loop_aff(loop_ffn(loop_aff(x, layer, "ffn_pre"), layer), layer, "ffn_post")
    return loop_aff(x, p, "encoder.final")


def test_logits_are_the_papers_formula():
    model = make_image_model().double()
    p = numpy_parameters(model)
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    expected = encode(images.numpy(), p).mean(0) @ p["classifier.weight"].T + p["classifier.bias"]
    logits, _ = model(images)
    assert logits.shape == (2, 1, CLASSES)
    np.testing.assert_allclose(logits[:, 0].detach().numpy(), expected, atol=1e-12)


def test_class_mlp_changes_the_class_vector_and_leaves_the_patches():
    model = make_image_model(pooling="class_mlp").double()
    p = numpy_parameters(model)
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    x = encode(images.numpy(), p)
    c = np.repeat(p["pooling.c"].reshape(1, 1, -1), 2, 1)  # 1 x B x d
    for number in range(2):
        layer = part(p, f"pooling.layers.{number}.")
        tokens = loop_aff(np.concatenate([c, x]), layer, "mixing_pre")
        mixed = np.einsum("n,nbd->bd", layer["mixing.weight"][0], tokens)[None] + layer["mixing.bias"]
        c = c + loop_aff(mixed, layer, "mixing_post")
        c = c + loop_aff(loop_ffn(loop_aff(c, layer, "ffn_pre"), layer), layer, "ffn_post")
    expected = c[0] @ p["classifier.weight"].T + p["classifier.bias"]
    np.testing.assert_allclose(model(images)[0][:, 0].detach().numpy(), expected, atol=1e-12)


# Parameters of the published code without post-Aff's beta, and the multiply-adds that the paper states, in billions
PUBLISHED = {
    "resmlp_s12": (15_350_872, 3.0),
    "resmlp_s24": (30_020_680, 6.0),
    "resmlp_s36": (44_690_488, 8.9),
    "resmlp_b24": (115_736_776, 23.0),
    "resmlp_b24_8": (129_138_280, 100.2),
}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_sizes_are_the_published_ones(arch):
    with torch.device("meta"):
        model = ImageResMLPModel(ImageResMLPConfig(**IMAGE_ARCHITECTURES[arch]), 1000).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    ours = sum(size for name, size in parameters.items() if name.endswith("post.beta"))  # not in the published code
    assert (sum(parameters.values()) - ours, round(counter.get_total_flops() / 2e9, 1)) == PUBLISHED[arch]


@pytest.mark.parametrize("arch", IMAGE_ARCHITECTURES)
def test_initial_values_are_those_of_the_published_code(arch):
    changes = {**IMAGE_ARCHITECTURES[arch], "layers": 1}
    torch.manual_seed(0)
    model = ImageResMLPModel(ImageResMLPConfig(**changes), 1000)
    layer = model.encoder.layers[0]
    for post in (layer.mixing_post, layer.ffn_post):
        assert torch.equal(post.alpha, torch.full_like(post.alpha, changes.get("post_alpha", 0.1)))
        assert not post.beta.any()
    for weight in (layer.mixing.A, layer.ffn.B.weight, layer.ffn.C.weight, model.classifier.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_stochastic_depth_skips_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    skip = StochasticDepth(0.25)
    y = skip(torch.ones(3, 4000, 2))
    assert torch.equal(y, y[:1, :, :1].expand_as(y))  # one decision per image
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(y.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(skip.eval()(torch.ones(3, 4, 2)), torch.ones(3, 4, 2))


def test_stochastic_depth_is_applied_to_both_sublayers():
    model = make_image_model(stochastic_depth=0.999999).train()
    images = torch.randn(4, 3, 12, 12)
    x = model.encoder.embed_patches(images).flatten(2).permute(2, 0, 1)
    assert torch.equal(model.encoder(images), model.encoder.final(x))


def test_without_mixing_the_order_of_the_patches_does_not_matter():
    images = torch.randn(2, 3, 12, 12)
    moved = images.roll(4, -1)  # by one patch
    for token_mixing, same in (("none", True), ("linear", False), ("mlp", False)):
        model = make_image_model(token_mixing=token_mixing)
        assert torch.allclose(model(images)[0], model(moved)[0], atol=1e-5) == same


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"images are 1x12x12, but the model is for 3x12x12"):
        make_image_model()(torch.zeros(1, 1, 12, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "--image-size 30 is not a multiple of --patch-size 16"),
        ({"stochastic_depth": 1.0}, "--stochastic-depth 1.0 is not less than 1"),
        ({"embed_dim": 0}, "--embed-dim 0 is less than 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        validate(ImageResMLPConfig(**options))
