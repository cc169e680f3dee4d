"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6)."""

from . import mends

mends.apply()

from .model import ResMLPModel  # noqa: E402  the mends come first

__all__ = ["ResMLPModel"]
__version__ = "0.1.0"
