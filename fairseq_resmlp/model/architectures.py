"""Named architectures, sets of options under one name: registration, and their defaults in --help."""

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import fields

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model_architecture

Architectures = Mapping[str, Mapping[str, object]]  # the options of each that differ from the defaults


def register_architectures(model: str, kind: type[FairseqDataclass], architectures: Architectures) -> None:
    """Register architectures of a model for fairseq's --arch.

    Args:
        model: the registered name of the model
        kind: the dataclass of its options
        architectures: by name
    """
    for arch, changes in architectures.items():
        _register(model, arch, {**{option.name: getattr(kind, option.name) for option in fields(kind)}, **changes})


def _register(model: str, arch: str, options: Mapping[str, object]) -> None:
    @register_model_architecture(model, arch)
    def apply(args) -> None:
        for name, value in options.items():
            if getattr(args, name, None) is None:
                setattr(args, name, value)


def describe_defaults(parser: ArgumentParser, kind: type[FairseqDataclass], architectures: Architectures) -> None:
    """Add the defaults of each option of a model to its help: "default: 6; 12 in resmlp_base_12, ...".

    Arguments as for `register_architectures`.
    """
    names = {option.name for option in fields(kind)}
    for action in parser._actions:
        if action.dest in names:
            base, others = getattr(kind, action.dest), dict[object, list[str]]()
            for arch, changes in architectures.items():
                if changes.get(action.dest, base) != base:
                    others.setdefault(changes[action.dest], []).append(arch)
            defaults = [f"default: {base}"] + [f"{value} in {', '.join(archs)}" for value, archs in others.items()]
            action.help = f"{action.help} ({'; '.join(defaults)})"
