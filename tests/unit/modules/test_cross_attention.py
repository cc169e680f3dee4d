"""Cross-attention: rows of hypotheses and their source sentences, dropout."""

import pytest
import torch

from support.models import make_batch, make_model, make_sentences


@pytest.mark.parametrize("order", [[3, 4, 5, 0, 1, 2], [0, 3], [5, 0, 1, 3, 3, 3]])
def test_reordered_hypotheses_keep_their_source_sentences(order):
    model = make_model()
    source = make_batch(make_sentences(2), make_sentences(2))["net_input"]["src_tokens"]
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(source), torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens, state, order = torch.randint(4, 44, (6, 4)), {}, torch.tensor(order)
    for t in range(4):
        model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
    model.decoder.reorder_incremental_state_scripting(state, order)
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    tokens = torch.cat([tokens[order], torch.randint(4, 44, (len(order), 1))], dim=1)
    step, _ = model.decoder(tokens, encoder_out, incremental_state=state)
    torch.testing.assert_close(step[:, 0], model.decoder(tokens, encoder_out)[0][:, -1], atol=1e-5, rtol=0)


def test_hypotheses_in_any_row_attend_to_their_own_source_sentence():
    model = make_model()
    source = make_batch(make_sentences(2), make_sentences(2))["net_input"]["src_tokens"]
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(source), torch.tensor([0, 1, 1, 0]))
    tokens = torch.randint(4, 44, (4, 3))
    full, extra = model.decoder(tokens, encoder_out)
    state = {}
    for t in range(3):
        step, step_extra = model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
        torch.testing.assert_close(step[:, 0], full[:, t], atol=1e-5, rtol=0)
        torch.testing.assert_close(step_extra["attn"][0][:, 0], extra["attn"][0][:, t], atol=1e-5, rtol=0)


def test_attention_dropout_is_applied_to_the_attention_weights():
    model = make_model(attention_dropout=1.0).train()
    target = torch.randint(4, 44, (1, 5))
    one, other = (model.decoder(target, model.encoder(torch.randint(4, 44, (1, 6))))[0] for _ in range(2))
    assert torch.equal(one, other)
    model.eval()
    one, other = (model.decoder(target, model.encoder(torch.randint(4, 44, (1, 6))))[0] for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("incremental", [False, True])
def test_attention_dropout_can_be_retained_in_translation(incremental):
    model = make_model(attention_dropout=0.5)
    for layer in model.decoder.layers:
        layer.attention.dropout_module.apply_during_inference = True  # the effect of --retain-dropout
    encoder_out, target = model.encoder(make_sentences(1)[0][None]), torch.randint(4, 44, (1, 5))
    states = ({}, {}) if incremental else (None, None)
    one, other = (model.decoder(target, encoder_out, incremental_state=state)[0] for state in states)
    assert not torch.equal(one, other)
