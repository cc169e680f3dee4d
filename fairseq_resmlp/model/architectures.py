"""Registration of named architectures: sets of options under one name."""

from collections.abc import Mapping
from dataclasses import fields

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model_architecture


def register_architectures(
    model: str, kind: type[FairseqDataclass], architectures: Mapping[str, Mapping[str, object]]
) -> None:
    """Register architectures of a model for fairseq's --arch.

    Args:
        model: the registered name of the model
        kind: the dataclass of its options
        architectures: for each name, the options that differ from the defaults of `kind`
    """
    for arch, changes in architectures.items():
        _register(model, arch, {**{option.name: getattr(kind, option.name) for option in fields(kind)}, **changes})


def _register(model: str, arch: str, options: Mapping[str, object]) -> None:
    @register_model_architecture(model, arch)
    def apply(args) -> None:
        for name, value in options.items():
            if getattr(args, name, None) is None:
                setattr(args, name, value)
