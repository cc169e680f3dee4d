"""Safe loading of files written by torch.save: only if they are intact and contain nothing but plain data."""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import FunctionType
from typing import Any

import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file


@contextmanager
def safe_to_load(path: str, kind: str) -> Iterator[None]:
    """Check the file at `path`; inside the context, errors of loading it name the file.

    torch.load does not verify the checksums (CRC-32, one per record) that torch.save writes. Here they are verified for
    weights, optimizer state and options alike, so that every flipped bit is detected.

    Args:
        path: the file
        kind: what the file should be, for error messages

    Raises:
        InputError: the file is damaged or contains more than plain data
    """
    try:
        _check_archive(path)
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
    check_regular_file(path)
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


def weights_only_load(allowed: Sequence[Any] = ()) -> Callable[..., Any]:
    """Return a `torch.load` that is weights-only, whatever its caller or the environment requests.

    torch has one list of allowed globals per process, which every thread shares. The returned function has a list of
    its own: it uses neither the process's list nor its environment, and changes neither. It is a copy of torch's
    function that refers to a second instance of torch's restricted unpickler.

    Args:
        allowed: globals to allow in addition to torch's own plain data, in the format of
            torch.serialization.add_safe_globals
    """
    spec = find_spec("torch._weights_only_unpickler")
    assert spec is not None and spec.loader is not None
    unpickler = module_from_spec(spec)
    spec.loader.exec_module(unpickler)
    unpickler._add_safe_globals(list(allowed))
    original: Any = torch.serialization.load
    names = {**original.__globals__, "_weights_only_unpickler": unpickler}
    load: Any = FunctionType(original.__code__, names, "load", original.__defaults__, original.__closure__)
    load.__kwdefaults__ = original.__kwdefaults__

    def load_weights_only(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{**kwargs, "weights_only": True})

    return load_weights_only


def reason(error: Exception) -> str:
    """Return the cause of a loading error in one line, without torch's advice to load the file unsafely."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it requests {named[1]}"
    text = re.split(r"WeightsUnpickler error:", text)[-1].strip()
    return re.split(r"\n| Please |Re-running", text)[0] or type(error).__name__
