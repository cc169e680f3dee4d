"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6)."""

import logging

# Some of fairseq's modules set up logging for everybody when they are imported, down to DEBUG, and one of them says
# that tensorboardX is missing. Where this import is what brings fairseq in, logging stays as it was.
_root = logging.getLogger()
_level, _handlers = _root.level, list(_root.handlers)
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from . import divergence, mends, progress  # noqa: E402

mends.apply()
progress.show_time_left()
divergence.stop_when_loss_explodes()

from .model import ResMLPModel  # noqa: E402  the mends come first

_root.setLevel(_level)
_root.handlers[:] = _handlers

__all__ = ["ResMLPModel"]
__version__ = "0.1.0"
