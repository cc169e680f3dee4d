"""The cache of token mixings in incremental decoding: reordering and gradients."""

import pytest
import torch

from support.models import make_batch, make_model, make_sentences
from support.variants import VARIANTS


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_reordering_follows_ancestors_and_a_shrinking_batch(options):
    model = make_model(**options)
    source = make_batch(make_sentences(2), make_sentences(2))["net_input"]["src_tokens"]
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(source), torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens = torch.randint(4, 44, (6, 3))
    state = {}
    for t in range(3):
        model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
    order = torch.tensor([5, 3, 3])  # the first sentence is finished, two hypotheses share an ancestor
    model.decoder.reorder_incremental_state_scripting(state, order)
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    tokens = torch.cat([tokens[order], torch.randint(4, 44, (3, 1))], dim=1)
    step, _ = model.decoder(tokens, encoder_out, incremental_state=state)
    full, _ = model.decoder(tokens, encoder_out)
    torch.testing.assert_close(step[:, 0], full[:, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_reordering_can_widen_the_batch(options):
    model = make_model(**options)
    source = make_batch(make_sentences(2), make_sentences(2))["net_input"]["src_tokens"]
    encoder_out, tokens, state = model.encoder(source), torch.randint(4, 44, (2, 5)), {}
    for t in range(5):
        model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
    order = torch.tensor([0, 0, 0, 1, 1, 1])
    model.decoder.reorder_incremental_state_scripting(state, order)
    encoder_out, tokens = model.encoder.reorder_encoder_out(encoder_out, order), tokens[order]
    for _ in range(4):
        tokens = torch.cat([tokens, torch.randint(4, 44, (6, 1))], dim=1)
        step, _ = model.decoder(tokens, encoder_out, incremental_state=state)
        torch.testing.assert_close(step[:, 0], model.decoder(tokens, encoder_out)[0][:, -1], atol=1e-5, rtol=0)


def test_gradients_pass_through_incremental_decoding():
    model = make_model()
    encoder_out, tokens, state = model.encoder(make_sentences(1)[0][None]), torch.randint(4, 44, (1, 4)), {}
    steps = [model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)[0] for t in range(4)]
    full, _ = model.decoder(tokens, encoder_out)
    one, other = (
        torch.autograd.grad(y.pow(2).sum(), model.decoder.layers[0].mixing.A, retain_graph=True)[0]
        for y in (torch.cat(steps, 1), full)
    )
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
