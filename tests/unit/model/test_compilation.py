"""Training with --compile: results, names of parameters, evaluation, new batch shapes, missing compiler."""

import copy
import functools
import logging
import shutil

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from fairseq_resmlp.criterions.fused_cross_entropy import FusedLabelSmoothedCrossEntropyCriterion
from support.models import make_batch, make_model, make_sentences, make_task


def begin_training(**options):
    """Return a task and its model, as fairseq-train does at the beginning of an epoch."""
    task = make_task()
    model = make_model(task, encoder_layers=1, decoder_layers=1, **options)
    task.begin_epoch(1, model)
    return task, model.train()


def batches():
    """Return batches of different shapes."""
    sizes = ((5, 12), (3, 7), (8, 10))
    return [make_batch(make_sentences(n, t, seed=n), make_sentences(n, t, seed=t)) for n, t in sizes]


def losses_and_gradients(task, model):
    """Return the losses of `batches` and the sum of their gradients."""
    criterion, results = FusedLabelSmoothedCrossEntropyCriterion(task, False, 0.1), []
    for sample in batches():
        loss, *_ = criterion(model, sample)
        loss.backward()
        results.append(loss.detach())
    return results + [parameter.grad for parameter in model.parameters()]


@pytest.fixture
def counter(monkeypatch):
    """Replace torch's compiler by one that counts graphs and runs them as they are."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter, fullgraph=True))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize("normalization", ["affine", "layer"])
def test_training_is_one_graph_for_all_batch_shapes_with_the_same_results(counter, normalization):
    expected = losses_and_gradients(*begin_training(normalization=normalization))
    assert counter.frame_count == 0  # not compiled by default
    task, model = begin_training(normalization=normalization, compile=True)
    found = losses_and_gradients(task, model)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    task.begin_epoch(2, model)
    losses_and_gradients(task, model)
    assert counter.frame_count == 1


def test_only_training_is_compiled(counter):
    _, model = begin_training(compile=True)
    keys, (inputs, *_) = set(begin_training()[1].state_dict()), (sample["net_input"] for sample in batches())
    with torch.no_grad():
        for untouched in (model.eval(), copy.deepcopy(model).eval()):
            untouched(**inputs)
            untouched.decoder(inputs["prev_output_tokens"], untouched.encoder(inputs["src_tokens"]))
        make_model(compile=True).train()(**inputs)  # a task that does not train, as in the hub
    assert counter.frame_count == 0
    assert set(model.state_dict()) == keys
    model.train()(**inputs)
    assert counter.frame_count == 1


def check_fallback(caplog):
    """Check that training continues as without --compile, and says so in one line."""
    torch._dynamo.reset()
    expected = losses_and_gradients(*begin_training())
    with caplog.at_level(logging.WARNING):
        found = losses_and_gradients(*begin_training(compile=True))
    assert all(map(torch.equal, found, expected))
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("fairseq_resmlp")]
    assert message.startswith("--compile has no effect, because torch.compile failed: ") and "\n" not in message
    return message


@pytest.mark.parametrize("failing", ["both", "backward"])
def test_training_continues_if_compilation_fails(failing, monkeypatch, caplog):
    def fail(graph, inputs):
        raise RuntimeError("no\ncompiler")

    backends = {"both": fail, "backward": aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=fail)}
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backends[failing]))
    check_fallback(caplog)


@pytest.mark.slow
def test_training_continues_without_a_compiler(caplog):
    with torch._inductor.config.patch({"cpp.cxx": ("false",), "force_disable_caches": True}):
        assert "compiler" in check_fallback(caplog)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler found: apt-get install g++")
def test_the_compiled_program_has_the_losses_and_gradients_of_the_model():
    torch._dynamo.reset()
    expected = losses_and_gradients(*begin_training())
    task, model = begin_training(compile=True)
    with torch._inductor.config.patch({"cpp.cxx": ("g++",)}):  # whatever CXX is, as in .ci/run
        found = losses_and_gradients(task, model)
    assert model.forward.compiled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
