"""Training with torch.compile: `--compile`."""

import functools
import logging
from typing import Any

import torch
from fairseq.tasks import FairseqTask
from torch import nn

logger = logging.getLogger(__name__)


class CompiledForward:
    """The forward pass of a model, compiled while the model is in training mode.

    In evaluation mode, and if compilation fails, the model runs as it is. The parameters keep their names. Batches of
    all shapes share one compiled program, except those with a dimension of 1.

    Args:
        model: its `forward` attribute is to be replaced by this object
    """

    def __init__(self, model: nn.Module):
        functools.update_wrapper(self, model.forward)  # criterions inspect its parameters
        self.model = model
        self.compiled: Any = torch.compile(type(model).forward, dynamic=True)

    def __call__(self, *args, **kwargs):
        if self.compiled and self.model.training:
            from torch._dynamo.exc import TorchDynamoException  # takes seconds to import
            from torch._functorch import config

            try:
                # Compile the backward pass here as well, so that its failure is caught. Older torch cannot do this.
                name = "force_non_lazy_backward_lowering"
                with config.patch({name: True} if hasattr(config, name) else {}):
                    return self.compiled(self.model, *args, **kwargs)
            except TorchDynamoException as error:
                reason = next(filter(None, str(error).splitlines()), type(error).__name__)
                logger.warning(
                    f"--compile has no effect, because torch.compile failed: {reason} (it requires a C++ compiler on a "
                    "CPU, and Triton on a GPU)"
                )
                self.compiled = None
        return type(self.model).forward(self.model, *args, **kwargs)


def compile_in_training(task: FairseqTask) -> None:
    """Compile the model that a task begins to train. Nothing is compiled in validation and translation."""
    begin_epoch = task.begin_epoch

    @functools.wraps(begin_epoch)
    def begin_compiled_epoch(epoch, model):
        begin_epoch(epoch, model)
        if not isinstance(model.forward, CompiledForward):
            model.forward = CompiledForward(model)

    task.begin_epoch = begin_compiled_epoch
