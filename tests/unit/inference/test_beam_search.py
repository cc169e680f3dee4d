"""Beam search finds the hypotheses and scores of fairseq's SequenceGenerator."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.network import EOS
from support.inference import LAYER_NORM, make_network
from support.models import make_batch, make_model, make_sentences, make_task

SEARCH_OPTIONS = [
    {},
    {"beam": 1},
    {"beam": 7},
    {"lenpen": 0.2},
    {"lenpen": 2.0, "unkpen": 3.0},
    {"unkpen": -4.0},
    {"min_len": 6},
    {"max_len_b": 4},
    {"max_len_a": 0.5, "max_len_b": 2},
    {"min_len": 9, "max_len_b": 9},
]
CASES = [({}, options) for options in SEARCH_OPTIONS]
CASES += [({"token_mixing": "toeplitz", "mixing_heads": 4, **more}, {"min_len": 6}) for more in ({}, LAYER_NORM)]


def make_ending_model(factor, **options):
    """Return a tiny model that ends sentences early; the larger `factor`, the earlier."""
    model = make_model(seed=2, **options)
    with torch.no_grad():
        model.decoder.final.beta += factor * model.decoder.output_projection.weight[EOS]
    return model


@pytest.mark.parametrize("variant, options", CASES, ids=str)
def test_the_search_gives_the_hypotheses_and_scores_of_fairseq(variant, options):
    model, task = make_ending_model(2, **variant), make_task()
    options = SearchOptions(**options)
    sources = make_sentences(23)
    generator = SequenceGenerator(
        [model],
        task.target_dictionary,
        beam_size=options.beam,
        max_len_a=options.max_len_a,
        max_len_b=options.max_len_b,
        min_len=options.min_len,
        len_penalty=options.lenpen,
        unk_penalty=options.unkpen,
    )
    batch = make_batch(sources, sources)
    expected = dict(zip(batch["id"].tolist(), generator.generate([model], batch)))
    found = beam_search(make_network(model), [source.tolist() for source in sources], options)
    for i, hypotheses in enumerate(found):
        assert [h.tokens for h in hypotheses] == [h["tokens"].tolist() for h in expected[i]]
        assert [h.score for h in hypotheses] == pytest.approx([h["score"].item() for h in expected[i]], abs=1e-5)
    if options == SearchOptions():  # sentences leave the batch at different steps
        assert len({max(len(hypothesis.tokens) for hypothesis in hypotheses) for hypotheses in found}) > 2


def test_step_callback_receives_the_best_hypothesis_of_each_step():
    network, sources, seen = make_network(make_ending_model(3)), [source.tolist() for source in make_sentences(7)], []
    found = beam_search(network, sources, SearchOptions(), step_callback=seen.append)
    assert found == beam_search(network, sources, SearchOptions())
    assert 3 < len(seen) < network.config.decoder_max_positions
    assert seen[-1] == [best.tokens for best, *_ in found]
    assert all(len(tokens) == 1 for tokens in seen[0]) and any(len(tokens) == 2 for tokens in seen[1])


def test_a_beam_larger_than_the_vocabulary_allows_is_refused():
    network = make_network(make_model())
    V = network.config.decoder_vocab_size
    beam_search(network, [[5, 2]], SearchOptions(beam=(V - 2) // 2))
    with pytest.raises(
        InputError, match=rf"beam of {V // 2} is too large for {V} .* maximum is --beam {(V - 2) // 2}$"
    ):
        beam_search(network, [[5, 2]], SearchOptions(beam=V // 2))
    with pytest.raises(InputError, match="too large for 9 "):
        beam_search(network, [[5, 2]], SearchOptions(beam=4), torch.arange(9))


def test_a_translation_does_not_depend_on_its_batch():
    network = make_network(make_model(seed=2))
    sources = [source.tolist() for source in make_sentences(12)]
    together = beam_search(network, sources, SearchOptions(max_len_b=12))
    for source, hypotheses in zip(sources, together):
        (alone,) = beam_search(network, [source], SearchOptions(max_len_b=12))
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        assert [h.score for h in alone] == pytest.approx([h.score for h in hypotheses], abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), torch.finfo(torch.float32).max])
@pytest.mark.parametrize("max_len", [0, 5])
def test_overflow_is_an_error_and_not_a_translation(value, max_len):
    network = make_network(make_model())
    network.source_embed.fill_(value)
    with pytest.raises(InputError, match="no translation with a finite score"):
        beam_search(network, [[5, 2]], SearchOptions(min_len=0, max_len_b=max_len))
