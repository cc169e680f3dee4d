"""Patches of reading and writing checkpoints."""

import argparse
import os
import shutil

import pytest
from fairseq import tasks, utils
from fairseq.dataclass import utils as dataclass_utils
from fairseq.file_io import PathManager

from fairseq_resmlp.common.errors import InputError


def test_options_are_evaluated_as_literals_and_not_as_code(tmp_path):
    assert utils.eval_str_list("[0.9, -0.98]") == [0.9, -0.98]
    assert utils.eval_str_list("[(512, 3)] * 2 + [(1, 2)]", type=tuple) == [(512, 3), (512, 3), (1, 2)]
    for evaluate in (utils.eval_str_list, dataclass_utils.eval_str_list):
        assert evaluate("1/100") == [0.01] and evaluate("[1e-3 * 2, 2**-3]") == [0.002, 0.125]
    assert utils.eval_bool("False") is False and utils.eval_bool(None, default=True) is True
    for code in (f"open({str(tmp_path / 'evidence')!r}, 'w')", "[x for x in (1,)]", "().__class__", "f'{1}'"):
        with pytest.raises(InputError, match="is not a literal and was not evaluated"):
            utils.eval_str_list(code)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_never_half_written_under_its_own_name(tmp_path, monkeypatch):
    source, target = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")

    def copy_half(src, dst):
        with open(dst, "wb") as out:
            out.write(b"new" * 500)
        raise OSError("No space left on device")

    message = r"cannot write \S+checkpoint_last\.pt, which is unchanged: No space left on device"
    with monkeypatch.context() as patch, pytest.raises(InputError, match=message):
        patch.setattr(shutil, "copyfile", copy_half)
        PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"old"
    target_when_flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: target_when_flushed.append(target.read_bytes()))
    assert PathManager.copy(str(source), str(target), overwrite=True)  # fairseq asserts that the result is true
    assert target.read_bytes() == source.read_bytes()
    assert target_when_flushed == [b"old"]  # flushed to disk before the rename


def test_a_task_without_a_dataclass_is_left_to_fairseq():
    cfg = argparse.Namespace(task="no such task", source_lang=None)
    with pytest.raises((AssertionError, KeyError)):  # fairseq's own error, not InputError
        tasks.setup_task(cfg)
