"""The command group: errors in one line, and old names that lead to the new ones."""

import errno
import os
import re
import sys
import traceback

import pytest
import torch
from click.testing import CliRunner

import fairseq_resmlp
from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common import environment
from fairseq_resmlp.common.errors import InputError
from support.commands import run
from support.paths import GOLDEN


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    "words, message",
    [
        (["collect"], "collect was renamed to extract"),
        (["shortlist", __file__, __file__, "--output", "x", "--always", "3"], "--always was renamed to --first"),
        (["shortlist", __file__, __file__, "--output", "x", "--each", "3"], "--each was renamed to --best"),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--against", "x"],
            "renamed to --baseline",
        ),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--record", "a=b"],
            "renamed to --metadata",
        ),
        (
            ["score", __file__, "--reference", __file__, "--target-lang", "en", "--record-json", "a=b"],
            "renamed to --metadata-json",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_old_name_ends_with_the_new_one(words, message):
    done = invoke(*words)
    assert done.exit_code == 2
    assert message in done.output.splitlines()[-1]


def test_help_does_not_list_old_names():
    listed = invoke("--help").output + invoke("shortlist", "--help").output + invoke("score", "--help").output
    assert not {"collect", "--always", "--each", "--against", "--record"} & set(listed.split())


def test_the_version_is_that_of_the_package():
    assert invoke("--version").output == f"fairseq-resmlp, version {fairseq_resmlp.__version__}\n"


def test_a_missing_package_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for name in list(sys.modules):
        if name.startswith("fairseq_resmlp.data") or name == "fairseq_resmlp.common.sentencepiece_model":
            monkeypatch.delitem(sys.modules, name)
    done = invoke("spm-encode", __file__, "--model", __file__, "--out-dir", tmp_path)
    assert done.exit_code == 1
    assert done.output.startswith("Error: this command requires sentencepiece, which is not installed")


def test_invalid_input_is_reported_in_one_line(tmp_path):
    done = invoke("export", GOLDEN, GOLDEN)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith(f"Error: {GOLDEN} already exists: choose another directory")


@pytest.fixture
def failing_command(monkeypatch):
    """Function that runs a command in which an error is raised."""

    def run_with(error):
        def fail():
            raise error

        monkeypatch.setattr(environment, "diagnose", fail)
        return invoke("doctor")

    return run_with


@pytest.mark.parametrize(
    "error, message",
    [
        (InputError("bad\nname\x1b[31m\udcff"), "bad\\nname\\x1b[31m\\udcff"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "x: Too many levels of symbolic links"),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"x\xff"), "x\\udcff: File name too long"),
        (OSError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid text: 'utf-8' codec can't decode"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "invalid text: 'utf-8' codec can't"),
        (RecursionError("maximum recursion depth exceeded"), "the input is nested too deeply"),
        (MemoryError(), "not enough memory: "),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
            "not enough ",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory: "),
        (ModuleNotFoundError("No module named 'a'", name="a"), "this command requires a, which is not installed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_users_can_fix_is_reported_in_one_line(error, message, failing_command):
    done = failing_command(error)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {message}") and done.output.count("\n") == 1


def test_an_interrupted_command_exits_like_one_in_a_shell(failing_command):
    done = failing_command(KeyboardInterrupt())
    assert (done.exit_code, done.output) == (130, "")


@pytest.mark.parametrize(
    "error", [ValueError("x"), OverflowError("x"), RuntimeError("x"), ModuleNotFoundError("x", name="fairseq_resmlp.x")]
)
def test_a_bug_keeps_its_traceback_and_asks_for_a_report(error, failing_command):
    done = failing_command(error)
    assert done.exception is error
    assert "report it with this traceback" in "".join(traceback.format_exception(error))


def test_without_arguments_the_help_is_shown():
    assert "\nCommands:\n" in invoke().output


@pytest.mark.parametrize(
    "number, message",
    [
        ("9" * 11, "the number exceeds the maximum, 2147483647."),
        ("9" * 400, "the number exceeds the maximum, 2147483647."),
        ("9" * 5000, "is not a valid integer range."),
        ("0", "0 is not in the range x>=1."),
    ],
    ids=len,
)
def test_a_number_that_is_too_large_is_refused(number, message):
    done = invoke("shortlist", __file__, __file__, "--output", "x", "--best", number)
    assert done.exit_code == 2
    assert done.output.splitlines()[-1].startswith("Error: Invalid value for '--best': ")
    assert done.output.endswith(f"{message}\n")


def test_more_threads_than_a_machine_can_create_are_refused():
    done = invoke("translate", GOLDEN, "--threads", "99999999999")
    assert done.output.endswith("Invalid value for '--threads': the number exceeds the maximum, 1024.\n")


@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number):
    done = invoke("spm-encode", __file__, "--model", __file__, "--out-dir", ".", "--max-ratio", number)
    assert done.exit_code == 2
    assert done.output.endswith(f"Invalid value for '--max-ratio': '{number}' is not a finite number.\n")


def test_a_pipe_is_accepted_only_from_the_shell_and_by_commands_that_read_it_once(tmp_path):
    (tmp_path / "text").write_text("a b c d\n")
    os.mkfifo(tmp_path / "fifo")
    refused = f"{tmp_path}/fifo is a pipe: specify a regular file"
    assert refused in invoke("score", tmp_path / "fifo", "--reference", tmp_path / "text", "--target-lang", "en").output
    reader, writer = os.pipe()
    os.write(writer, b"a b c d\n" * 2)
    os.close(writer)
    try:
        pipe = f"/dev/fd/{reader}"
        refused = f"{pipe} is a pipe: specify a regular file"
        assert refused in invoke("spm-train", pipe, "--model", tmp_path / "model").output
        scored = invoke("score", pipe, "--reference", tmp_path / "text", "--target-lang", "en").output
        assert scored.startswith(f"Error: {pipe} has 2 lines and {tmp_path}/text has 1: ")
    finally:
        os.close(reader)


def test_doctor_names_versions_and_what_is_missing_for_which_extra(monkeypatch):
    present = environment.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "fastapi" else present(name))
    lines = dict(re.split(" {2,}", line, maxsplit=1) for line in invoke("doctor").output.splitlines())
    assert lines["torch"] == torch.__version__
    assert lines["fairseq-resmlp"].startswith(fairseq_resmlp.__version__)
    assert lines["extra server"] == "missing fastapi: pip install 'fairseq-resmlp[server]'"
    assert lines["fairseq"].startswith("0.12.3.1, ")
    assert {"Python", "CPU", "cores", "GPU", "extra report", "extra reproduce", "extra bench"} <= set(lines)


def test_doctor_works_without_fairseq(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert re.search("^fairseq +not installed: exported models can be translated", invoke("doctor").output, re.M)


def test_a_reader_that_has_seen_enough_gets_no_error():
    done = run("bash", "-c", "fairseq-resmlp doctor | head -n 1; exit ${PIPESTATUS[0]}", check=False)
    assert done.stdout.startswith("fairseq-resmlp")
    assert done.stderr == ""
