"""Models for commands that translate: exported ones as they are, others exported to a temporary directory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from fairseq_resmlp.common.model_files import find_model_files, matching_files

CONFIG = "config.json"  # of an exported model, see `fairseq_resmlp.inference.model_format`


@contextmanager
def exported_model(path: str) -> Iterator[str]:
    """Yield the directory of an exported model.

    Args:
        path: an exported model; or a run directory, a model directory or a checkpoint, which is exported in float32 to
            a temporary directory

    Raises:
        InputError: it is none of these; see also `export_model`
    """
    if os.path.exists(os.path.join(path, CONFIG)):
        yield path
        return
    find_model_files(path).require_checkpoint(also=f", and no {CONFIG} of an exported model")
    from fairseq_resmlp.model.export import export_model  # loads fairseq

    with tempfile.TemporaryDirectory() as temporary:
        exported = os.path.join(temporary, "model")
        export_model(path, exported, dtype="float32")
        yield exported


def files_of_model(path: str) -> list[str]:
    """Return the files that `exported_model` reads."""
    if os.path.exists(os.path.join(path, CONFIG)):
        return [entry.path for entry in os.scandir(path)]
    files = find_model_files(path)
    dictionaries = matching_files(files.dictionaries, "dict.*.txt") if files.dictionaries else []
    return [file for file in (files.checkpoint, files.sentencepiece, *dictionaries) if file]
