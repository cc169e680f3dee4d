"""The models of a server: names, pairs and matrices."""

from types import SimpleNamespace

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.server.maps import MAX_NUMBERS, MixingMaps
from fairseq_resmlp.server.models import Models, ServedModel


def model(source, target, name=None):
    return SimpleNamespace(source=source, target=target, name=name or f"{source}-{target}")


def test_a_model_is_chosen_by_its_pair():
    models = Models([model("en", "de"), model("de", "en"), model("en", "fr")])
    assert models.choose("de", "en").name == "de-en"
    assert models.languages() == [
        {"code": "en", "name": "English", "targets": ["de", "fr"]},
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "fr", "name": "French", "targets": []},
    ]
    with pytest.raises(InputError, match="from 'fr' to 'de': available are de to en, en to de, en to fr"):
        models.choose("fr", "de")


def test_of_several_models_of_a_pair_the_first_is_the_default():
    models = Models([model("en", "de", "small"), model("en", "de", "big"), model("de", "en", "back")])
    assert models.choose("en", "de").name == "small"
    assert models.choose("en", "de", "big").name == "big"
    with pytest.raises(InputError, match="no model named 'back' translates from 'en' to 'de'"):
        models.choose("en", "de", "back")


def test_models_of_the_same_name_are_refused():
    with pytest.raises(InputError, match="2 models are named en-de: distinguish them with NAME=MODEL"):
        Models([model("en", "de"), model("en", "de")])


@pytest.fixture(scope="module")
def golden(exported_models):
    return Translator.load(str(exported_models / "float32"))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..%2f", "a" * 65, "<b>", "a\n"])
def test_a_name_that_does_not_fit_into_an_address_is_refused(golden, name):
    with pytest.raises(InputError, match="cannot be the name of a model: specify NAME=MODEL"):
        ServedModel(name, golden, 4, 1)


def test_the_number_of_parameters_is_that_of_the_exported_weights(golden, exported_models):
    from safetensors import safe_open

    model = ServedModel(None, golden, 4, 1)
    with safe_open(exported_models / "float32" / "weights.safetensors", "pt") as weights:
        stored = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert model.description()["parameters"] == stored
    model.queue.close()


def network(A, past_A):
    """A network with these matrices, L x m x N x N."""
    return SimpleNamespace(A=A, past_A=past_A.permute(2, 0, 1, 3))


def test_maps_end_at_the_longest_training_sentence_and_skip_layers_without_mixing():
    A, past_A = torch.zeros(2, 3, 10, 10), torch.zeros(1, 3, 10, 10)
    A[1, 2, :4, :4] = torch.arange(16.0).view(4, 4)
    maps = MixingMaps(network(A, past_A))
    assert [tuple(layer) for layer in maps.layers] == [("encoder", 2, 3, 4)]
    assert maps.matrices("encoder", 2) == A[1, :, :4, :4].tolist()
    assert maps.matrices("encoder", 1) is None and maps.matrices("decoder", 1) is None


def test_large_maps_are_cut():
    A = torch.rand(1, 16, 256, 256)
    maps = MixingMaps(network(A, torch.zeros_like(A)))
    assert maps.layers[0].positions == 64
    assert sum(len(row) for head in maps.matrices("encoder", 1) for row in head) == MAX_NUMBERS
