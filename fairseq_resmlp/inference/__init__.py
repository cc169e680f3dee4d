"""Fast translation with an exported model. Needs torch, but not fairseq."""

from fairseq_resmlp.inference.beam_search import SearchOptions
from fairseq_resmlp.inference.translator import Translator

__all__ = ["SearchOptions", "Translator"]
