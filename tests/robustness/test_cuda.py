"""The GPU path on a pretended CUDA device: devices, waits of the host, precision, and results equal to the CPU's."""

import functools
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.optim.adagrad import Adagrad
from fairseq.sequence_generator import SequenceGenerator
from fairseq.trainer import Trainer

import fairseq_resmlp
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.model.export import to_inference_weights
from fairseq_resmlp.model.registration import ResMLPModel
from fairseq_resmlp.modules.token_mixing import TokenMixing
from fairseq_resmlp.resmlp import Aff
from support.models import make_batch, make_model, make_sentences, make_task
from support.paths import GOLDEN
from support.pretended_cuda import DeviceError, pretended_cuda
from support.training import train
from support.variants import VARIANTS

UPDATES = 7  # of one epoch of `toy`; two batches of validation follow


@contextmanager
def observed_training():
    """Collect the losses by update, the optimizer's state and the loss scale of training runs inside the block."""
    train_step, seen = Trainer.train_step, {"losses": {}, "sums": set()}

    def step(self, samples, *args, **kwargs):
        logged = train_step(self, samples, *args, **kwargs)
        seen["losses"][self.get_num_updates()] = logged["loss"]
        optimizer = getattr(self.optimizer, "fp32_optimizer", self.optimizer).optimizer
        if self.cfg.common.amp:
            seen["scale"] = self.optimizer.scaler._scale  # get_scale would wait for the device
        seen["sums"] |= {state["sum"].dtype for state in optimizer.state.values()}
        return logged

    Trainer.train_step = step
    try:
        yield seen
    finally:
        Trainer.train_step = train_step


@functools.cache
def losses_on_the_cpu(data_bin, *options):
    with tempfile.TemporaryDirectory() as directory, observed_training() as seen:
        train(data_bin, directory, "--max-epoch", "1", *options, no_save=True)
    return seen["losses"]


def train_and_check(toy, directory, *options, tolerance, waits):
    """Train for an epoch on the device, compare with the CPU, and check what no training may do."""
    expected = losses_on_the_cpu(toy / "data-bin", *(o for o in options if o not in ("--amp", "--bf16")))
    with pretended_cuda() as seen, observed_training() as cuda:
        train(toy / "data-bin", directory, "--max-epoch", "1", *options, cpu=False, no_save=True)
    assert len(cuda["losses"]) == UPDATES
    assert cuda["losses"] == pytest.approx(expected, abs=tolerance)
    assert cuda["sums"] == {torch.float32}  # accumulators
    assert not seen.half_sums
    # Parameters move to the device; statistics of an epoch.
    once = {"trainer.py:__init__", "distillation.py:teacher_probabilities", "meters.py:safe_round"}
    assert sum(count for (_, place), count in seen.waits.items() if place not in once) <= waits * (UPDATES + 2)


@pytest.mark.parametrize(
    "options, tolerance, waits",
    [
        ((), 1e-5, 2),  # fairseq's: is the gradient finite, and the values to log
        (("--amp",), 2e-2, 5),  # and three for the loss scale
        (("--bf16",), 2e-2, 2),
        (("--criterion", "fused_label_smoothed_cross_entropy", "--report-accuracy"), 1e-5, 4),  # and one for padding
        (("--criterion", "fused_label_smoothed_cross_entropy", "--amp"), 2e-2, 6),
    ],
    ids=str,
)
def test_training_on_a_gpu_is_that_on_the_cpu(toy, tmp_path, options, tolerance, waits):
    train_and_check(toy, tmp_path, *options, tolerance=tolerance, waits=waits)


def test_a_teacher_on_a_gpu_teaches_as_on_the_cpu(trained, tmp_path):
    teacher = trained / "checkpoints" / "checkpoint_last.pt"
    options = ("--criterion", "label_smoothed_cross_entropy_with_teacher", "--teacher", str(teacher))
    train_and_check(trained, tmp_path, *options, tolerance=1e-5, waits=3)


def change_initial_weights(monkeypatch, change):
    build_model = ResMLPModel.build_model

    def build_changed_model(cls, cfg, task):
        model = build_model(cfg, task)
        with torch.no_grad():
            change(model.decoder.layers[0].ffn)
        return model

    monkeypatch.setattr(ResMLPModel, "build_model", classmethod(build_changed_model))


@pytest.mark.parametrize("scale", ["128", "1e-3"])
def test_amp_makes_every_update_if_activations_exceed_float16(toy, tmp_path, monkeypatch, scale):
    change_initial_weights(monkeypatch, lambda ffn: ffn.B.weight.mul_(1e6))  # as after a spike
    arguments = (toy / "data-bin", tmp_path, "--min-loss-scale", scale)
    with observed_training() as cpu:
        train(*arguments, kill_at=UPDATES + 1, no_save=True)
    with pretended_cuda(), observed_training() as cuda:
        train(*arguments, "--amp", cpu=False, kill_at=UPDATES + 1, no_save=True)
    assert cpu["losses"][1] > 1000  # bits per token
    assert len(cuda["losses"]) == UPDATES
    assert cuda["losses"] == pytest.approx(cpu["losses"], rel=1e-3)
    assert cuda["scale"].cpu().item() >= float(scale)


@pytest.mark.slow
def test_amp_recovers_from_a_spike_as_float32_does(toy, tmp_path):
    arguments = (toy / "data-bin", tmp_path, "--lr", "0.8", "--disable-validation")
    with observed_training() as cpu:
        train(*arguments, kill_at=43, no_save=True)
    with pretended_cuda(), observed_training() as cuda:
        train(*arguments, "--amp", cpu=False, kill_at=43, no_save=True)
    for losses in (cpu["losses"], cuda["losses"]):
        assert len(losses) == 42 and 1e3 < max(losses.values()) > 100 * losses[42]  # bits per token


