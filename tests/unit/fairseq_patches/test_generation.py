"""Patches of fairseq-generate, fairseq-interactive and the hub interface. See also tests/robustness."""

import pytest
import torch
from fairseq.search import DiverseBeamSearch, LexicallyConstrainedBeamSearch, Sampling
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.token_generation_constraints import pack_constraints

from fairseq_resmlp.common.errors import InputError
from support.models import make_model, make_task


def test_generation_works_for_a_batch_without_sentence_numbers():
    sample = {"net_input": {"src_tokens": torch.tensor([[5, 6, 2]]), "src_lengths": torch.tensor([3])}}
    model, dictionary = make_model(), make_task().target_dictionary
    for search in (None, DiverseBeamSearch(dictionary, num_groups=2, diversity_strength=0.5)):
        generator = SequenceGenerator([model], dictionary, beam_size=4, max_len_b=5, search_strategy=search)
        assert len(generator.generate([model], sample)[0]) == 4


def make_sample(sources):
    lengths = torch.tensor([len(source) for source in sources])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sources], batch_first=True, padding_value=1)
    return {"id": torch.arange(len(sources)) + 7, "net_input": {"src_tokens": tokens, "src_lengths": lengths}}


def best(found):
    return [hypotheses[0]["tokens"].tolist() for hypotheses in found]


@pytest.mark.parametrize("representation", ["ordered", "unordered"])
def test_a_sentence_whose_constraints_cannot_be_met_is_translated_without_them(representation, caplog):
    model, dictionary = make_model(), make_task().target_dictionary
    search = LexicallyConstrainedBeamSearch(dictionary, representation)
    generator = SequenceGenerator([model], dictionary, beam_size=4, max_len_b=6, search_strategy=search)
    sample = make_sample([[5, 6, 2], [7, 2], [8, 9, 2], [5, 2]])
    tokens = [[[20] * 7], [[21, 22]], [], [[23] * 4, [24] * 4]]
    constraints = pack_constraints([[torch.tensor(part) for part in line] for line in tokens])
    found = best(generator.generate([model], sample, constraints=constraints))
    free = best(generator.generate([model], sample, constraints=torch.zeros_like(constraints)))
    assert [found[0], found[2], found[3]] == [free[0], free[2], free[3]]
    assert any(found[1][i : i + 2] == [21, 22] for i in range(len(found[1]))) and found[1] != free[1]
    warnings = [record.message for record in caplog.records]
    assert [f"contains the {count} tokens of the constraints" in text for count, text in zip((7, 8), warnings)] == [
        True
    ] * 2
    assert len(warnings) == 2 and "w16 w16" in warnings[0] and "w19 w19" in warnings[1]


@pytest.mark.parametrize("generator_class", [SequenceGenerator, SequenceGeneratorWithAlignment])
def test_a_failed_search_is_only_attributed_to_the_model_if_its_output_is_not_finite(generator_class):
    model, dictionary, sample = make_model(), make_task().target_dictionary, make_sample([[5, 6, 2], [7, 2]])
    generator = generator_class([model], dictionary, beam_size=4, max_len_b=5)
    assert len(generator.generate([model], sample)) == 2
    generator.unk_penalty = float("inf")
    assert len(generator.generate([model], sample)) == 2
    generator.len_penalty = float("nan")
    with pytest.raises(InputError, match="the options of the search exclude all: check --no-repeat-ngram-size, --unk"):
        generator.generate([model], sample)
    generator.len_penalty = 1
    with torch.no_grad():
        model.decoder.embed_tokens.weight[:] = float("nan")
    with pytest.raises(InputError, match="the model's activations overflow or are NaN"):
        generator.generate([model], sample)


def test_impossible_lengths_and_sampling_are_reported():
    model, dictionary, sample = make_model(), make_task().target_dictionary, make_sample([[5, 6, 2]])
    with pytest.raises(InputError, match="--min-len 9 is larger than the maximum length of a translation"):
        SequenceGenerator([model], dictionary, max_len_b=5, min_len=9).generate([model], sample)
    with pytest.raises(InputError, match="--sampling-topk 99 is larger than the target dictionary: use at most 44"):
        Sampling(dictionary, sampling_topk=99)
    assert Sampling(dictionary, sampling_topk=44).sampling_topk == 44


def test_a_translation_model_is_not_accepted_as_a_language_model():
    model = make_model()
    with pytest.raises(InputError, match="--lm-path is a translation model: specify a language model"):
        SequenceGenerator([model], make_task().target_dictionary, lm_model=model)
