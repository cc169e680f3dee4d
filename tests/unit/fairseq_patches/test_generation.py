"""Patches of fairseq-generate, fairseq-interactive and the hub interface. See also tests/robustness."""

import torch
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator

from support.models import make_model, make_task


def test_generation_works_for_a_batch_without_sentence_numbers():
    sample = {"net_input": {"src_tokens": torch.tensor([[5, 6, 2]]), "src_lengths": torch.tensor([3])}}
    model, dictionary = make_model(), make_task().target_dictionary
    for search in (None, DiverseBeamSearch(dictionary, num_groups=2, diversity_strength=0.5)):
        generator = SequenceGenerator([model], dictionary, beam_size=4, max_len_b=5, search_strategy=search)
        assert len(generator.generate([model], sample)[0]) == 4
