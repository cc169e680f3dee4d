"""The fused criterion: it computes fairseq's label_smoothed_cross_entropy without storing all logits."""

import argparse
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from fairseq.distributed import ModuleProxyWrapper
from fairseq.models import fconv
from fairseq.models.transformer import TransformerModel, tiny_architecture
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.criterions import fused_cross_entropy
from fairseq_resmlp.criterions.fused_cross_entropy import FusedLabelSmoothedCrossEntropyCriterion, SmoothedCrossEntropy
from support.commands import run, train_options
from support.models import make_batch, make_model, make_sentences, make_task

V = len(make_task().target_dictionary)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Split the tiny batches into several blocks and chunks, of which the last ones are not full."""
    monkeypatch.setattr(fused_cross_entropy, "ROWS", 10)
    monkeypatch.setattr(fused_cross_entropy, "ENTRIES", 13)
    assert V % 13


def make_transformer(tied):
    cfg = argparse.Namespace(share_decoder_input_output_embed=tied, dropout=0.0)
    tiny_architecture(cfg)
    torch.manual_seed(2)
    return TransformerModel.build_model(cfg, make_task()).eval()


def models():
    """Return models with a tied output layer and with an output layer of its own."""
    return {
        "resmlp": make_model(),
        "resmlp, tied": make_model(share_all_embeddings=True),
        "transformer": make_transformer(tied=False),
        "transformer, tied": make_transformer(tied=True),
    }


def batch(seed=0):
    return make_batch(make_sentences(7, seed=seed), make_sentences(7, seed=seed + 1))


def both(epsilon=0.1, **options):
    """Return fairseq's criterion and the fused one."""
    options = {"sentence_avg": False, "label_smoothing": epsilon, **options}
    reference = LabelSmoothedCrossEntropyCriterion(make_task(), **options)
    return reference, FusedLabelSmoothedCrossEntropyCriterion(make_task(), **options)


