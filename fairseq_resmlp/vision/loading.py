"""Loading trained image models."""

from typing import Any

from fairseq import checkpoint_utils, tasks
from torch import nn

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.vision.task import NAME


def classifies_images(checkpoint: str) -> bool:
    """Return whether a checkpoint is one of the image task.

    Raises:
        InputError: it is not safe to load
    """
    options = read_checkpoint(checkpoint).get("cfg") or {}
    return (options.get("task") or {}).get("_name") == NAME


def load_image_model(checkpoint: str) -> tuple[Any, Any, nn.Module]:
    """Return (options, task, model) of a checkpoint, on the CPU and in evaluation mode. No images are needed.

    Raises:
        InputError: the checkpoint is not safe to load
    """
    state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)
    task = tasks.setup_task(state["cfg"].task)
    if "classes" not in state.get("task_state", {}):  # published weights do not name them
        task.state.merge_state_dict(
            {"classes": [str(number) for number in range(len(state["model"]["classifier.bias"]))]}
        )
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([checkpoint], task=task, state=state)
    return cfg, task, model.eval()
