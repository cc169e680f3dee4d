"""fairseq-train that kills itself: python fault_injection.py SIGNAL PLACE COUNT [OPTION...]

The process sends itself SIGNAL when it reaches PLACE for the COUNT-th time. The places are in the middle of an update,
of validation, of writing a checkpoint and of copying one, and just before and after the rename that completes either.
With "moment", the kill happens up to 1.5 seconds after the first update, at a time drawn with COUNT as the seed.
"""

import os
import random
import shutil
import signal
import sys
import threading

import fairseq_cli.train
import torch
from fairseq.trainer import Trainer


def die():
    os.kill(os.getpid(), signal.Signals[SIGNAL])


def instead_of_call(function):
    """Die instead of the COUNT-th call."""

    def counted(*args, **kwargs):
        global COUNT
        COUNT -= 1
        if COUNT == 0:
            die()
        return function(*args, **kwargs)

    return counted


def half_written(save):
    """Die when half of the COUNT-th checkpoint is written."""

    def counted(obj, file):
        global COUNT
        COUNT -= 1
        save(obj, file)
        if COUNT == 0:
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    return counted


def half_copied(copyfile):
    """Die when half of the COUNT-th copy is written."""

    def counted(source, target):
        global COUNT
        COUNT -= 1
        if COUNT == 0:
            with open(source, "rb") as original, open(target, "wb") as partial:
                partial.write(original.read(os.path.getsize(source) // 2))
                partial.flush()
                die()
        return copyfile(source, target)

    return counted


def after_call(replace):
    """Die after the COUNT-th call."""

    def counted(source, target):
        global COUNT
        replace(source, target)
        COUNT -= 1
        if COUNT == 0:
            die()

    return counted


def after_random_delay(function):
    """Die up to 1.5 seconds after the first call."""

    def started(*args, **kwargs):
        global COUNT
        if COUNT:
            timer = threading.Timer(random.Random(COUNT).uniform(0, 1.5), die)
            timer.daemon = True
            timer.start()
            COUNT = 0
        return function(*args, **kwargs)

    return started


PLACES = {
    "moment": (Trainer, "train_step", after_random_delay),
    "update": (Trainer, "clip_grad_norm", instead_of_call),  # between the gradients and the step
    "validation": (Trainer, "valid_step", instead_of_call),
    "writing": (torch, "save", half_written),
    "copying": (shutil, "copyfile", half_copied),
    "renaming": (os, "replace", instead_of_call),
    "renamed": (os, "replace", after_call),
}

if __name__ == "__main__":
    SIGNAL, place, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
    module, name, inject = PLACES[place]
    setattr(module, name, inject(getattr(module, name)))
    sys.argv[:4] = ["fairseq-train"]
    fairseq_cli.train.cli_main()
