"""LAMB, the optimizer of the paper's image models, in plain torch: `--optimizer torch_lamb`.

fairseq's own `lamb` requires NVIDIA's apex and a GPU. The algorithm comes from pytorch-optimizer, which is imported
when it is used.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from fairseq_resmlp.common.errors import InputError


@dataclass
class TorchLambConfig(FairseqDataclass):
    """Options of the optimizer."""

    weight_decay: float = field(default=0.0, metadata={"help": "weight decay"})
    lr: list[float] = II("optimization.lr")


@register_optimizer("torch_lamb", dataclass=TorchLambConfig)
class TorchLamb(FairseqOptimizer):
    """Adam whose step in each matrix is scaled to the norm of that matrix, at most 10 (https://arxiv.org/abs/1904.00962).

    Weight decay is part of the step that is scaled, as in Algorithm 2 there.
    """

    def __init__(self, cfg: TorchLambConfig, params):
        """
        Raises:
            InputError: pytorch-optimizer is not installed
        """
        super().__init__(cfg)
        try:
            from pytorch_optimizer import Lamb
        except ImportError as error:
            raise InputError(
                "--optimizer torch_lamb requires pytorch-optimizer: pip install 'fairseq-resmlp[vision]'"
            ) from error
        # Without adam_debias, the first learning rates would be up to 10 times as high as requested.
        self._optimizer = Lamb(params, weight_decouple=False, adam_debias=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Return the options for torch. They override those of a checkpoint when training is resumed."""
        lr = self.cfg.lr[0] if isinstance(self.cfg.lr, Collection) else self.cfg.lr
        return {"lr": lr, "weight_decay": self.cfg.weight_decay}

    @property
    def supports_flat_params(self) -> bool:
        """False: each matrix has a norm of its own."""
        return False
