"""Garbage collection during the import of torch."""

import subprocess
import sys

import pytest

IMPORT = """
import gc
from fairseq_resmlp.common.garbage_collection import import_without_garbage_collection
with import_without_garbage_collection():
    during = gc.isenabled()
    import torch
"""
TRANSLATE = """
import contextlib, gc, sys
from fairseq_resmlp.cli.main import main
collections = []
gc.callbacks.append(lambda *_: collections.append(1) if "torch" in sys.modules and not gc.get_freeze_count() else None)
with contextlib.suppress(BaseException):
    main(["translate", "."])
assert "torch" in sys.modules
during = bool(collections)
"""


@pytest.mark.parametrize("code", [IMPORT, TRANSLATE], ids=["context manager", "translate"])
def test_no_garbage_is_collected_while_torch_is_imported_and_collection_continues_afterwards(code):
    check = "print(during, gc.isenabled(), gc.get_freeze_count() > 100_000)"
    command = [sys.executable, "-c", f"{code}\n{check}"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize("before", ["import torch", "gc.disable()"])
def test_nothing_changes_if_torch_is_imported_already_or_collection_is_off(before):
    code = f"""
import gc
{before}
from fairseq_resmlp.common.garbage_collection import import_without_garbage_collection
before = gc.isenabled()
with import_without_garbage_collection():
    assert gc.isenabled() == before
print(gc.isenabled() == before, gc.get_freeze_count())
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ["True", "0"]
