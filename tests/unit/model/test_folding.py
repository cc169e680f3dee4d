"""Folding the Affs into adjacent linear layers, as fairseq-generate does."""

import torch

from fairseq_resmlp.resmlp import Aff, LinearMixing
from support.models import make_batch, make_model, make_sentences
from support.variants import VARIANTS_AND_BEAM, generate


@VARIANTS_AND_BEAM
def test_folding_changes_no_translation(options, beam):
    plain, folded = make_model(**options), make_model(**options)
    for _ in range(2):  # fairseq may call it twice
        folded.make_generation_fast_(need_attn=True)
    left = [name for name, module in folded.named_modules() if isinstance(module, Aff)]
    assert [name for name in left if "mixing" not in name and name != "encoder.final"] == []
    if isinstance(folded.decoder.layers[0].mixing, LinearMixing):
        assert [name for name in left if "decoder" in name and "post" in name] == []
    sample = make_batch(make_sentences(5), make_sentences(5, seed=1))
    torch.testing.assert_close(folded(**sample["net_input"])[0], plain(**sample["net_input"])[0], atol=1e-5, rtol=0)
    got, expected = (generate(model, make_sentences(5), beam=beam) for model in (folded, plain))
    for index in got:
        for hypothesis, other in zip(got[index], expected[index], strict=True):
            torch.testing.assert_close(hypothesis["score"], other["score"], atol=1e-5, rtol=0)
            torch.testing.assert_close(hypothesis["attention"], other["attention"], atol=1e-5, rtol=0)
