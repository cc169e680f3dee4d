"""The model: equations, causality, batch invariance, incremental decoding, initial values, lengths, dropout."""

import math

import numpy as np
import pytest
import torch
from fairseq.search import LengthConstrainedBeamSearch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ARCHITECTURES, ResMLPConfig
from fairseq_resmlp.model.registration import ResMLPModel
from fairseq_resmlp.resmlp import Aff, LinearMixing
from support.models import make_batch, make_model, make_sentences, make_task
from support.reference import LENGTHS, keep_mask, loop_aff, loop_attention, loop_ffn, loop_mixing, numpy_parameters
from support.variants import VARIANTS, VARIANTS_AND_BEAM, generate

# The equations of the paper.


def test_aff_scales_and_shifts_each_channel():
    aff = Aff(3, 0.2)
    assert torch.equal(aff.alpha.detach(), torch.full((3,), 0.2))
    with torch.no_grad():
        aff.alpha.copy_(torch.tensor([1.0, 2.0, 3.0]))
        aff.beta.copy_(torch.tensor([0.0, 1.0, -1.0]))
    assert aff(torch.ones(2, 3)).tolist() == [[1.0, 3.0, 2.0]] * 2


@pytest.mark.parametrize("causal", [False, True])
def test_mixing_is_the_papers_formula(causal):
    torch.manual_seed(0)
    mixing = LinearMixing(4, 9, causal, ResMLPConfig()).double()
    with torch.no_grad():
        mixing.A.normal_()
        mixing.b.normal_()
    x, keep = torch.randn(7, 3, 4, dtype=torch.float64), keep_mask(LENGTHS, 7)
    expected = loop_mixing(x.numpy(), mixing.A.detach().numpy(), mixing.b.detach().numpy(), LENGTHS, causal)
    np.testing.assert_allclose(mixing(x, keep).detach().numpy(), expected, atol=1e-12)


def test_encoder_layer_is_equations_2_and_3():
    layer = make_model().encoder.layers[0].double()
    p = numpy_parameters(layer)
    x = torch.randn(7, 3, 16, dtype=torch.float64)
    got = layer(x, keep_mask(LENGTHS, 7).double()).detach().numpy()
    x = x.numpy()
    mixed = loop_mixing(loop_aff(x, p, "mixing_pre"), p["mixing.A"], p["mixing.b"], LENGTHS, causal=False)
    z = x + loop_aff(mixed, p, "mixing_post")
    y = z + loop_aff(loop_ffn(loop_aff(z, p, "ffn_pre"), p), p, "ffn_post")
    for b, length in enumerate(LENGTHS):
        np.testing.assert_allclose(got[:length, b], y[:length, b], atol=1e-12)


def test_decoder_layer_is_causal_mixing_cross_attention_and_ffn():
    layer = make_model().decoder.layers[0].double()
    p = numpy_parameters(layer)
    x, memory = torch.randn(6, 3, 16, dtype=torch.float64), torch.randn(7, 3, 16, dtype=torch.float64)
    padding_bias = keep_mask(LENGTHS, 7).squeeze(-1).t().double().log()  # 0 at tokens, minus infinity at padding
    got = layer(x, memory, padding_bias, None, False)[0].detach().numpy()
    x = x.numpy()
    mixed = loop_mixing(loop_aff(x, p, "mixing_pre"), p["mixing.A"], p["mixing.b"], [6, 6, 6], causal=True)
    z = x + loop_aff(mixed, p, "mixing_post")
    attended = loop_attention(loop_aff(z, p, "attention_pre"), memory.numpy(), LENGTHS, p, heads=2)
    z = z + loop_aff(attended, p, "attention_post")
    y = z + loop_aff(loop_ffn(loop_aff(z, p, "ffn_pre"), p), p, "ffn_post")
    np.testing.assert_allclose(got, y, atol=1e-12)


# Initial values.


def test_initial_values_are_the_papers():
    model = make_model(randomize=False)
    seen = 0
    for name, parameter in model.named_parameters():
        if name.endswith("beta") or name.endswith(("mixing.A", "mixing.b")):
            assert (parameter == 0).all(), name
        elif name.endswith("alpha"):
            assert (parameter == (0.2 if "post" in name else 1.0)).all(), name
        else:
            continue
        seen += 1
    # (2 x 2 + 2 x 3 sublayers) x (pre, post) x (alpha, beta), two final Affs, A and b in four layers
    assert seen == 10 * 2 * 2 + 2 * 2 + 4 * 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_untrained_loss_is_at_most_ten_percent_above_log_v(arch, tied):
    words = 2000
    task = make_task(words)
    torch.manual_seed(1)
    cfg = ResMLPConfig(**ARCHITECTURES[arch], share_all_embeddings=tied)
    model = ResMLPModel.build_model(cfg, task).train()
    sentences = make_sentences(8, longest=20, words=words)
    sample = make_batch(sentences, make_sentences(8, longest=20, words=words, seed=9))
    with torch.no_grad():
        logits, _ = model(**sample["net_input"])
    target = sample["target"]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=1) / math.log(2)
    assert loss <= 1.1 * math.log2(len(task.target_dictionary))


