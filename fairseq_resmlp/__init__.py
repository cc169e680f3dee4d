"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6)."""

import logging

# Importing fairseq's tasks says that tensorboardX is missing, for speech synthesis.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from . import mends  # noqa: E402

mends.apply()

from .model import ResMLPModel  # noqa: E402  the mends come first

__all__ = ["ResMLPModel"]
__version__ = "0.1.0"
