"""Patches of the training loop and the optimizers."""

import atexit
import contextlib
import functools
import queue
import weakref
from typing import Any

import torch
from fairseq import utils
from fairseq.data.iterators import BufferedIterator
from fairseq.optim import MemoryEfficientFP16Optimizer

from fairseq_resmlp.common.errors import InputError


def stop_loader_threads_at_exit() -> None:
    """Exit cleanly if training ends within an epoch (pytorch issues 38228 and 117762).

    fairseq prepares batches in a thread that runs until the end of the epoch. Python stops that thread abruptly at
    exit. If this happens inside torch, the process aborts, and completed training appears to have failed.
    """
    create = BufferedIterator._create_consumer
    threads: weakref.WeakSet[Any] = weakref.WeakSet()

    @functools.wraps(create)
    def _create_consumer(self):
        create(self)
        threads.add(self._consumer)

    @atexit.register
    def stop():
        for thread in list(threads):
            thread._max_len = 0  # checked after each batch
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    thread._queue.get(timeout=0.1)  # it may be waiting for space in the queue

    BufferedIterator._create_consumer = _create_consumer


def compute_gradient_norms_together() -> None:
    """Compute the norms of all gradients with one operator when gradients are clipped.

    Without NVIDIA's apex, fairseq computes them one by one, with an operator for each parameter in every update.
    """
    if utils.multi_tensor_l2norm_available:
        return

    @functools.wraps(utils.multi_tensor_total_norm)
    def multi_tensor_total_norm(grads, chunk_size=None):
        norms = torch._foreach_norm(grads, 2, dtype=torch.float32)
        return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))

    utils.multi_tensor_total_norm = multi_tensor_total_norm
    utils.multi_tensor_l2norm_available = True  # selects the function above in fairseq's clip_grad_norm_


def explain_memory_efficient_adagrad() -> None:
    """Report in one line that an optimizer needs float32 and does not support --memory-efficient-bf16 (or -fp16).

    Adagrad is one of them: in half precision its sums of squares would soon stop growing.
    """
    original = MemoryEfficientFP16Optimizer.__init__

    @functools.wraps(original)
    def __init__(self, cfg, params, optimizer, allow_unsupported=False, **kwargs):
        if not allow_unsupported and not optimizer.supports_memory_efficient_fp16:
            dtype = "bf16" if cfg.common.bf16 else "fp16"
            raise InputError(
                f"--memory-efficient-{dtype} does not work with {type(optimizer).__name__}: use --{dtype} or another "
                "--optimizer, such as adam"
            )
        original(self, cfg, params, optimizer, allow_unsupported, **kwargs)

    MemoryEfficientFP16Optimizer.__init__ = __init__