def test_mixing_init_std_makes_the_initial_a_random_and_still_causal():
    model = make_model(randomize=False, mixing_init_std=0.02)
    assert float(model.encoder.layers[0].mixing.A.detach().std()) == pytest.approx(0.02, rel=0.2)
    A = model.decoder.layers[0].mixing.A
    assert (A.triu(1) == 0).all() and (A.tril() != 0).any()


# Causality.


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_target_token_never_sees_a_later_one(options):
    model = make_model(**options)
    source, target = make_sentences(1), torch.randint(4, 44, (1, 10))
    encoder_out = model.encoder(source[0][None])
    before, _ = model.decoder(target, encoder_out)
    for t in range(10):
        changed = target.clone()
        changed[0, t] = 4 + (changed[0, t] - 4 + 1) % 40
        after, _ = model.decoder(changed, encoder_out)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.equal(before[:, t], after[:, t])


# Two layers with kernels of 3 see only five positions.
@pytest.mark.parametrize("options", [options for options in VARIANTS if options.get("mixing_kernel") != 3], ids=str)
def test_the_gradient_to_later_target_tokens_is_exactly_zero(options):
    model = make_model(**options)
    encoder_out = model.encoder(make_sentences(1)[0][None])
    embedded = []
    model.decoder.embed_tokens.register_forward_hook(lambda m, i, out: embedded.append(out.requires_grad_()))
    for i in range(10):
        embedded.clear()
        logits, _ = model.decoder(torch.randint(4, 44, (1, 10)), encoder_out)
        (gradient,) = torch.autograd.grad(logits[0, i].sum(), embedded[0], retain_graph=True)
        assert (gradient[0, i + 1 :] == 0).all()
        seen = (gradient[0, : i + 1] != 0).any(dim=-1)
        assert seen[-1] if options.get("token_mixing") == "none" else seen.all()


def test_the_upper_triangle_of_a_decoder_stays_zero_in_training():
    model = make_model(randomize=False).train()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1, weight_decay=0.01)
    sample = make_batch(make_sentences(8), make_sentences(8, seed=1))
    for _ in range(3):
        optimizer.zero_grad()
        logits, _ = model(**sample["net_input"])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten()).backward()
        for layer in model.decoder.layers:
            assert (layer.mixing.A.grad.triu(1) == 0).all()
        optimizer.step()
    for layer in model.decoder.layers:
        assert (layer.mixing.A.triu(1) == 0).all()
        assert (layer.mixing.A.tril() != 0).any()
    assert (model.encoder.layers[0].mixing.A.triu(1) != 0).any()


def test_loading_zeroes_the_upper_triangle_of_a_decoder():
    model = make_model()
    state = model.state_dict()
    state["decoder.layers.0.mixing.A"] = torch.ones(24, 24)
    model.load_state_dict(state)
    assert torch.equal(model.decoder.layers[0].mixing.A.detach(), torch.ones(24, 24).tril())


# Batch invariance: the result for a sentence does not depend on the rest of the batch.


def scores(model, sample, row, target):
    """Return the log-probabilities at every position of a target, T x V."""
    logits, _ = model(**sample["net_input"])
    return torch.log_softmax(logits[row, : len(target)], dim=-1)


@pytest.mark.parametrize("left_pad_source", [True, False])
@pytest.mark.parametrize("pad_to", [None, 20])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_scores_do_not_depend_on_the_batch_or_padding(options, left_pad_source, pad_to):
    model = make_model(**options)
    sources, targets = make_sentences(6), make_sentences(6, seed=1)
    length = {"source": pad_to, "target": pad_to} if pad_to else None
    together = make_batch(sources, targets, left_pad_source, length)
    # The collater sorts by length; `id` maps rows to sentences.
    for row, index in enumerate(together["id"].tolist()):
        alone = make_batch([sources[index]], [targets[index]])
        torch.testing.assert_close(
            scores(model, together, row, targets[index]),
            scores(model, alone, 0, targets[index]),
            atol=1e-5,
            rtol=0,
        )