def gradients(model, *losses):
    """Return the gradients of all parameters after a backward pass through each loss."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        value = torch.as_tensor(value, dtype=torch.float64)
        difference = (torch.as_tensor(got[name], dtype=torch.float64) - value).abs().max()
        # The gradient of the bias of attention keys is zero except for rounding.
        assert difference <= tolerance * max(value.abs().max(), 0.1), name


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", ["resmlp", "resmlp, tied", "transformer", "transformer, tied"])
def test_loss_logs_and_all_gradients_are_those_of_fairseq(name, epsilon):
    model, sample = models()[name], batch()
    assert sample["target"].eq(1).any()  # padding
    for options in ({}, {"sentence_avg": True}, {"ignore_prefix_size": 2}, {"report_accuracy": True}):
        outputs = [c(model, sample) for c in both(epsilon, **options)]
        (expected, size, expected_logs), (loss, fused_size, logs) = outputs
        assert fused_size == size
        assert_same({"loss": loss, **logs}, {"loss": expected, **expected_logs})
        assert [type(logs[key]) for key in logs] == [type(expected_logs[key]) for key in expected_logs]
        assert_same(gradients(model, loss), gradients(model, expected))


def test_a_loss_that_is_not_summed_is_that_of_fairseq():
    model, sample = make_model(), batch()
    reference, fused = both()
    torch.testing.assert_close(fused(model, sample, reduce=False)[0], reference(model, sample, reduce=False)[0])


@pytest.mark.parametrize("rows, entries", [(1, 1), (1000, 1000), (10, V), (7, V - 1)])
def test_the_size_of_blocks_and_chunks_changes_nothing(rows, entries, monkeypatch):
    model, sample = make_model(), batch()
    reference, fused = both()
    monkeypatch.setattr(fused_cross_entropy, "ROWS", rows)
    monkeypatch.setattr(fused_cross_entropy, "ENTRIES", entries)
    assert_same(gradients(model, fused(model, sample)[0]), gradients(model, reference(model, sample)[0]))


def test_in_double_precision_loss_and_gradients_match_the_formula():
    torch.manual_seed(0)
    features, weight = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (23, 17))
    target = torch.randint(17, (23,))
    expected = label_smoothed_nll_loss((features @ weight.t()).log_softmax(1), target, 0.1)
    found = SmoothedCrossEntropy.apply(features, weight, target, 0.1, True)
    for got, want in zip(found[:2], expected, strict=True):
        torch.testing.assert_close(got, want.sum(), atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(loss.sum(), (features, weight)) for loss in (found[0], expected[0])]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def test_frozen_features_or_weights_get_no_gradient_and_do_not_change_the_other():
    torch.manual_seed(0)
    values, target = (torch.randn(12, 3), torch.randn(17, 3)), torch.randint(17, (12,))
    grads = {}
    for required in ((True, True), (True, False), (False, True)):
        inputs = [value.clone().requires_grad_(needed) for value, needed in zip(values, required, strict=True)]
        SmoothedCrossEntropy.apply(*inputs, target, 0.1, True)[0].backward()
        grads[required] = [leaf.grad for leaf in inputs]
    assert grads[True, False][1] is None and grads[False, True][0] is None
    assert torch.equal(grads[True, False][0], grads[True, True][0])
    assert torch.equal(grads[False, True][1], grads[True, True][1])


def test_gradients_of_two_batches_accumulate():
    model, (_, fused) = make_model(share_all_embeddings=True), both()
    one, two = (gradients(model, fused(model, batch(seed))[0]) for seed in (0, 5))
    together = gradients(model, *[fused(model, batch(seed))[0] for seed in (0, 5)])
    assert_same(together, {name: one[name] + two[name] for name in one})


def test_a_second_backward_pass_is_rejected():
    features, weight = torch.randn(12, 3, requires_grad=True), torch.randn(17, 3)
    loss = SmoothedCrossEntropy.apply(features, weight, torch.randint(17, (12,)), 0.1, True)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_batch_of_only_padding_has_no_loss_and_no_gradient():
    model, sample = make_model(), batch()
    sample["target"].fill_(1)
    loss, _, logs = both(report_accuracy=True)[1](model, sample)
    assert loss == 0 and logs["total"] == 0
    assert all(not grad.any() for grad in gradients(model, loss).values())


def test_equal_logits_do_not_count_as_correct():
    model, sample = make_model(randomize=False), batch()
    torch.nn.init.zeros_(model.decoder.output_projection.weight)
    _, _, logs = both(report_accuracy=True)[1](model, sample)
    assert logs["n_correct"] == 0  # the prediction is the first entry of the dictionary


class SizeRecorder(TorchDispatchMode):
    """Record the number of operations and the largest number of elements of a tensor that one of them creates."""

    largest, operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_no_tensor_is_as_large_as_the_logits():
    torch.manual_seed(0)
    features, weight = torch.randn(300, 3, requires_grad=True), torch.randn(170, 3, requires_grad=True)
    target, kept = torch.randint(170, (300,)), []
    with SizeRecorder() as sizes, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = SmoothedCrossEntropy.apply(features, weight, target, 0.1, True)[0]
        loss.backward()
    assert sorted(tensor.numel() for tensor in kept) == [170 * 3, 300 * 3]  # the two gradients
    assert sizes.largest == 300 * 3


def test_validation_computes_no_gradients_and_the_same_loss():
    features, weight = torch.randn(40, 3, requires_grad=True), torch.randn(V, 3, requires_grad=True)
    arguments = features, weight, torch.randint(V, (40,)), 0.1
    with SizeRecorder() as training:
        expected = SmoothedCrossEntropy.apply(*arguments, True)
    with torch.no_grad(), SizeRecorder() as validation:
        found = SmoothedCrossEntropy.apply(*arguments, False)
    assert validation.operations < 0.8 * training.operations
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    model, sample = make_model(), batch()
    with torch.no_grad():
        losses = [c(model, sample)[0] for c in both()]
    torch.testing.assert_close(*losses)
    assert not losses[1].requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_is_close_to_float32_and_its_loss_is_float32(dtype, tolerance):
    torch.manual_seed(0)
    values, target = (torch.randn(40, 16), torch.randn(V, 16)), torch.randint(V, (40,))
    values = [value.to(dtype) for value in values]
    found = {}
    for kind in (torch.float32, dtype):
        features, weight = (value.to(kind).requires_grad_() for value in values)
        loss = SmoothedCrossEntropy.apply(features, weight, target, 0.1, True)[0]
        loss.backward()
        assert loss.dtype == torch.float32
        assert features.grad.dtype == weight.grad.dtype == kind
        found[kind] = {"loss": loss, "features": features.grad, "weight": weight.grad}
    assert_same(found[dtype], found[torch.float32], tolerance)


def test_loss_scaling_preserves_gradients_too_small_for_float16():
    torch.manual_seed(0)
    values = (torch.randn(40, 16) * 2**-18).half(), torch.randn(V, 16).half()  # small features: small gradients
    target, grads = torch.randint(V, (40,)), []
    for dtype in (torch.float32, torch.float16):
        features, weight = (value.to(dtype).requires_grad_() for value in values)
        (SmoothedCrossEntropy.apply(features, weight, target, 0.1, True)[0] * 2**10).backward()
        grads.append(weight.grad.float())
    expected, scaled = grads
    unscaled = (expected * 2**-10).half().float() * 2**10
    assert (scaled - expected).abs().max() < 0.001 * expected.abs().max() < (unscaled - expected).abs().max()


@pytest.mark.parametrize("scale", [2.0**10, 0.3])
def test_the_gradient_scales_with_the_loss(scale):
    model, (_, fused) = make_model(), both()
    one, scaled = (gradients(model, fused(model, batch())[0] * factor) for factor in (1.0, scale))
    assert_same(scaled, {name: grad * scale for name, grad in one.items()})


def test_a_bfloat16_model_and_autocast_are_close_to_float32():
    sample, (_, fused) = batch(), both()
    expected = fused(make_model(), sample)[0]
    loss = fused(make_model().bfloat16(), sample)[0]
    assert abs(loss - expected) < 0.01 * expected
    model = make_model(share_all_embeddings=True)
    exact = gradients(model, fused(model, sample)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused(model, sample)[0]
    found = gradients(model, loss)
    assert found["encoder.embed_tokens.weight"].dtype == torch.float32
    assert_same(found, exact, 0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_distributed_data_parallel_includes_the_weight_used_outside_its_forward(tied, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # torch replaces it and does not restore it
    model, sample, (_, fused) = make_model(share_all_embeddings=tied), batch(), both()
    expected = gradients(model, fused(model, sample)[0])
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(model))
        for _ in range(2):  # DDP reports in the second pass what was missing in the first
            assert_same(gradients(model, fused(wrapped, sample)[0]), expected)
        parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        with pytest.raises(InputError, match="omit the option, or use --criterion label_smoothed_cross_entropy$"):
            fused(ModuleProxyWrapper(parallel), sample)
    finally:
        torch.distributed.destroy_process_group()


def test_an_unsupported_model_is_rejected_with_another_criterion():
    model = make_model()
    model.decoder.output_projection = torch.nn.Linear(16, V)  # with a bias
    cfg = argparse.Namespace(max_source_positions=24, max_target_positions=24)
    fconv.base_architecture(cfg)
    cfg.encoder_layers = cfg.decoder_layers = "[(16, 3)]"
    for unsupported in (model, fconv.FConvModel.build_model(cfg, make_task())):
        with pytest.raises(InputError, match="does not support .* Use --criterion label_smoothed_cross_entropy$"):
            both()[1](unsupported, batch())


def with_fused(options):
    return ["fused_label_smoothed_cross_entropy" if o == "label_smoothed_cross_entropy" else o for o in options]


def valid_losses(done):
    return [float(loss) for loss in re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", done.stdout + done.stderr)]


def test_training_validation_and_resuming_match_fairseqs_criterion(toy, tmp_path):
    losses = []
    for name, change in (("reference", list), ("fused", with_fused)):
        options = change(train_options(toy / "data-bin", tmp_path / name))
        command = ["fairseq-train", *options, "--update-freq", "2", "--report-accuracy"]
        first = run(*command, "--max-epoch", "1")
        second = run(*command, "--max-epoch", "2")
        assert "accuracy" in first.stdout + first.stderr
        assert "Loaded checkpoint" in second.stdout + second.stderr
        losses.append(valid_losses(first) + valid_losses(second))
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=0.01)


def test_training_can_select_the_best_checkpoint_by_bleu(toy, tmp_path):
    options = with_fused(train_options(toy / "data-bin", tmp_path))
    bleu = ("--eval-bleu", "--eval-bleu-args", '{"beam": 2}', "--best-checkpoint-metric", "bleu")
    done = run("fairseq-train", *options, "--max-epoch", "1", *bleu, "--maximize-best-checkpoint-metric")
    assert re.search(r"valid on 'valid' subset .* bleu [\d.]+", done.stdout + done.stderr)


def test_a_diverging_training_ends_with_advice(toy, tmp_path):
    options = with_fused(train_options(toy / "data-bin", tmp_path))
    done = run("fairseq-train", *options, "--lr", "0.7", "--warmup-updates", "1", "--max-epoch", "4", check=False)
    assert done.returncode == 1
    assert "raise --warmup-updates (now 1) or lower --lr (now 0.7)" in done.stderr.splitlines()[-1]


def test_the_loss_of_a_dummy_batch_can_be_ignored():
    """fairseq multiplies the loss by zero in place on a process that has no batch left."""
    model, task = make_model(share_all_embeddings=True), make_task()
    criterion = FusedLabelSmoothedCrossEntropyCriterion(task, False, 0.1)
    optimizer = SimpleNamespace(backward=torch.Tensor.backward)
    sample = make_batch(make_sentences(4), make_sentences(4, seed=1))
    task.train_step(sample, model, criterion, optimizer, update_num=0, ignore_grad=True)
    assert all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.slow
def test_two_processes_train_as_one(toy, tmp_path):
    options = with_fused(train_options(toy / "data-bin", tmp_path / "one"))
    # Without tied embeddings, the weight of the output layer is used only outside of the wrapped forward.
    options.remove("--share-all-embeddings")
    batches = ("--batch-size", "8", "--max-update", "4", "--disable-validation", "--no-epoch-checkpoints")
    run("fairseq-train", *options, *batches, "--update-freq", "2")
    options[options.index(tmp_path / "one")] = tmp_path / "two"
    two = ("--distributed-world-size", "2", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp")
    port = 20000 + os.getpid() % 20000
    command = ["fairseq-train", *map(str, options), *batches, *two, "--distributed-no-spawn"]
    command += ["--distributed-init-method", f"tcp://localhost:{port}", "--distributed-rank"]
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    ranks = [
        subprocess.Popen([*command, str(rank)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=300)
        assert rank.returncode == 0, output[-3000:]
    one, both_ranks = (torch.load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(both_ranks[name], value, atol=1e-4, rtol=1e-3)
