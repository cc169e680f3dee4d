"""Checks, before training begins, that the validations during training can be computed."""

import functools
import json
import logging
from typing import Any

from fairseq import checkpoint_utils
from fairseq.data.encoders import TOKENIZER_REGISTRY
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.option_checks import check_generation_options, check_values

logger = logging.getLogger(__name__)

_INCREASING = ("bleu", "accuracy")  # metrics of which more is better


def check_bleu_options() -> None:
    """Check the options of --eval-bleu before the model is built (fairseq issue 3881)."""
    original = TranslationTask.build_model

    @functools.wraps(original)
    def build_model(self, cfg, from_checkpoint=False):
        if self.cfg.eval_bleu:
            _read_json(self.cfg, "eval_bleu_detok_args")
            search = _read_json(self.cfg, "eval_bleu_args")
            if type(self).build_generator is FairseqTask.build_generator:  # others may have options of their own
                check_generation_options(search, "--eval-bleu-args: ")
            check_values(search)
            tokenizer = self.cfg.eval_bleu_detok
            if tokenizer not in TOKENIZER_REGISTRY:
                raise InputError(f"--eval-bleu-detok {tokenizer} not found: use one of {', '.join(TOKENIZER_REGISTRY)}")
        return original(self, cfg, from_checkpoint)

    TranslationTask.build_model = build_model


def _read_json(cfg, name: str) -> dict[str, Any]:
    text, option = getattr(cfg, name), f"--{name.replace('_', '-')}"
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{option} is not JSON such as '{{\"beam\": 4}}': {text[:200]} ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{option} is not a JSON object such as '{{\"beam\": 4}}': {text[:200]}")
    return value


def check_best_checkpoint_metric() -> None:
    """Check before training that validation computes --best-checkpoint-metric (fairseq issue 3881).

    fairseq finds out after the first epoch, and loses it. The metrics follow from the criterion and the task, so one
    batch is validated, unless the metric is the loss.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg, trainer, **kwargs):
        loaded = original(cfg, trainer, **kwargs)
        metric = cfg.best_checkpoint_metric
        if metric != "loss" and not trainer.cfg.dataset.disable_validation:
            _check_metric(trainer, metric)
        if (metric in _INCREASING) != cfg.maximize_best_checkpoint_metric and metric in (*_INCREASING, "loss", "ppl"):
            change = "add" if metric in _INCREASING else "omit"
            logger.warning(
                f"checkpoint_best.pt will be the checkpoint with the worst {metric}: {change} "
                "--maximize-best-checkpoint-metric"
            )
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


def _check_metric(trainer: Trainer, metric: str) -> None:
    task = trainer.task
    if metric == "bleu" and getattr(task.cfg, "eval_bleu", False) or hasattr(task, "post_validate"):
        return
    subset = trainer.cfg.dataset.valid_subset.split(",")[0]
    batches = trainer.get_valid_iterator(subset, disable_iterator_cache=True)
    with metrics.aggregate(new_root=True) as computed:
        trainer.valid_step(batches.first_batch)
    names = sorted(name for name in (*computed.get_smoothed_values(), "num_updates") if not name.startswith("_"))
    if metric not in names:
        remedy = "add --eval-bleu" if metric == "bleu" else f"use one of {', '.join(names)}"
        raise InputError(f"--best-checkpoint-metric {metric} is not computed in validation: {remedy}")
