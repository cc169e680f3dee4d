"""fairseq plugin: machine translation with sequence-to-sequence ResMLP (arXiv 2105.03404, section 3.6).

Importing the package is cheap: it loads neither torch nor fairseq. As soon as fairseq is imported, before or after, by
the program or by a part of this package, the plugin is registered: fairseq is patched, and the model and the criterions
become available. This is what `--user-dir fairseq_resmlp` relies on.
"""

import importlib
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairseq_resmlp.model.registration import ResMLPModel

__all__ = ["ResMLPModel"]
__version__ = "0.2.0"

# In this order: patches come first.
_REGISTERED = ("criterions.fused_cross_entropy", "criterions.distillation", "model.registration")
# The first import of any of these registers the plugin.
_TRIGGERS = (
    "fairseq",
    "fairseq_cli",  # its modules import fairseq, and would be patched while they are partially imported
    *(f"{__name__}.{part}" for part in ("checkpoints", "criterions", "fairseq_patches", "model", "modules", "resmlp")),
)


def __getattr__(name: str) -> Any:
    if name == "ResMLPModel":
        return importlib.import_module(f"{__name__}.model.registration").ResMLPModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register() -> None:
    importlib.import_module(f"{__name__}.fairseq_patches.apply").apply_patches()
    for name in _REGISTERED:
        importlib.import_module(f"{__name__}.{name}")


class _RegisterOnImport:
    """Import hook that registers the plugin after the first import of one of `_TRIGGERS`, then removes itself."""

    def __init__(self) -> None:
        self.searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _TRIGGERS or self.searching:
            return None
        self.searching = True  # what follows calls this method again
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            if self not in sys.meta_path:
                load(module)
                return
            sys.meta_path.remove(self)
            # Some of fairseq's modules configure logging for the whole program when they are imported, down to DEBUG,
            # and one of them reports that tensorboardX is missing.
            root = logging.getLogger()
            level, handlers = root.level, list(root.handlers)
            logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
            load(module)
            _register()
            root.setLevel(level)
            root.handlers[:] = handlers

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "fairseq" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterOnImport())