@VARIANTS_AND_BEAM
def test_translations_do_not_depend_on_batch_size_or_padding_side(options, beam):
    model = make_model(**options)
    sources = make_sentences(9)
    together = generate(model, sources, beam=beam)
    right = generate(model, sources, left_pad_source=False, beam=beam)
    for index, source in enumerate(sources):
        alone = generate(model, [source], beam=beam)[0]
        for got in (together[index], right[index]):
            assert [h["tokens"].tolist() for h in got] == [h["tokens"].tolist() for h in alone]
            for one, other in zip(got, alone, strict=True):
                torch.testing.assert_close(one["positional_scores"], other["positional_scores"], atol=1e-5, rtol=0)


# Incremental decoding.


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_incremental_decoding_equals_the_full_forward(options):
    model = make_model(**options)
    sample = make_batch(make_sentences(5), make_sentences(5, seed=1))
    tokens = sample["net_input"]["prev_output_tokens"]
    encoder_out = model.encoder(sample["net_input"]["src_tokens"])
    full, extra = model.decoder(tokens, encoder_out)
    state = {}
    for t in range(tokens.size(1)):
        step, step_extra = model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
        torch.testing.assert_close(step[:, 0], full[:, t], atol=1e-5, rtol=0)
        torch.testing.assert_close(step_extra["attn"][0][:, 0], extra["attn"][0][:, t], atol=1e-5, rtol=0)


def test_beam_search_scores_equal_teacher_forcing():
    model = make_model()
    sources = make_sentences(6)
    for index, hypotheses in generate(model, sources).items():
        for hypothesis in hypotheses:
            sample = make_batch([sources[index]], [hypothesis["tokens"]])
            forced = scores(model, sample, 0, hypothesis["tokens"])
            torch.testing.assert_close(
                hypothesis["positional_scores"],
                forced.gather(-1, hypothesis["tokens"][:, None])[:, 0],
                atol=1e-5,
                rtol=0,
            )


# Lengths and N.


def test_sentences_longer_than_n_are_rejected():
    model = make_model(encoder_max_positions=10, decoder_max_positions=8)
    assert model.max_positions() == (10, 8)
    encoder_out = model.encoder(torch.full((1, 10), 5))
    model.decoder(torch.full((1, 8), 5), encoder_out)
    with pytest.raises(InputError, match=r"source sentence of 11 .* N = 10.*--encoder-max-positions 11"):
        model.encoder(torch.full((1, 11), 5))
    with pytest.raises(InputError, match=r"target sentence of 9 .* N = 8.*--decoder-max-positions 9"):
        model.decoder(torch.full((1, 9), 5), encoder_out)


def test_generation_stops_within_n_and_is_rejected_beyond_it():
    model = make_model(encoder_max_positions=20, decoder_max_positions=8)
    source = [torch.tensor([5] * 15 + [2])]
    hypothesis = generate(model, source)[0][0]
    assert len(hypothesis["tokens"]) <= 8
    # --match-source-len: no hypothesis may end before the length of the source.
    search = LengthConstrainedBeamSearch(make_task().target_dictionary, 1, 0, 1, 0)
    with pytest.raises(InputError, match="--decoder-max-positions"):
        generate(model, source, match_source_len=True, search_strategy=search)


