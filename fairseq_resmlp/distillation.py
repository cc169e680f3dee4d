"""Learning from a teacher as well as from the text: `--criterion label_smoothed_cross_entropy_with_teacher`.

The paper's image models gain by distillation from a convnet (section 3.4), with the losses of DeiT
(https://arxiv.org/abs/2012.12877, section 4); here the teacher is any translation model of fairseq over the same
dictionaries, or an ensemble of them.

    soft:  (1 - lambda) CE(z, y) + lambda tau^2 KL(softmax(z_t / tau) || softmax(z / tau))
    hard:  (1 - lambda) CE(z, y) + lambda CE(z, argmax z_t)

with z and z_t the logits of student and teacher at a target position, y its token, CE with label smoothing.
"""

import copy
import math
import os
from dataclasses import dataclass, field
from typing import List

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

from .errors import InputError


@dataclass
class LabelSmoothedCrossEntropyWithTeacherConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of the criterion, beside those of label_smoothed_cross_entropy."""

    teacher: str = field(
        default="", metadata={"help": "checkpoint of the teacher; several joined by ':' teach as an ensemble"}
    )
    distillation: ChoiceEnum(["soft", "hard"]) = field(
        default="soft", metadata={"help": "learn the teacher's distribution, or its most likely token"}
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "lambda: share of the loss that is the teacher's, 0 to 1"}
    )
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "tau of soft distillation: above 1 unlikely tokens count for more"}
    )


@register_criterion("label_smoothed_cross_entropy_with_teacher", dataclass=LabelSmoothedCrossEntropyWithTeacherConfig)
class LabelSmoothedCrossEntropyWithTeacher(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross-entropy with a teacher in training; in validation without.

    Teachers of this plugin are refused if their dictionaries are others; of fairseq's own models, whose checkpoints
    do not hold theirs, the size alone is compared.

    Losses of validation can so be compared with those of any other training. The teacher is read at the first step of
    training, weights-only as every checkpoint, and is no part of what the training saves.
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
            InputError: no teacher, or a weight or temperature that is none
        """
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if not teacher:
            raise InputError("label_smoothed_cross_entropy_with_teacher needs --teacher CHECKPOINT")
        if not 0 <= distillation_weight <= 1:
            raise InputError(f"--distillation-weight {distillation_weight} is not between 0 and 1")
        if not distillation_temperature > 0:
            raise InputError(f"--distillation-temperature {distillation_temperature} is not above 0")
        if distillation == "hard" and distillation_temperature != 1:
            raise InputError("--distillation-temperature does nothing for --distillation hard: leave it out")
        self.teacher, self.hard = teacher, distillation == "hard"
        self.weight, self.temperature = distillation_weight, distillation_temperature
        self.teachers: List[nn.Module] = []  # a plain list: its models are not trained or saved with the criterion

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, as fairseq's criterion returns it.

        Raises:
            InputError: the teacher cannot be read, or has other dictionaries
        """
        if not (model.training and reduce):
            return super().forward(model, sample, reduce)
        net_output = model(**sample["net_input"])
        lprobs, target = self.get_lprobs_and_target(model, net_output, sample)
        kept = target.ne(self.padding_idx)
        lprobs, target = lprobs[kept], target[kept].unsqueeze(-1)  # M x V, M x 1
        loss, nll_loss = label_smoothed_nll_loss(lprobs, target, self.eps)
        teacher = self.probabilities(sample, 1.0 if self.hard else self.temperature)[kept]
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
    def probabilities(self, sample, temperature: float) -> Tensor:
        """What the teacher thinks of a batch: the mean over its models of softmax(z / temperature).

        Returns:
            (B T) x V, in float32, rows as in `get_lprobs_and_target`

        Raises:
            InputError: as `forward`
        """
        if not self.teachers:
            self.teachers = self.load()
        device, total = sample["target"].device, torch.zeros(())
        for teacher in self.teachers:
            try:
                logits = teacher.to(device)(**sample["net_input"])[0][:, self.ignore_prefix_size :]
            except InputError as error:
                raise InputError(
                    f"--teacher {self.teacher} cannot read this batch, and --max-source-positions and "
                    f"--max-target-positions leave longer pairs out: {error}"
                ) from error
            total = total.to(device) + torch.softmax(logits.float() / temperature, -1)
        return (total / len(self.teachers)).flatten(0, 1)

    def load(self) -> List[nn.Module]:
        """The models of the teacher, in evaluation mode on the CPU."""
        files = utils.split_paths(self.teacher)
        for file in files:
            if not os.path.isfile(file):
                raise InputError(f"--teacher {file}: there is no such file")
        state = torch.random.get_rng_state()  # a resumed training loads it at another step than an undisturbed one
        try:
            # Of a copy of the task: building a model leaves its limits there, and the student has its own.
            teachers, _ = checkpoint_utils.load_model_ensemble(files, task=copy.copy(self.task))
        except InputError as error:
            raise InputError(f"--teacher {self.teacher}: {error}") from error
        except RuntimeError as error:  # of fairseq's own models, whose shapes do not fit
            said = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise InputError(f"--teacher {self.teacher} is not over this task's dictionaries: {said}") from error
        finally:
            torch.random.set_rng_state(state)
        for teacher in teachers:
            teacher.make_generation_fast_(need_attn=False)  # in evaluation mode, without attention maps
            teacher.requires_grad_(False)
        return teachers

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log the loss of the teacher's part beside the others, in bits a token."""
        super().reduce_metrics(logging_outputs)
        if any("teacher_loss" in log for log in logging_outputs):
            loss, size = (sum(log.get(name, 0) for log in logging_outputs) for name in ("teacher_loss", "sample_size"))
            metrics.log_scalar("teacher_loss", utils.item(loss) / utils.item(size) / math.log(2), size, round=3)
