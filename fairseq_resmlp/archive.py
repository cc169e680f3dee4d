"""The archives that torch.save writes: loaded only when they are whole and hold plain data. Needs no fairseq."""

import os
import pickle
import re
import threading
import zipfile
from contextlib import contextmanager
from typing import Iterator, Sequence

import torch

from .errors import InputError


@contextmanager
def safe_to_load(path: str, what: str, allowed: Sequence = ()) -> Iterator[None]:
    """Check the file at `path`; inside, whatever torch.load is called, it is weights-only and its errors name the file.

    torch does not compare what it reads with the checksums (CRC-32, one a record) that it has written. Here they
    are compared, those of weights, optimizer's state and options alike, so no single flipped bit gets past.

    Args:
        path: the file
        what: what it should be, for errors
        allowed: as in `weights_only`

    Raises:
        InputError: the file is damaged or holds more than plain data
    """
    try:
        _check_archive(path)
        with weights_only(allowed):
            yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is refused, since it is more than plain data: {reason(error)}") from error
    except Exception as error:  # what torch, pickle and fairseq raise about a strange file has no common class
        raise InputError(f"{path} is not {what}: {reason(error)}") from error


def _check_archive(path: str) -> None:
    with open(path, "rb") as file:
        start = file.read(4)
        if not start:
            raise InputError(f"{path} is empty")
        if start != b"PK\3\4":
            raise InputError(f"{path} is not a checkpoint, or is one without checksums: save it again by torch >= 1.6")
        try:
            archive = zipfile.ZipFile(file)
            records = archive.infolist()
            compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            damaged = None if compressed else archive.testzip()
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} is cut off or damaged: {reason(error)}") from error
    if compressed:  # it can unpack to any size
        raise InputError(f"{path} is refused: it is a compressed archive, which torch.save never writes")
    if any(record.external_attr for record in records):  # one says "folder": torch then reads nothing where weights are
        raise InputError(f"{path} is damaged: a record has attributes, which torch.save never writes")
    if damaged:
        raise InputError(f"{path} is damaged: the checksum of its record {damaged} does not match")


_process = threading.RLock()  # one load at a time: they share the process's environment and torch's list


@contextmanager
def weights_only(allowed: Sequence = ()) -> Iterator[None]:
    """Have torch.load load weights-only in every version of torch, whatever its caller or the environment asks for.

    Args:
        allowed: what may be named beyond torch's own list of plain data, as torch.serialization.add_safe_globals takes
            it. It takes the place of what others have added, which stands again afterwards: where both have another
            object for one name, torch would take either. What is added inside, as by an import, stays.
    """
    force, unforce = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    with _process:
        before = {name: os.environ.pop(name, None) for name in (force, unforce)}
        of_others = torch.serialization.get_safe_globals()
        os.environ[force] = "1"
        _allow(allowed)
        try:
            yield
        finally:
            _allow([*of_others, *(name for name in torch.serialization.get_safe_globals() if name not in allowed)])
            del os.environ[force]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def _allow(names: Sequence) -> None:
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(names))


def reason(error: Exception) -> str:
    """What is wrong, in one line, without torch's advice to load everything."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it asks for {named[1]}"
    text = re.split(r"WeightsUnpickler error:", text)[-1].strip()
    return re.split(r"\n| Please |Re-running", text)[0] or type(error).__name__
