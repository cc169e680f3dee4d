"""Safe loading of files written by torch.save: only if they are intact and contain nothing but plain data."""

import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fairseq_resmlp.common.errors import InputError


@contextmanager
def safe_to_load(path: str, kind: str, allowed: Sequence[Any] = ()) -> Iterator[None]:
    """Check the file at `path`; inside the context, every torch.load is weights-only and its errors name the file.

    torch.load does not verify the checksums (CRC-32, one per record) that torch.save writes. Here they are verified for
    weights, optimizer state and options alike, so that every flipped bit is detected.

    Args:
        path: the file
        kind: what the file should be, for error messages
        allowed: as for `weights_only`

    Raises:
        InputError: the file is damaged or contains more than plain data
    """
    try:
        _check_archive(path)
        with weights_only(allowed):
            yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not safe to load, because it contains more than plain data: {reason(error)}"
        ) from error
    except Exception as error:  # torch, pickle and fairseq raise unrelated exceptions for malformed files
        raise InputError(f"{path} is not {kind}: {reason(error)}") from error


def _check_archive(path: str) -> None:
    with open(path, "rb") as file:
        start = file.read(4)
        if not start:
            raise InputError(f"{path} is empty")
        if start != b"PK\3\4":
            raise InputError(
                f"{path} is not a checkpoint, or was written without checksums: save it again with torch >= 1.6"
            )
        try:
            archive = zipfile.ZipFile(file)
            records = archive.infolist()
            compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            damaged = None if compressed else archive.testzip()
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} is truncated or damaged: {reason(error)}") from error
    if compressed:  # it could expand to any size
        raise InputError(f"{path} is not safe to load: it is a compressed archive, which torch.save never writes")
    if any(record.external_attr for record in records):  # torch reads nothing for a record marked as a directory
        raise InputError(f"{path} is damaged: a record has file attributes, which torch.save never writes")
    if damaged:
        raise InputError(f"{path} is damaged: the checksum of its record {damaged} does not match")


_process = threading.RLock()  # one load at a time: loads share the process's environment and torch's list


@contextmanager
def weights_only(allowed: Sequence[Any] = ()) -> Iterator[None]:
    """Make every torch.load weights-only, whatever its caller or the environment requests.

    Args:
        allowed: globals to allow in addition to torch's own list of plain data, in the format of
            torch.serialization.add_safe_globals. They replace the globals that others have added, which are restored
            afterwards: if both define an object for one name, torch could use either. Globals that are added inside
            the context, for example by an import, are kept.
    """
    force, unforce = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    with _process:
        before = {name: os.environ.pop(name, None) for name in (force, unforce)}
        of_others = torch.serialization.get_safe_globals()
        os.environ[force] = "1"
        _set_safe_globals(allowed)
        try:
            yield
        finally:
            added = [name for name in torch.serialization.get_safe_globals() if name not in allowed]
            _set_safe_globals([*of_others, *added])
            del os.environ[force]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def _set_safe_globals(names: Sequence[Any]) -> None:
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(names))


def reason(error: Exception) -> str:
    """Return the cause of a loading error in one line, without torch's advice to load the file unsafely."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it requests {named[1]}"
    text = re.split(r"WeightsUnpickler error:", text)[-1].strip()
    return re.split(r"\n| Please |Re-running", text)[0] or type(error).__name__
