"""Claims about the model: its equations, causality, invariance, incremental decoding, initial values."""

import math

import numpy as np
import pytest
import torch
from conftest import make_batch, make_model, make_sentences, make_task
from fairseq.search import LengthConstrainedBeamSearch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_resmlp.errors import InputError
from fairseq_resmlp.model import ARCHITECTURES, ResMLPConfig, ResMLPModel
from fairseq_resmlp.resmlp import Aff, LinearMixing
from fairseq_resmlp.variants import TOKEN_MIXING

# What every claim about masks, batches and caches is tried on.
VARIANTS = [
    {},
    *({"token_mixing": name} for name in TOKEN_MIXING if name != "linear"),
    {"token_mixing": "conv", "mixing_kernel": 3},
    {"mixing_heads": 4},
    {"token_mixing": "toeplitz", "mixing_heads": 16},
    {"token_mixing": "toeplitz_linear", "mixing_heads": 4, "no_mixing_bias": True},
    {"no_mixing_bias": True, "activation_fn": "relu", "mixing_init_std": 0.1},
    {"normalization": "layer", "positional_embeddings": "learned"},
    {"positional_embeddings": "sinusoidal"},
]

# The paper's formulas as explicit loops in float64.


def numpy_of(module):
    return {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}


def loop_aff(x, p, name):
    y = np.empty_like(x)
    for t, b, c in np.ndindex(x.shape):
        y[t, b, c] = p[f"{name}.alpha"][c] * x[t, b, c] + p[f"{name}.beta"][c]
    return y


def loop_mixing(x, A, b, lengths, causal):
    """y_i = sum_j A_ij x_j + b_i over the unpadded positions j (and j <= i if causal)."""
    y = np.empty_like(x)
    for i, s, c in np.ndindex(x.shape):
        y[i, s, c] = b[i]
        for j in range(i + 1 if causal else x.shape[0]):
            if j < lengths[s]:
                y[i, s, c] += A[i, j] * x[j, s, c]
    return y


def loop_ffn(x, p):
    y = np.zeros_like(x)
    for t, b in np.ndindex(x.shape[:2]):
        hidden = p["ffn.B.weight"] @ x[t, b] + p["ffn.B.bias"]
        gelu = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        y[t, b] = p["ffn.C.weight"] @ gelu + p["ffn.C.bias"]
    return y


def loop_attention(x, memory, lengths, p, heads):
    T, B, d = x.shape
    y = np.zeros_like(x)
    size = d // heads
    for t, b in np.ndindex(T, B):
        q = p["attention.q_proj.weight"] @ x[t, b] + p["attention.q_proj.bias"]
        context = np.zeros(d)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            keys = [p["attention.k_proj.weight"] @ m + p["attention.k_proj.bias"] for m in memory[: lengths[b], b]]
            values = [p["attention.v_proj.weight"] @ m + p["attention.v_proj.bias"] for m in memory[: lengths[b], b]]
            scores = np.array([q[part] @ k[part] / math.sqrt(size) for k in keys])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            context[part] = sum(w * v[part] for w, v in zip(weights, values))
        y[t, b] = p["attention.out_proj.weight"] @ context + p["attention.out_proj.bias"]
    return y


LENGTHS = [7, 3, 5]


