"""fairseq-train that kills itself: python killed.py SIGNAL PLACE COUNT [OPTION...], at the COUNT-th passing of PLACE.

The places are in the middle of an update, of a validation, of writing a checkpoint, of copying one, and on both sides
of the renaming that ends either; "moment" is up to a second and a half after the first update, drawn by COUNT.
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


def at_last(function):
    """Die instead of the COUNT-th call."""

    def counted(*args, **kwargs):
        global COUNT
        COUNT -= 1
        if COUNT == 0:
            die()
        return function(*args, **kwargs)

    return counted


def half_written(save):
    """Die when the COUNT-th checkpoint is written by half."""

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
    def counted(source, target):
        global COUNT
        COUNT -= 1
        if COUNT == 0:
            with open(source, "rb") as whole, open(target, "wb") as part:
                part.write(whole.read(os.path.getsize(source) // 2))
                part.flush()
                die()
        return copyfile(source, target)

    return counted


def renamed(replace):
    def counted(source, target):
        global COUNT
        replace(source, target)
        COUNT -= 1
        if COUNT == 0:
            die()

    return counted


def after_a_while(function):
    """Die some time after the first call, wherever that is."""

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
    "moment": (Trainer, "train_step", after_a_while),
    "update": (Trainer, "clip_grad_norm", at_last),  # between the gradients and the step
    "validation": (Trainer, "valid_step", at_last),
    "writing": (torch, "save", half_written),
    "copying": (shutil, "copyfile", half_copied),
    "renaming": (os, "replace", at_last),
    "renamed": (os, "replace", renamed),
}

if __name__ == "__main__":
    SIGNAL, place, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
    module, name, deadly = PLACES[place]
    setattr(module, name, deadly(getattr(module, name)))
    sys.argv[:4] = ["fairseq-train"]
    fairseq_cli.train.cli_main()
