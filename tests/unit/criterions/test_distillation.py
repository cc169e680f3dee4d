"""Distillation from a teacher: DeiT's losses, a frozen teacher, validation without it."""

import copy
import math

import numpy as np
import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.criterions.distillation import LabelSmoothedCrossEntropyWithTeacher
from support.commands import run, train_options
from support.models import make_batch, make_model, make_sentences, make_task
from support.paths import PLUGIN

EPSILON = 0.1


def criterion(*teachers, weight=0.5, temperature=1.0, kind="soft", **options):
    made = LabelSmoothedCrossEntropyWithTeacher(
        make_task(), False, EPSILON, "in memory", kind, weight, temperature, **options
    )
    made.teachers = list(teachers)
    return made


def with_teacher(task, checkpoint):
    return LabelSmoothedCrossEntropyWithTeacher(task, False, EPSILON, str(checkpoint), "soft", 0.5, 1.0)


def plain(**options):
    return LabelSmoothedCrossEntropyCriterion(make_task(), False, EPSILON, **options)


@pytest.fixture
def batch():
    return make_batch(make_sentences(7), make_sentences(7, seed=1))


def logits(model, batch):
    """Return the logits of the unpadded target positions in order, M x V, as float64."""
    with torch.no_grad():
        z = model(**batch["net_input"])[0].double()
    return z[batch["target"] != 1].numpy()


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def smoothed(z, y):
    """Compute fairseq's label-smoothed cross-entropy, summed over positions."""
    V = z.shape[1]
    log_p, epsilon_i = np.log(softmax(z)), EPSILON / (V - 1)
    nll = -log_p[np.arange(len(y)), y]
    return ((1 - EPSILON - epsilon_i) * nll - epsilon_i * log_p.sum(-1)).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_soft_distillation_is_the_formula(batch, weight, temperature):
    student, teacher, other = make_model(), make_model(seed=2), make_model(seed=3)
    z, y = logits(student, batch), batch["target"][batch["target"] != 1].numpy()
    p = (softmax(logits(teacher, batch) / temperature) + softmax(logits(other, batch) / temperature)) / 2
    kl = (p * (np.log(p) - np.log(softmax(z / temperature)))).sum()
    loss, size, logs = criterion(teacher, other, weight=weight, temperature=temperature)(student.train(), batch)
    assert loss.item() == pytest.approx((1 - weight) * smoothed(z, y) + weight * temperature**2 * kl, rel=1e-5)
    assert size == batch["ntokens"] and float(logs["loss"]) == loss.item()
    assert float(logs["teacher_loss"]) == pytest.approx(temperature**2 * kl, rel=1e-4)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_hard_distillation_learns_the_tokens_of_the_teacher(batch, weight):
    student, teacher = make_model(), make_model(seed=2)
    z, y = logits(student, batch), batch["target"][batch["target"] != 1].numpy()
    loss, _, _ = criterion(teacher, weight=weight, kind="hard")(student.train(), batch)
    guess = logits(teacher, batch).argmax(-1)
    assert (guess != y).any()
    assert loss.item() == pytest.approx((1 - weight) * smoothed(z, y) + weight * smoothed(z, guess), rel=1e-5)


def test_with_zero_weight_loss_gradients_and_logs_are_those_of_fairseq(batch):
    one, other = make_model().train(), make_model().train()
    loss, _, logs = criterion(make_model(seed=2), weight=0.0, report_accuracy=True)(one, batch)
    expected, _, expected_logs = plain(report_accuracy=True)(other, batch)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    logs.pop("teacher_loss")
    for name, value in expected_logs.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-5), name
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_an_ignored_prefix_is_not_learned_from_the_teacher(batch, kind):
    student, teacher = make_model(), make_model(seed=2)
    whole = float(criterion(teacher, kind=kind, weight=1.0)(student.train(), batch)[2]["teacher_loss"])
    cut = criterion(teacher, kind=kind, weight=1.0, ignore_prefix_size=1)(student, batch)[2]["teacher_loss"]
    first = copy.deepcopy(batch)
    first["target"][:, 1:] = 1  # padding after the prefix
    alone = float(criterion(teacher, kind=kind, weight=1.0)(student, first)[2]["teacher_loss"])
    assert float(cut) == pytest.approx(whole - alone, rel=1e-4)


def test_validation_does_not_use_the_teacher(batch):
    student = make_model().eval()
    distilled = criterion(weight=1.0)  # its teacher does not exist
    assert distilled(student, batch)[0].item() == plain()(student, batch)[0].item()


def test_the_teacher_is_not_trained_and_not_saved(batch):
    student, teacher = make_model(), make_model(seed=2).requires_grad_(False)
    distilled = criterion(teacher)
    distilled(student.train(), batch)[0].backward()
    distilled.train()
    assert not teacher.training
    assert list(distilled.parameters()) == [] and distilled.state_dict() == {}
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": ""}, "requires --teacher CHECKPOINT"),
        ({"distillation_weight": 1.5}, "--distillation-weight 1.5 is not between 0 and 1"),
        ({"distillation_temperature": 0.0}, "--distillation-temperature 0.0 is not greater than 0"),
        ({"distillation": "hard", "distillation_temperature": 2.0}, "has no effect with --distillation hard"),
    ],
)
def test_invalid_options_are_rejected_by_name(options, message):
    defaults = {"teacher": "x.pt", "distillation": "soft", "distillation_weight": 0.5, "distillation_temperature": 1.0}
    with pytest.raises(InputError, match=message):
        LabelSmoothedCrossEntropyWithTeacher(make_task(), False, EPSILON, **{**defaults, **options})


