"""Word-level distillation from a teacher: `--criterion label_smoothed_cross_entropy_with_teacher`.

The paper's image models improve with distillation from a convnet (section 3.4), using the losses of DeiT
(https://arxiv.org/abs/2012.12877, section 4). Here, the teacher is any fairseq translation model with the same
dictionaries, or an ensemble of such models.

    soft:  (1 - lambda) CE(z, y) + lambda tau^2 KL(softmax(z_t / tau) || softmax(z / tau))
    hard:  (1 - lambda) CE(z, y) + lambda CE(z, argmax z_t)

where z and z_t are the logits of student and teacher at a target position, y is its token, and CE is label-smoothed.
"""

import copy
import math
import os
from dataclasses import dataclass, field

import torch
from fairseq import checkpoint_utils, utils
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_resmlp.common.errors import InputError, first_difference


@dataclass
class LabelSmoothedCrossEntropyWithTeacherConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of the criterion, in addition to those of label_smoothed_cross_entropy."""

    teacher: str = field(
        default="", metadata={"help": "checkpoint of the teacher; several joined by ':' form an ensemble"}
    )
    distillation: ChoiceEnum(["soft", "hard"]) = field(
        default="soft",
        metadata={"help": "learn from the teacher's distribution (soft) or from its most likely token (hard)"},
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "lambda: weight of the teacher's part of the loss, 0 to 1"}
    )
    distillation_temperature: float = field(
        default=1.0,
        metadata={"help": "tau of soft distillation; values above 1 give more weight to unlikely tokens"},
    )


@register_criterion("label_smoothed_cross_entropy_with_teacher", dataclass=LabelSmoothedCrossEntropyWithTeacherConfig)
class LabelSmoothedCrossEntropyWithTeacher(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross-entropy with a teacher. Validation does not use the teacher.

    Validation losses are therefore comparable with those of other training runs. The teacher is loaded at the first
    training step, weights-only like every checkpoint. It is not saved with the training.

    A teacher of this plugin is rejected if its dictionaries differ from the task's. Checkpoints of fairseq's own models
    do not contain their dictionaries, so only the sizes are compared.
    """

    def __init__(
        self,
        task,
        sentence_avg: bool,
        label_smoothing: float,
        teacher: str,
        distillation: str,
        distillation_weight: float,
        distillation_temperature: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
    ):
        """
        Raises:
            InputError: the teacher is missing, or an option is out of range or has no effect
        """
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if not teacher:
            raise InputError("label_smoothed_cross_entropy_with_teacher requires --teacher CHECKPOINT")
        if not 0 <= distillation_weight <= 1:
            raise InputError(f"--distillation-weight {distillation_weight} is not between 0 and 1")
        if not distillation_temperature > 0:
            raise InputError(f"--distillation-temperature {distillation_temperature} is not greater than 0")
        if distillation == "hard" and distillation_temperature != 1:
            raise InputError("--distillation-temperature has no effect with --distillation hard: omit it")
        self.teacher, self.hard = teacher, distillation == "hard"
        self.weight, self.temperature = distillation_weight, distillation_temperature
        self.teachers: list[nn.Module] = []  # not a ModuleList: they must not be trained or saved with the criterion

    def forward(self, model, sample, reduce=True):
        """Compute the loss of a batch. Returns the same values as fairseq's criterion.

        Raises:
            InputError: the teacher cannot be loaded, has other dictionaries, or does not support sentences this long
        """
        if not (model.training and reduce):
            return super().forward(model, sample, reduce)
        net_output = model(**sample["net_input"])
        lprobs, target = self.get_lprobs_and_target(model, net_output, sample)
        kept = target.ne(self.padding_idx).nonzero()[:, 0]  # once for all: the host waits for the result
        lprobs, target = lprobs.index_select(0, kept), target.index_select(0, kept).unsqueeze(-1)  # M x V, M x 1
        loss, nll_loss = label_smoothed_nll_loss(lprobs, target, self.eps)
        teacher = self.teacher_probabilities(sample, 1.0 if self.hard else self.temperature).index_select(0, kept)
        if self.hard:
            teacher_loss, _ = label_smoothed_nll_loss(lprobs, teacher.argmax(-1, keepdim=True), self.eps)
        else:
            student = F.log_softmax(lprobs / self.temperature, -1)
            teacher_loss = self.temperature**2 * F.kl_div(student, teacher, reduction="sum")
        loss = (1 - self.weight) * loss + self.weight * teacher_loss
        nsentences = sample["target"].size(0)
        sample_size = nsentences if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "teacher_loss": teacher_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": nsentences,
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logging_output["n_correct"] = lprobs.argmax(-1, keepdim=True).eq(target).sum().item()
            logging_output["total"] = len(target)
        return loss, sample_size, logging_output

    @torch.no_grad()
    def teacher_probabilities(self, sample, temperature: float) -> Tensor:
        """Compute the teacher's distribution: the mean of softmax(z / temperature) over its models.

        Returns:
            (B T) x V in float32, with rows in the order of `get_lprobs_and_target`

        Raises:
            InputError: as for `forward`
        """
        if not self.teachers:
            self.teachers = self.load_teachers()
        device, total = sample["target"].device, torch.zeros(())
        for teacher in self.teachers:
            try:
                logits = teacher.to(device)(**sample["net_input"])[0][:, self.ignore_prefix_size :]
            except InputError as error:
                raise InputError(
                    f"--teacher {self.teacher} does not support sentences this long: skip them with "
                    f"--max-source-positions and --max-target-positions ({error})"
                ) from error
            total = total.to(device) + torch.softmax(logits.float() / temperature, -1)
        return (total / len(self.teachers)).flatten(0, 1)

    def load_teachers(self) -> list[nn.Module]:
        """Load the models of the teacher on the CPU, in evaluation mode."""
        files = utils.split_paths(self.teacher)
        for file in files:
            if not os.path.isfile(file):
                raise InputError(f"--teacher {file}: file not found")
        state = torch.random.get_rng_state()  # a resumed training loads the teacher at a different step
        try:
            # With a copy of the task: building a model adapts the task to that model, here to the teacher.
            teachers, _ = checkpoint_utils.load_model_ensemble(files, task=copy.copy(self.task))
        except InputError as error:
            raise InputError(f"--teacher {self.teacher}: {error}") from error
        except RuntimeError as error:  # shapes of fairseq's own models that do not match
            raise InputError(
                f"--teacher {self.teacher} was trained with other dictionaries: {first_difference(error)}"
            ) from error
        finally:
            torch.random.set_rng_state(state)
        for teacher in teachers:
            teacher.make_generation_fast_(need_attn=False)  # also sets evaluation mode
            teacher.requires_grad_(False)
        return teachers

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log the teacher's part of the loss in addition to fairseq's values, in bits per token."""
        super().reduce_metrics(logging_outputs)
        if any("teacher_loss" in log for log in logging_outputs):
            loss, size = (sum(log.get(name, 0) for log in logging_outputs) for name in ("teacher_loss", "sample_size"))
            metrics.log_scalar("teacher_loss", loss / size / math.log(2), size, round=3)
