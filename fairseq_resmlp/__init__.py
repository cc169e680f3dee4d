"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6).

Importing the package loads neither torch nor fairseq. The plugin is registered as soon as both this package and
fairseq have been imported, in either order: fairseq is patched, and the model and the criterions become available.
`--user-dir fairseq_resmlp` relies on this.
"""

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairseq_resmlp.model.registration import ResMLPModel

__all__ = ["ResMLPModel"]
__version__ = "0.2.0"

# In this order: patches come first.
_REGISTERED = (
    "criterions.fused_cross_entropy",
    "criterions.distillation",
    "model.registration",
    "vision.lamb",
    "vision.task",
    "vision.image_resmlp",
    "vision.convnet",
)
# The first import of any of these registers the plugin. All but the first import fairseq themselves, and registration
# imports them: if it began in the middle of their import, it would find them partially initialized.
_PARTS = ("checkpoints", "criterions", "fairseq_patches", "model", "modules", "resmlp", "vision")
_TRIGGERS = ("fairseq", "fairseq_cli", *(f"{__name__}.{part}" for part in _PARTS))


def __getattr__(name: str) -> Any:
    if name == "ResMLPModel":
        return importlib.import_module(f"{__name__}.model.registration").ResMLPModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register() -> None:
    with _unchanged_logging():
        importlib.import_module(f"{__name__}.fairseq_patches.apply").apply_patches()
        for name in _REGISTERED:
            importlib.import_module(f"{__name__}.{name}")


@contextlib.contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Restore the root logger afterwards.

    Some of fairseq's modules configure logging for the whole program when they are imported, down to DEBUG, and one of
    them reports that tensorboardX is missing.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class _RegisterOnImport:
    """Import hook that registers the plugin after the first import of one of `_TRIGGERS`, then removes itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        if name not in _TRIGGERS or self not in finders:
            return None
        later = (getattr(finder, "find_spec", None) for finder in finders[finders.index(self) + 1 :])
        spec = next(filter(None, (find(name, path, target) for find in later if find)), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            if self not in sys.meta_path:
                load(module)
                return
            sys.meta_path.remove(self)
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # fairseq, when imported
            try:
                with _unchanged_logging():
                    load(module)
                    _register()
            except BaseException:
                sys.meta_path.insert(0, self)  # the program may fix the cause and import again
                raise

        spec.loader.exec_module = load_and_register
        return spec


if "fairseq" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterOnImport())
