"""Patches of fairseq's command line: options, errors and warnings."""

import os
import subprocess
import sys

import pytest
import torch
from fairseq import options

from support.commands import run, train_options
from support.paths import PLUGIN, ROOT


def run_python(*arguments, **kwargs):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **kwargs)


def test_help_lists_the_options_of_the_architecture_with_their_defaults():
    text = " ".join(run("fairseq-train", "--user-dir", PLUGIN, "--arch", "resmlp_base", "--help").stdout.split())
    assert "--encoder-max-positions" in text
    assert "number of encoder layers (default: 6; 12 in resmlp_base_12, resmlp_wmt_en_de_12" in text


def test_an_input_error_is_printed_in_one_line():
    code = "import fairseq, fairseq_resmlp.common.errors; raise fairseq_resmlp.common.errors.InputError('invalid')"
    done = run_python("-c", code, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: invalid\n"


@pytest.mark.parametrize("error", ["ValueError('a bug')", "FileNotFoundError(2, 'No such file', 'mine.json')"])
def test_other_errors_keep_their_traceback(error):
    done = run_python("-c", f"import fairseq, fairseq_resmlp; raise {error}", cwd=ROOT)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("program", ["fairseq-train", "fairseq_cli/train.py"])
def test_fairseq_commands_report_a_missing_file_in_one_line(tmp_path, program):
    (tmp_path / program).parent.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for statement, message in (
        ("open('absent')", "[Errno 2] No such file or directory: 'absent'"),
        ("raise BrokenPipeError", "BrokenPipeError"),
    ):
        (tmp_path / program).write_text(f"import fairseq, fairseq_resmlp\n{statement}")
        done = run_python(tmp_path / program, env=environment)
        assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "tpu"), [(["--bf16"], False), (["--memory-efficient-bf16"], False), (["--bf16", "--tpu"], True)]
)
def test_bf16_selects_a_tpu_only_if_requested(arguments, tpu):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", "--arch", "resmlp_tiny", *arguments])
    assert args.bf16 and args.tpu is tpu


def test_bf16_training_on_a_cpu_resumes_and_its_checkpoint_translates(toy, tmp_path):
    command = ["fairseq-train", *train_options(toy / "data-bin", tmp_path), "--bf16"]
    run(*command, "--max-epoch", "1")
    again = run(*command, "--max-epoch", "2")
    assert "Loaded checkpoint" in again.stdout + again.stderr
    weight = torch.load(tmp_path / "checkpoint_last.pt")["model"]["decoder.layers.0.ffn.B.weight"]
    assert torch.equal(weight, weight.bfloat16().float())
    done = run(
        *("fairseq-generate", toy / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("--path", tmp_path / "checkpoint_last.pt"),
    )
    assert "Translated 21 sentences" in done.stdout + done.stderr
