"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6).

Without fairseq nothing is registered, and exported models can be translated with (see `translate`).
"""

import importlib.util
import logging

__all__ = []
__version__ = "0.1.0"

if importlib.util.find_spec("fairseq") is not None:
    # Some of fairseq's modules set up logging for everybody when they are imported, down to DEBUG, and one of them says
    # that tensorboardX is missing. Where this import is what brings fairseq in, logging stays as it was.
    _root = logging.getLogger()
    _level, _handlers = _root.level, list(_root.handlers)
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

    from . import divergence, mends, progress

    mends.apply()
    progress.show_time_left()
    divergence.stop_when_loss_explodes()

    from . import criterion, distillation  # noqa: F401  the mends come first
    from .model import ResMLPModel  # the mends come first

    _root.setLevel(_level)
    _root.handlers[:] = _handlers

    __all__ = ["ResMLPModel"]