@pytest.mark.parametrize(
    "options", [{}, {"token_mixing": "mlp"}, {"mixing_heads": 4}, {"normalization": "layer"}], ids=str
)
def test_untrained_positions_do_not_affect_trained_ones(options):
    """Rows and columns of A that training never reached keep their initial values, which contribute nothing."""
    model = make_model(randomize=False, **options).train()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    sample = make_batch(make_sentences(16, longest=9), make_sentences(16, longest=9, seed=1))
    for _ in range(5):
        optimizer.zero_grad()
        logits, _ = model(**sample["net_input"])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten()).backward()
        optimizer.step()
    model.eval()
    trained = sample["net_input"]["src_tokens"].size(1)
    short = torch.randint(4, 44, (1, trained))
    long = torch.cat([short, torch.randint(4, 44, (1, trained))], dim=1)
    first_half = model.encoder(long)["encoder_out"][0][:trained]
    torch.testing.assert_close(first_half, model.encoder(short)["encoder_out"][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_checkpoint_with_a_larger_n_is_cropped(options):
    large, small = (
        make_model(**options),
        make_model(seed=2, encoder_max_positions=10, decoder_max_positions=8, **options),
    )
    small.load_state_dict(large.state_dict())
    sample = make_batch(make_sentences(4, longest=6), make_sentences(4, longest=6, seed=1))
    torch.testing.assert_close(small(**sample["net_input"])[0], large(**sample["net_input"])[0])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_checkpoint_with_a_smaller_n_is_padded(options):
    small = make_model(encoder_max_positions=14, decoder_max_positions=14, **options)
    large = make_model(seed=2, **options)
    large.load_state_dict(small.state_dict())
    sample = make_batch(make_sentences(4, longest=6), make_sentences(4, longest=6, seed=1))
    torch.testing.assert_close(small(**sample["net_input"])[0], large(**sample["net_input"])[0])


@pytest.mark.parametrize("options", [{}, {"token_mixing": "mlp"}, {"mixing_heads": 4}], ids=str)
def test_padding_of_a_smaller_n_has_no_effect(options):
    small = make_model(encoder_max_positions=14, decoder_max_positions=14, **options)
    large = make_model(seed=2, **options)
    large.load_state_dict(small.state_dict())
    short = torch.randint(4, 44, (1, 14))
    long = torch.cat([short, torch.randint(4, 44, (1, 10))], dim=1)
    longer = large.encoder(long)["encoder_out"][0][:14]
    torch.testing.assert_close(longer, small.encoder(short)["encoder_out"][0], atol=1e-5, rtol=0)


# Attention maps.


@pytest.mark.parametrize("left_pad_source", [True, False])
def test_attention_maps_refer_to_the_source_tokens_as_given(left_pad_source):
    model = make_model()
    sources, targets = make_sentences(5), make_sentences(5, seed=1)
    sample = make_batch(sources, targets, left_pad_source)
    attn = model(**sample["net_input"])[1]["attn"][0]
    padding = sample["net_input"]["src_tokens"].eq(1)
    assert padding.any()
    assert (attn.masked_select(padding[:, None].expand_as(attn)) == 0).all()
    for row, index in enumerate(sample["id"].tolist()):
        alone = model(**make_batch([sources[index]], [targets[index]])["net_input"])[1]["attn"][0]
        columns = (~padding[row]).nonzero()[:, 0]
        torch.testing.assert_close(attn[row, : len(targets[index]), columns], alone[0], atol=1e-5, rtol=0)


# TorchScript.


@VARIANTS_AND_BEAM
def test_torchscript_gives_the_same_logits_and_translations(options, beam):
    model = make_model(**options)
    sample = make_batch(make_sentences(5), make_sentences(5, seed=1))
    net_input = sample["net_input"]
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(**net_input)[0], model(**net_input)[0])

    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=beam, max_len_b=10)
    got = torch.jit.script(generator).forward({"net_input": net_input})
    for one, other in zip(got, generator.forward({"net_input": net_input}), strict=True):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]


def test_torchscript_rejects_sentences_longer_than_n():
    scripted = torch.jit.script(make_model(encoder_max_positions=10))
    with pytest.raises(Exception, match="N = 10"):
        scripted.encoder(torch.full((1, 11), 5))


# Dropout. With p = 1 nothing passes, so the remaining output shows where it is applied.


def test_dropout_is_applied_to_embeddings_and_at_the_end_of_every_branch():
    model = make_model(dropout=1.0).train()
    encoder_out = model.encoder(make_sentences(1)[0][None])
    assert torch.equal(encoder_out["encoder_out"][0], model.encoder.final.beta.expand_as(encoder_out["encoder_out"][0]))
    features, _ = model.decoder(torch.randint(4, 44, (1, 5)), encoder_out, features_only=True)
    assert torch.equal(features, model.decoder.final.beta.expand_as(features))


def test_activation_dropout_is_applied_after_the_gelu():
    ffn = make_model(activation_dropout=1.0).train().encoder.layers[0].ffn
    x = torch.randn(3, 16)
    assert torch.equal(ffn(x), ffn.C.bias.expand(3, 16))
    assert not torch.equal(ffn.eval()(x), ffn.C.bias.expand(3, 16))


# Parameters.


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_gets_a_gradient(options):
    """Distributed training waits for the gradient of each parameter."""
    model = make_model(**options)
    logits, _ = model(**make_batch(make_sentences(3), make_sentences(3))["net_input"])
    logits.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_a_bias_b_stays_at_zero():
    model = make_model(randomize=False, no_mixing_bias=True).train()
    logits, _ = model(**make_batch(make_sentences(3), make_sentences(3))["net_input"])
    logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    mixing = model.encoder.layers[0].mixing
    assert mixing.A.any() and not mixing.b.any()
