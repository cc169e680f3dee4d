"""Patches of fairseq-hydra-train."""

import functools
from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass, initialize
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY
from hydra.core.config_store import ConfigStore
from omegaconf import II, open_dict

from fairseq_resmlp.fairseq_patches.replacement import replace_function


@dataclass
class AdagradConfig(FairseqDataclass):
    """Options of fairseq's Adagrad for fairseq-hydra-train."""

    weight_decay: float = field(default=0.0, metadata={"help": "weight decay"})
    lr: list[float] = II("optimization.lr")


def register_adagrad_with_hydra() -> None:
    """Give Adagrad, the paper's optimizer, the dataclass that fairseq-hydra-train requires."""
    if "adagrad" in OPTIMIZER_DATACLASS_REGISTRY:
        return
    OPTIMIZER_DATACLASS_REGISTRY["adagrad"] = AdagradConfig
    OPTIMIZER_REGISTRY["adagrad"].__dataclass = AdagradConfig
    node = AdagradConfig()
    node._name = "adagrad"
    ConfigStore.instance().store(name="adagrad", group="optimizer", node=node, provider="fairseq")


def apply_architecture_in_hydra() -> None:
    """Make `model: {_name: resmlp_tiny}` select that architecture in fairseq-hydra-train.

    fairseq derives only the model from the name and fills in the model's defaults, so every name would be
    `resmlp_base`.
    """
    original = initialize.add_defaults

    @functools.wraps(original)
    def add_defaults(cfg):
        arch = getattr(cfg.get("model"), "_name", None)
        if arch in ARCH_CONFIG_REGISTRY and ARCH_MODEL_NAME_REGISTRY[arch] == "resmlp":
            with open_dict(cfg.model):
                ARCH_CONFIG_REGISTRY[arch](cfg.model)  # keeps the values of the configuration file
        original(cfg)

    # fairseq's commands import it by name. Of the two that call it in a training run of fairseq-hydra-train, the first
    # determines the options if the plugin is already imported, as in the second job of a sweep.
    replace_function(original, add_defaults)
