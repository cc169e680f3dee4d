"""Patches of fairseq's tasks."""

import functools

from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask

from fairseq_resmlp.common.errors import InputError


def refuse_multilingual_models() -> None:
    """Report in one line that --task multilingual_translation needs a model per language pair (fairseq issue 1393).

    fairseq looks for options of the task among those of the model, and fails with "Key 'left_pad_source' not in
    'ResMLPConfig'". Other tasks that do not fit are refused when the model is built (`fairseq_resmlp.model.config`).
    """
    original = MultilingualTranslationTask.build_model

    @functools.wraps(original)
    def build_model(self, args, from_checkpoint=False):
        if ARCH_MODEL_NAME_REGISTRY.get(getattr(args, "_name", None)) == "resmlp":
            raise InputError(
                "this task trains an encoder and a decoder per language pair, which resmlp does not have: use --task "
                "translation, or translation_multi_simple_epoch for several languages"
            )
        return original(self, args, from_checkpoint)

    MultilingualTranslationTask.build_model = build_model
