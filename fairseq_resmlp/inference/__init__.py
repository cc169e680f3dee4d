"""Fast translation with an exported model. Needs torch, but not fairseq."""

from fairseq_resmlp.inference.batching import BatchQueue, QueueFull
from fairseq_resmlp.inference.translation import Alignment, Translation, TranslationHypothesis, TranslationOptions
from fairseq_resmlp.inference.translator import Translator

__all__ = [
    "Alignment",
    "BatchQueue",
    "QueueFull",
    "Translation",
    "TranslationHypothesis",
    "TranslationOptions",
    "Translator",
]
