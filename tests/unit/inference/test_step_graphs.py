"""Decoding at fixed sizes: the hypotheses of decoding at the sizes of each batch."""

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.inference.step_graphs import MOST_DECODERS
from fairseq_resmlp.model.export import to_inference_weights
from support.inference import LAYER_NORM, make_network
from support.models import make_model, make_sentences

LONG = {"decoder_max_positions": 80}


def sources(count, seed, longest=12):
    return [sentence.tolist() for sentence in make_sentences(count, longest, seed=seed)]


def assert_equal(found, expected):
    for sentence, other in zip(found, expected, strict=True):
        assert [hypothesis.tokens for hypothesis in sentence] == [hypothesis.tokens for hypothesis in other]
        assert [hypothesis.score for hypothesis in sentence] == pytest.approx(
            [hypothesis.score for hypothesis in other], abs=1e-5
        )


@pytest.mark.parametrize(
    "options",
    [LONG, {**LONG, **LAYER_NORM}, {**LONG, "token_mixing": "toeplitz", "mixing_heads": 4}],
    ids=str,
)
def test_hypotheses_and_scores_are_those_of_varying_sizes(options):
    model = make_model(**options)
    network, fixed = make_network(model), make_network(model)
    fixed.cuda_graphs = True
    for count, seed in ((5, 1), (8, 2), (1, 3), (7, 4)):  # 5, 8 and 7 sentences share a decoder
        for max_len in (10, 70):  # positions of one and of three graphs
            search = SearchOptions(beam=4, max_len_b=max_len)
            assert_equal(
                beam_search(fixed, sources(count, seed), search), beam_search(network, sources(count, seed), search)
            )
    assert {key[0] for key in fixed.fixed_size_decoders} == {1, 8}
    assert set(fixed.fixed_size_decoders[8, 32, 4].graphs) == {32, 64, 80}


def test_what_an_earlier_batch_has_left_has_no_effect():
    fixed = make_network(make_model())
    fixed.cuda_graphs = True
    search = SearchOptions(beam=2, max_len_b=10)
    expected = beam_search(fixed, sources(3, 1), search)
    (decoder,) = fixed.fixed_size_decoders.values()
    with torch.inference_mode():
        decoder.store[:], decoder.ancestors[:] = torch.nan, 7
    assert_equal(beam_search(fixed, sources(3, 1), search), expected)


def test_the_number_of_decoders_is_limited():
    fixed = make_network(make_model())
    fixed.cuda_graphs = True
    for beam in range(1, MOST_DECODERS + 3):
        beam_search(fixed, sources(1, 1), SearchOptions(beam=beam, max_len_b=2))
    assert [beam for _, _, beam in fixed.fixed_size_decoders] == list(range(3, MOST_DECODERS + 3))


def test_cuda_graphs_on_a_cpu_are_refused():
    with pytest.raises(InputError, match="CUDA graphs are not supported on device cpu: use --device cuda"):
        Network(*to_inference_weights(make_model()), cuda_graphs=True)