def keep_mask(lengths, T):
    return (torch.arange(T)[:, None] < torch.tensor(lengths)).unsqueeze(-1)


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["linear", "toeplitz", "toeplitz_linear"])
def test_each_head_mixes_its_channels_by_a_matrix_of_its_own(name, causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING[name](6, 9, causal, ResMLPConfig(mixing_heads=3)).double()
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.normal_()
    x, keep = torch.randn(7, 3, 6, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got, A = mixing(x, keep).detach().numpy(), mixing.matrix(9).detach().numpy()
    for h in range(3):
        channels = slice(2 * h, 2 * h + 2)
        expected = loop_mixing(x.numpy()[..., channels], A[h], mixing.b.detach().numpy(), LENGTHS, causal)
        np.testing.assert_allclose(got[..., channels], expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_toeplitz_matrix_has_one_weight_an_offset(causal):
    mixing = TOKEN_MIXING["toeplitz"](4, 9, causal, ResMLPConfig())
    with torch.no_grad():
        mixing.a.normal_()
    A = mixing.matrix(6)[0]
    for i, j in np.ndindex(6, 6):
        offset = i - j
        assert A[i, j] == (0 if causal and offset < 0 else mixing.a[0, offset + (0 if causal else 8)])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_a_linear_layer_learned_by_offsets_and_entries_is_one_of_the_papers(causal, heads):
    torch.manual_seed(0)
    learned, papers = (
        TOKEN_MIXING[name](4, 9, causal, ResMLPConfig(mixing_heads=heads)) for name in ("toeplitz_linear", "linear")
    )
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.normal_()
        offsets = TOKEN_MIXING["toeplitz"](4, 9, causal, ResMLPConfig(mixing_heads=heads))
        offsets.a.copy_(learned.a)
        papers.A.copy_((offsets.matrix(9) + learned.A / 8).view_as(papers.A))
        papers.b.copy_(learned.b)
    x, keep = torch.randn(7, 3, 4), keep_mask(LENGTHS, 7)
    torch.testing.assert_close(learned(x, keep), papers(x, keep))


@pytest.mark.parametrize("causal", [False, True])
def test_a_convolution_weighs_the_neighbours_of_each_channel(causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING["conv"](4, 9, causal, ResMLPConfig(mixing_kernel=3)).double()
    with torch.no_grad():
        mixing.weight.normal_()
    x, keep = torch.randn(7, 3, 4, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got = mixing(x, keep).detach().numpy()
    for t, s, c in np.ndindex(*x.shape):
        places = [t + k - (2 if causal else 1) for k in range(3)]
        weighed = [mixing.weight[c, 0, k] * x[j, s, c] for k, j in enumerate(places) if 0 <= j < LENGTHS[s]]
        assert got[t, s, c] == pytest.approx(float(sum(weighed)), abs=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_an_mlp_over_time_is_two_layers_whose_units_have_positions(causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING["mlp"](4, 9, causal, ResMLPConfig()).double()
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.normal_()
    x, keep = torch.randn(7, 3, 4, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got, p = mixing(x, keep).detach().numpy(), numpy_of(mixing)
    for t, s, c in np.ndindex(*x.shape):
        y = p["b"][t]
        for unit in range(4 * LENGTHS[s]):
            seen = [j for j in range(LENGTHS[s]) if not causal or j <= unit // 4]
            z = p["b1"][unit] + sum(p["A1"][unit, j] * x.numpy()[j, s, c] for j in seen)
            if not causal or unit // 4 <= t:
                y += p["A2"][t, unit] * z * 0.5 * (1 + math.erf(z / math.sqrt(2)))
        if t < LENGTHS[s]:
            assert got[t, s, c] == pytest.approx(y, abs=1e-9)


def test_encoder_layer_is_equations_2_and_3():
    layer = make_model().encoder.layers[0].double()
    p = numpy_of(layer)
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
    p = numpy_of(layer)
    x, memory = torch.randn(6, 3, 16, dtype=torch.float64), torch.randn(7, 3, 16, dtype=torch.float64)
    padding = ~keep_mask(LENGTHS, 7).squeeze(-1).t()
    got = layer(x, memory, padding, None, None, False)[0].detach().numpy()
    x = x.numpy()
    mixed = loop_mixing(loop_aff(x, p, "mixing_pre"), p["mixing.A"], p["mixing.b"], [6, 6, 6], causal=True)
    z = x + loop_aff(mixed, p, "mixing_post")
    attended = loop_attention(loop_aff(z, p, "attention_pre"), memory.numpy(), LENGTHS, p, heads=2)
    z = z + loop_aff(attended, p, "attention_post")
    y = z + loop_aff(loop_ffn(loop_aff(z, p, "ffn_pre"), p), p, "ffn_post")
    np.testing.assert_allclose(got, y, atol=1e-6)  # fairseq's attention takes its softmax in float32


# Initial values.


def test_initial_values_are_the_papers():
    model = make_model(randomise=False)
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
def test_untrained_loss_is_at_most_a_tenth_above_log_v(arch, tied):
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
    model = make_model(randomise=False).train()
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


# A sentence does not depend on what stands beside it.


def scores(model, sample, row, target):
    logits, _ = model(**sample["net_input"])
    return torch.log_softmax(logits[row, : len(target)], dim=-1)


@pytest.mark.parametrize("left_pad_source", [True, False])
@pytest.mark.parametrize("pad_to", [None, 20])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_scores_do_not_depend_on_batch_mates_or_padding(options, left_pad_source, pad_to):
    model = make_model(**options)
    sources, targets = make_sentences(6), make_sentences(6, seed=1)
    length = {"source": pad_to, "target": pad_to} if pad_to else None
    together = make_batch(sources, targets, left_pad_source, length)
    # The collater sorts by length; `id` says which sentence stands where.
    for row, index in enumerate(together["id"].tolist()):
        alone = make_batch([sources[index]], [targets[index]])
        torch.testing.assert_close(
            scores(model, together, row, targets[index]),
            scores(model, alone, 0, targets[index]),
            atol=1e-5,
            rtol=0,
        )


def generate(model, sources, left_pad_source=True, beam=4, model_class=SequenceGenerator, **options):
    """{index: hypotheses} of fairseq's beam search over one batch."""
    generator = model_class([model], make_task().target_dictionary, beam_size=beam, max_len_b=15, **options)
    sample = make_batch(sources, sources, left_pad_source)
    return dict(zip(sample["id"].tolist(), generator.generate([model], sample)))


# Without mixing, hypotheses with the same pairs of neighbours in another order have one score: no beam of several.
VARIANTS_AND_BEAM = pytest.mark.parametrize(
    "options, beam", [(options, 1 if options.get("token_mixing") == "none" else 4) for options in VARIANTS], ids=str
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
            for one, other in zip(got, alone):
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


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_reordering_follows_beams_of_different_ancestors_and_a_shrinking_batch(options):
    model = make_model(**options)
    source = make_batch(make_sentences(2), make_sentences(2))["net_input"]["src_tokens"]
    encoder_out = model.encoder.reorder_encoder_out(model.encoder(source), torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens = torch.randint(4, 44, (6, 3))
    state = {}
    for t in range(3):
        model.decoder(tokens[:, : t + 1], encoder_out, incremental_state=state)
    order = torch.tensor([5, 3, 3])  # the first sentence is finished, two beams share an ancestor
    model.decoder.reorder_incremental_state_scripting(state, order)
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
    tokens = torch.cat([tokens[order], torch.randint(4, 44, (3, 1))], dim=1)
    step, _ = model.decoder(tokens, encoder_out, incremental_state=state)
    full, _ = model.decoder(tokens, encoder_out)
    torch.testing.assert_close(step[:, 0], full[:, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_any_new_order_is_followed_wider_ones_too(options):
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


@pytest.mark.parametrize("order", [[3, 4, 5, 0, 1, 2], [0, 3], [5, 0, 1, 3, 3, 3]])
def test_hypotheses_that_change_places_keep_their_sentences(order):
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


def test_hypotheses_that_do_not_stand_together_attend_each_to_its_own_sentence():
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


@VARIANTS_AND_BEAM
def test_folding_the_affs_away_for_translation_changes_nothing(options, beam):
    plain, folded = make_model(**options), make_model(**options)
    for _ in range(2):  # fairseq may ask twice
        folded.make_generation_fast_(need_attn=True)
    left = [name for name, module in folded.named_modules() if isinstance(module, Aff)]
    assert [name for name in left if "mixing" not in name and name != "encoder.final"] == []
    if isinstance(folded.decoder.layers[0].mixing, LinearMixing):
        assert [name for name in left if "decoder" in name and "post" in name] == []
    sample = make_batch(make_sentences(5), make_sentences(5, seed=1))
    torch.testing.assert_close(folded(**sample["net_input"])[0], plain(**sample["net_input"])[0], atol=1e-5, rtol=0)
    got, expected = (generate(model, make_sentences(5), beam=beam) for model in (folded, plain))
    for index in got:
        for hypothesis, other in zip(got[index], expected[index]):
            torch.testing.assert_close(hypothesis["score"], other["score"], atol=1e-5, rtol=0)
            torch.testing.assert_close(hypothesis["attention"], other["attention"], atol=1e-5, rtol=0)


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


# Length.


def test_n_positions_pass_and_one_more_is_refused_by_name():
    model = make_model(encoder_max_positions=10, decoder_max_positions=8)
    assert model.max_positions() == (10, 8)
    encoder_out = model.encoder(torch.full((1, 10), 5))
    model.decoder(torch.full((1, 8), 5), encoder_out)
    with pytest.raises(InputError, match=r"source of 11 .* N = 10.*--encoder-max-positions 11"):
        model.encoder(torch.full((1, 11), 5))
    with pytest.raises(InputError, match=r"target of 9 .* N = 8.*--decoder-max-positions 9"):
        model.decoder(torch.full((1, 9), 5), encoder_out)


def test_generation_past_n_is_refused_and_within_n_stops_by_itself():
    model = make_model(encoder_max_positions=20, decoder_max_positions=8)
    source = [torch.tensor([5] * 15 + [2])]
    hypothesis = generate(model, source)[0][0]
    assert len(hypothesis["tokens"]) <= 8
    # What --match-source-len does: nothing ends before the source's length.
    search = LengthConstrainedBeamSearch(make_task().target_dictionary, 1, 0, 1, 0)
    with pytest.raises(InputError, match="--decoder-max-positions"):
        generate(model, source, match_source_len=True, search_strategy=search)


@pytest.mark.parametrize(
    "options", [{}, {"token_mixing": "mlp"}, {"mixing_heads": 4}, {"normalization": "layer"}], ids=str
)
def test_positions_never_trained_leave_the_first_half_of_a_longer_sentence_alone(options):
    """Rows and columns of A that training never reached are as they were born: they add nothing."""
    model = make_model(randomise=False, **options).train()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    sample = make_batch(make_sentences(16, longest=9), make_sentences(16, longest=9, seed=1))
    for _ in range(5):
        optimizer.zero_grad()
        logits, _ = model(**sample["net_input"])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample["target"].flatten()).backward()
        optimizer.step()
    model.eval()
    visited = sample["net_input"]["src_tokens"].size(1)
    short = torch.randint(4, 44, (1, visited))
    long = torch.cat([short, torch.randint(4, 44, (1, visited))], dim=1)
    first_half = model.encoder(long)["encoder_out"][0][:visited]
    torch.testing.assert_close(first_half, model.encoder(short)["encoder_out"][0], atol=1e-6, rtol=0)


# A checkpoint trained with another N.


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_checkpoint_with_larger_n_is_cut_down(options):
    large, small = (
        make_model(**options),
        make_model(seed=2, encoder_max_positions=10, decoder_max_positions=8, **options),
    )
    small.load_state_dict(large.state_dict())
    sample = make_batch(make_sentences(4, longest=6), make_sentences(4, longest=6, seed=1))
    torch.testing.assert_close(small(**sample["net_input"])[0], large(**sample["net_input"])[0])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_checkpoint_with_smaller_n_is_filled_up(options):
    small = make_model(encoder_max_positions=14, decoder_max_positions=14, **options)
    large = make_model(seed=2, **options)
    large.load_state_dict(small.state_dict())
    sample = make_batch(make_sentences(4, longest=6), make_sentences(4, longest=6, seed=1))
    torch.testing.assert_close(small(**sample["net_input"])[0], large(**sample["net_input"])[0])


@pytest.mark.parametrize("options", [{}, {"token_mixing": "mlp"}, {"mixing_heads": 4}], ids=str)
def test_what_it_is_filled_up_with_is_harmless(options):
    small = make_model(encoder_max_positions=14, decoder_max_positions=14, **options)
    large = make_model(seed=2, **options)
    large.load_state_dict(small.state_dict())
    short = torch.randint(4, 44, (1, 14))
    long = torch.cat([short, torch.randint(4, 44, (1, 10))], dim=1)
    longer = large.encoder(long)["encoder_out"][0][:14]
    torch.testing.assert_close(longer, small.encoder(short)["encoder_out"][0], atol=1e-5, rtol=0)


def test_new_units_of_an_mlp_can_learn_and_old_ones_are_as_they_were():
    small = make_model(encoder_max_positions=14, token_mixing="mlp")
    with torch.no_grad():
        small.encoder.layers[0].mixing.A1[3] = 0.0
    large = make_model(seed=2, token_mixing="mlp")
    large.load_state_dict(small.state_dict())
    A1 = large.encoder.layers[0].mixing.A1.detach()
    assert torch.equal(A1[: 4 * 14, :14], small.encoder.layers[0].mixing.A1)
    assert (A1[4 * 14 :].view(10, 4, 24).diagonal(14, 0, 2) != 0).all()


def test_a_checkpoint_cannot_bring_in_an_upper_triangle():
    model = make_model()
    state = model.state_dict()
    state["decoder.layers.0.mixing.A"] = torch.ones(24, 24)
    model.load_state_dict(state)
    assert torch.equal(model.decoder.layers[0].mixing.A.detach(), torch.ones(24, 24).tril())


# Attention maps.


@pytest.mark.parametrize("left_pad_source", [True, False])
def test_attention_stands_over_the_source_tokens_as_they_were_given(left_pad_source):
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
def test_torchscript_model_and_generator_give_the_same(options, beam):
    model = make_model(**options)
    sample = make_batch(make_sentences(5), make_sentences(5, seed=1))
    net_input = sample["net_input"]
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(**net_input)[0], model(**net_input)[0])

    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=beam, max_len_b=10)
    got = torch.jit.script(generator).forward({"net_input": net_input})
    for one, other in zip(got, generator.forward({"net_input": net_input})):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]


def test_torchscript_refuses_long_input_too():
    scripted = torch.jit.script(make_model(encoder_max_positions=10))
    with pytest.raises(Exception, match="N = 10"):
        scripted.encoder(torch.full((1, 11), 5))


# Dropout: at p = 1 nothing passes, so what is left shows where it stands.


def test_dropout_stands_on_the_embedding_and_at_the_end_of_every_branch():
    model = make_model(dropout=1.0).train()
    encoder_out = model.encoder(make_sentences(1)[0][None])
    assert torch.equal(encoder_out["encoder_out"][0], model.encoder.final.beta.expand_as(encoder_out["encoder_out"][0]))
    features, _ = model.decoder(torch.randint(4, 44, (1, 5)), encoder_out, features_only=True)
    assert torch.equal(features, model.decoder.final.beta.expand_as(features))


def test_attention_dropout_stands_on_the_attention_weights():
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
        layer.attention.dropout_module.apply_during_inference = True  # what --retain-dropout does
    encoder_out, target = model.encoder(make_sentences(1)[0][None]), torch.randint(4, 44, (1, 5))
    states = ({}, {}) if incremental else (None, None)
    one, other = (model.decoder(target, encoder_out, incremental_state=state)[0] for state in states)
    assert not torch.equal(one, other)


def test_activation_dropout_stands_after_the_gelu():
    ffn = make_model(activation_dropout=1.0).train().encoder.layers[0].ffn
    x = torch.randn(3, 16)
    assert torch.equal(ffn(x), ffn.C.bias.expand(3, 16))
    assert not torch.equal(ffn.eval()(x), ffn.C.bias.expand(3, 16))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_gets_a_gradient(options):
    """Distributed training waits for one from each."""
    model = make_model(**options)
    logits, _ = model(**make_batch(make_sentences(3), make_sentences(3))["net_input"])
    logits.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"mixing_heads": 3}, "--encoder-embed-dim 16 is not a multiple of --mixing-heads 3"),
        ({"mixing_kernel": 4, "token_mixing": "conv"}, "--mixing-kernel 4 has no middle"),
        ({"mixing_kernel": 5}, "--mixing-kernel 5 does nothing for --token-mixing linear: pass --mixing-kernel 7"),
        ({"decoder_attention_heads": 0}, "--decoder-attention-heads 0 is less than 1"),
        ({"encoder_embed_dim": 0}, "--encoder-embed-dim 0 is less than 1"),
        ({"encoder_max_positions": -1}, "--encoder-max-positions -1 is less than 1"),
        ({"decoder_layers": -1}, "--decoder-layers -1 is less than 0"),
        ({"dropout": -0.1}, "--dropout -0.1 is less than 0"),
        ({"attention_dropout": 20.0}, "--attention-dropout 20.0 is more than 1"),
        ({"dropout": float("nan")}, "--dropout nan is no number"),
        ({"mixing_heads": 0}, "--mixing-heads 0 is less than 1"),
        ({"mixing_kernel": -1}, "--mixing-kernel -1 is less than 1"),
        ({"mixing_init_std": -0.1}, "--mixing-init-std -0.1 is less than 0"),
        (
            {"mixing_heads": 2, "token_mixing": "conv"},
            "--mixing-heads 2 does nothing for --token-mixing conv: pass --mix",
        ),
        ({"no_mixing_bias": True, "token_mixing": "toeplitz"}, "--no-mixing-bias does nothing for .*: leave it out"),
        ({"mixing_init_std": 0.1, "token_mixing": "mlp"}, "--mixing-init-std 0.1 does nothing for --token-mixing mlp"),
    ],
    ids=str,
)
def test_variants_that_cannot_work_are_refused_by_name(options, said):
    with pytest.raises(InputError, match=said):
        make_model(**options)


def test_an_initial_a_is_random_where_it_is_asked_for_and_still_causal():
    model = make_model(randomise=False, mixing_init_std=0.02)
    assert float(model.encoder.layers[0].mixing.A.std()) == pytest.approx(0.02, rel=0.2)
    A = model.decoder.layers[0].mixing.A
    assert (A.triu(1) == 0).all() and (A.tril() != 0).any()


def test_without_a_bias_b_stays_at_zero():
    model = make_model(randomise=False, no_mixing_bias=True).train()
    logits, _ = model(**make_batch(make_sentences(3), make_sentences(3))["net_input"])
    logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    mixing = model.encoder.layers[0].mixing
    assert mixing.A.any() and not mixing.b.any()


WITHOUT_BIAS = [
    {"no_mixing_bias": True},
    {"token_mixing": "toeplitz"},
    {"token_mixing": "toeplitz_linear", "no_mixing_bias": True},
]


@pytest.mark.parametrize("options", WITHOUT_BIAS, ids=str)
def test_a_b_that_is_not_there_is_not_stored(options):
    """It would be counted as a parameter."""
    model = make_model(**options)
    state = model.state_dict()
    assert not any(name.endswith("mixing.b") for name in state)
    with pytest.raises(InputError, match=r"another model: Unexpected .*mixing\.b"):
        model.load_state_dict({**state, "encoder.layers.0.mixing.b": torch.ones(24)})
    with pytest.raises(InputError, match=r"another model: Missing .*mixing\.b"):
        make_model().load_state_dict(make_model(no_mixing_bias=True).state_dict())


def test_a_model_without_layers_is_loaded():
    state = make_model(encoder_layers=0, decoder_layers=0).state_dict()
    make_model(encoder_layers=0, decoder_layers=0).load_state_dict(state)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_another_n_is_told(options, caplog):
    state = make_model(encoder_max_positions=14, **options).state_dict()
    make_model(**options).load_state_dict(state)
    told = [record.message for record in caplog.records if "this checkpoint's encoder has N = 14" in record.message]
    has_an_n = options.get("token_mixing") not in ("none", "conv") or "positional_embeddings" in options
    assert len(told) == has_an_n and "decoder has N" not in caplog.text


def test_sinusoidal_positions_are_those_of_the_transformer():
    """Half sines, half cosines, of wavelengths up to 10,000 times 2 pi, in the size of the embeddings of tokens."""
    d = 16
    model = make_model(positional_embeddings="sinusoidal", dropout=0.0)
    added = model.encoder.positions(torch.zeros(2, 9, d))
    waves = torch.arange(9.0).unsqueeze(1) * 10_000 ** -(torch.arange(d / 2) / (d / 2 - 1))
    wanted = torch.cat([waves.sin(), waves.cos()], 1) * d**-0.5
    torch.testing.assert_close(added, wanted.expand(2, 9, d))
    torch.testing.assert_close(model.decoder.positions(torch.zeros(1, 1, d), 5)[0, 0], wanted[5])


def test_aff_scales_and_shifts_each_channel():
    aff = Aff(3, 0.2)
    assert torch.equal(aff.alpha.detach(), torch.full((3,), 0.2))
    with torch.no_grad():
        aff.alpha.copy_(torch.tensor([1.0, 2.0, 3.0]))
        aff.beta.copy_(torch.tensor([0.0, 1.0, -1.0]))
    assert aff(torch.ones(2, 3)).tolist() == [[1.0, 3.0, 2.0]] * 2