def test_amp_stops_with_advice_if_an_update_is_impossible(toy, tmp_path, monkeypatch):
    change_initial_weights(monkeypatch, lambda ffn: ffn.B.weight.fill_(torch.nan))
    with pretended_cuda(), pytest.raises(InputError, match="gradients are Nan/Inf: raise --warmup-updates"):
        train(toy / "data-bin", tmp_path, "--max-epoch", "1", "--amp", cpu=False, no_save=True)


def translate(model, sample):
    generator = SequenceGenerator([model], make_task().target_dictionary, beam_size=4, max_len_b=15)
    hypotheses = generator.to(sample["net_input"]["src_tokens"].device).generate([model], sample)
    return [[hypothesis["tokens"].tolist() for hypothesis in sentence] for sentence in hypotheses]


def translate_and_check(**options):
    """Translate with fairseq's beam search, and check the translations and the waits of the model."""
    model, sources = make_model(make_task(), **options), make_sentences(5)
    sample = make_batch(sources, sources)
    expected = translate(model, sample)
    with pretended_cuda() as seen:
        model.cuda()
        sample = utils.move_to_cuda(sample)
        seen.clear()
        found = translate(model, sample)
    assert found == expected
    steps = max(len(tokens) for sentence in expected for tokens in sentence)
    # Which sentences still have hypotheses is decided once per step, and in detail when a sentence is done.
    plugin = [path.name for path in Path(fairseq_resmlp.__file__).parent.rglob("*.py") if path.name != "generation.py"]
    assert seen.waits_of(*plugin) <= steps + len(sources)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_beam_search_on_a_gpu_finds_the_translations_of_the_cpu(options):
    # Without mixing, hypotheses can be equally good, and their order is arbitrary.
    if options.get("token_mixing") != "none":
        translate_and_check(**options)


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("options", [{}, {"normalization": "layer", "token_mixing": "toeplitz_linear"}], ids=str)
def test_fast_path_on_a_gpu_finds_the_translations_of_the_cpu(options, dtype, cuda_graphs):
    config, weights = to_inference_weights(make_model(make_task(), **options))
    sources, search = [source.tolist() for source in make_sentences(5)], SearchOptions(beam=4, max_len_b=15)
    expected = beam_search(Network(config, weights), sources, search)
    with pretended_cuda() as seen:
        network = Network(config, weights, dtype, "cuda:0", cuda_graphs)
        seen.clear()
        found = beam_search(network, sources, search)
    assert [sentence[0].tokens for sentence in found] == [sentence[0].tokens for sentence in expected]
    assert not seen.half_sums
    steps = max(len(hypothesis.tokens) for sentence in expected for hypothesis in sentence)
    assert seen.waits_of("network.py") <= 1 + len(sources)  # padding of the source, and sentences that are done
    assert seen.waits_of("beam_search.py", "transfer.py") <= 2 * steps + 1  # there and back


def test_hub_model_translates_on_a_gpu_as_on_the_cpu():
    sentences = ["w1 w2 w3", "w4"]
    expected = ResMLPModel.from_pretrained(GOLDEN).translate(sentences)
    with pretended_cuda():
        assert ResMLPModel.from_pretrained(GOLDEN).cuda().translate(sentences) == expected


# Faults that these tests must find.


def tensor_on_the_cpu(monkeypatch):
    monkeypatch.setattr(Aff, "forward", lambda self, x: torch.addcmul(torch.zeros(x.size(-1)), self.alpha, x))


def wait_in_each_layer(monkeypatch):
    forward = TokenMixing.forward

    def waiting_forward(self, x, *args, **kwargs):
        assert x.abs().max().item() >= 0
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(TokenMixing, "forward", waiting_forward)


def mask_as_condition(monkeypatch):
    forward = TokenMixing.forward

    def branching_forward(self, x, keep=None, incremental_state=None):
        return forward(self, x, keep if keep is not None and not keep.all() else None, incremental_state)

    monkeypatch.setattr(TokenMixing, "forward", branching_forward)


def half_precision_accumulators(monkeypatch):
    init = Adagrad.__init__

    def half_init(self, *args):
        init(self, *args)
        for state in self._optimizer.state.values():
            state["sum"] = state["sum"].bfloat16()

    monkeypatch.setattr(Adagrad, "__init__", half_init)


def half_precision_logarithm(monkeypatch):
    def half_lprobs_and_target(self, model, net_output, sample):
        logits, target = net_output[0], model.get_targets(sample, net_output)
        return torch.log_softmax(logits.bfloat16(), -1).view(-1, logits.size(-1)), target.view(-1)

    monkeypatch.setattr(LabelSmoothedCrossEntropyCriterion, "get_lprobs_and_target", half_lprobs_and_target)


@pytest.mark.parametrize(
    "plant, error",
    [
        (tensor_on_the_cpu, DeviceError),
        (wait_in_each_layer, AssertionError),
        (mask_as_condition, AssertionError),
        (half_precision_accumulators, AssertionError),
        (half_precision_logarithm, AssertionError),
    ],
)
def test_faults_are_found(toy, tmp_path, monkeypatch, plant, error):
    losses_on_the_cpu(toy / "data-bin")
    plant(monkeypatch)
    with pytest.raises(error):
        train_and_check(toy, tmp_path, tolerance=2e-2, waits=2)
