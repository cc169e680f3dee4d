"""A shortlist restricts the output layer to the subwords that it allows."""

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.config import EOS
from fairseq_resmlp.inference.shortlist import Shortlist
from support.inference import make_network
from support.models import make_model, make_task


def test_a_shortlist_restricts_translations_to_its_subwords(tmp_path):
    model, sources = make_model(seed=2), [[5, 6, EOS], [7, 9, 9, EOS]]
    options = SearchOptions(max_len_b=6)
    path = tmp_path / "shortlist.txt"
    path.write_text("\tw10 w11 w12 nothing\nw1\tw20 w21\nw3\tw22\nunknown\tw30\nw2\tw11\n", encoding="utf-8")
    entries = make_task().source_dictionary.symbols
    shortlist = Shortlist.read(str(path), entries, entries)
    assert [entries[i] for i in shortlist.allowed(sources)] == [*entries[:4], "w10", "w11", "w12", "w20", "w21", "w22"]
    assert [entries[i] for i in shortlist.allowed(sources[1:])] == [*entries[:4], "w10", "w11", "w12", "w22"]
    for dtype in ("float32", "int8"):
        network = make_network(model, dtype)
        found = beam_search(network, sources, options, shortlist.allowed(sources))
        used = {token for hypotheses in found for hypothesis in hypotheses for token in hypothesis.tokens}
        assert used <= set(shortlist.allowed(sources).tolist())
        everything = beam_search(network, sources, options, torch.arange(len(entries)))
        assert everything == beam_search(network, sources, options)


@pytest.mark.parametrize("text", ["a b\n", "a b\tc\n"])
def test_malformed_files_are_refused(text, tmp_path):
    (tmp_path / "shortlist.txt").write_text(text)
    with pytest.raises(InputError, match="line 1 is not a source subword, a tab, and target subwords"):
        Shortlist.read(str(tmp_path / "shortlist.txt"), [], [])


def test_files_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "shortlist.txt").write_bytes(b"\t\xff\n")
    with pytest.raises(InputError, match="shortlist.txt is not UTF-8"):
        Shortlist.read(str(tmp_path / "shortlist.txt"), [], [])
