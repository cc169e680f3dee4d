"""Tasks of fairseq that this plugin's models do not support."""

from argparse import Namespace

import pytest
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from fairseq.tasks.semisupervised_translation import SemisupervisedTranslationTask
from fairseq.tasks.translation_lev import TranslationLevenshteinConfig, TranslationLevenshteinTask
from omegaconf import OmegaConf

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ResMLPConfig
from support.models import TINY, make_dictionary


def model_options():
    return OmegaConf.create({"_name": "resmlp_tiny", **TINY})


def task_options(**options):
    return Namespace(lang_pairs=["a-b"], source_lang=None, target_lang=None, **options)


def test_multilingual_translation_is_refused_in_one_line():
    task = MultilingualTranslationTask(task_options(), {"a": make_dictionary(), "b": make_dictionary()}, True)
    with pytest.raises(InputError, match="resmlp does not have: use --task translation, or"):
        task.build_model(model_options())


def test_other_tasks_are_refused_when_the_model_is_built():
    semisupervised = SemisupervisedTranslationTask.__new__(SemisupervisedTranslationTask)
    language_modeling = LanguageModelingTask(LanguageModelingConfig(), make_dictionary())
    levenshtein = TranslationLevenshteinTask(TranslationLevenshteinConfig(), make_dictionary(), make_dictionary())
    for task in (semisupervised, language_modeling, levenshtein):
        with pytest.raises(InputError, match=f"resmlp does not support {type(task).__name__}"):
            task.build_model(OmegaConf.structured(ResMLPConfig(_name="resmlp", **TINY)))