def test_sentences_too_long_for_the_teacher_are_rejected(batch):
    teacher = make_model(seed=2, encoder_max_positions=6)
    with pytest.raises(
        InputError,
        match="--teacher in memory does not support sentences this long: skip them with --max-source-positions",
    ):
        criterion(teacher)(make_model().train(), batch)


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_gradients_are_those_of_the_formula(batch, kind, sentence_avg):
    student, teacher = make_model().train(), make_model(seed=2)
    made = LabelSmoothedCrossEntropyWithTeacher(make_task(), sentence_avg, EPSILON, "in memory", kind, 0.3, 1.0)
    made.teachers = [teacher]
    loss, size, _ = made(student, batch)
    assert size == (7 if sentence_avg else batch["ntokens"])
    loss.backward()
    other = make_model().train()
    kept = batch["target"] != 1
    z = torch.log_softmax(other(**batch["net_input"])[0][kept], -1)
    y, p = batch["target"][kept], torch.softmax(teacher(**batch["net_input"])[0][kept], -1).detach()
    if kind == "hard":
        p = torch.nn.functional.one_hot(p.argmax(-1), p.size(1)).float()
    # Label smoothing distributes epsilon over the other entries.
    spread = EPSILON / (z.size(1) - 1)
    smooth = lambda q: q * (1 - EPSILON - spread) + spread  # noqa: E731
    text = smooth(torch.nn.functional.one_hot(y, z.size(1)).float())
    expected = 0.7 * text + 0.3 * (smooth(p) if kind == "hard" else p)
    (-(expected * z).sum()).backward()
    for a, b in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)


def distill(trained, save_dir, *options, check=True):
    command = train_options(trained / "data-bin", save_dir)
    command[command.index("--criterion") + 1] = "label_smoothed_cross_entropy_with_teacher"
    return run("fairseq-train", *command, *options, check=check)


def train_transformer(trained, save_dir):
    done = run(
        *("fairseq-train", trained / "data-bin", "--arch", "transformer_tiny", "--share-all-embeddings", "--cpu"),
        *("--user-dir", PLUGIN, "--optimizer", "adam", "--lr", "1e-3"),
        *("--max-tokens", "400", "--max-update", "5", "--save-dir", save_dir, "--num-workers", "0", "--seed", "1"),
    )
    assert "done training" in done.stdout + done.stderr
    return save_dir / "checkpoint_last.pt"


@pytest.mark.slow
def test_fairseq_train_learns_from_a_transformer_and_another_resmlp(trained, tmp_path):
    transformer = train_transformer(trained, tmp_path / "transformer")
    with pytest.raises(InputError, match="was trained with other dictionaries: size mismatch"):
        with_teacher(make_task(), transformer).load_teachers()
    teacher = f"{transformer}:{trained / 'checkpoints/checkpoint_best.pt'}"
    drop = ("--dropout", "0.1", "--update-freq", "2")  # so that the random state within an update matters
    options = ("--teacher", teacher, *drop)
    done = distill(trained, tmp_path / "student", "--max-epoch", "2", "--log-interval", "5", *options)
    log = done.stdout + done.stderr
    assert "teacher_loss" in log
    assert math.isfinite(float(log.rsplit("best_loss ", 1)[1].split()[0]))
    # A training that is resumed for its second epoch ends with the same model as the uninterrupted one.
    distill(trained, tmp_path / "again", "--max-epoch", "1", *options)
    distill(trained, tmp_path / "again", "--max-epoch", "2", *options)
    one, other = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("student", "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_missing_teacher_is_reported_in_one_line(trained, tmp_path):
    done = distill(trained, tmp_path / "a", "--teacher", "nowhere.pt", check=False)
    assert done.returncode != 0
    assert "error: --teacher nowhere.pt: file not found" in done.stderr and "Traceback" not in done.stderr


def test_loading_a_teacher_does_not_change_the_task(trained):
    """Building a model adapts its task, for example to truncate lines to the N of the model."""
    task = TranslationTask.setup_task(TranslationConfig(data=str(trained / "data-bin")))
    before = dict(vars(task))
    with_teacher(task, trained / "checkpoints" / "checkpoint_best.pt").load_teachers()
    assert vars(task) == before


def test_a_teacher_has_no_dropout_gradients_or_attention_maps(trained):
    task = TranslationTask.setup_task(TranslationConfig(data=str(trained / "data-bin")))
    (teacher,) = with_teacher(task, trained / "checkpoints" / "checkpoint_best.pt").load_teachers()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.decoder.need_attn is False


def test_a_teacher_with_another_dictionary_is_rejected(trained):
    teacher = trained / "checkpoints" / "checkpoint_best.pt"
    with pytest.raises(InputError, match=f"--teacher {teacher}: the source dictionary differs from the one"):
        with_teacher(make_task(), teacher).load_teachers()
