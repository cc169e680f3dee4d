"""Patches of fairseq's command line: options, errors and warnings."""

import os
import sys
from argparse import Namespace

import pytest
import torch
from fairseq import options
from fairseq.data import data_utils
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.scoring import build_scorer
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches import option_checks
from support.commands import run, train_options
from support.models import make_model, make_task
from support.paths import PLUGIN


def run_program(path, code):
    """Write a Python program and run it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(code, encoding="utf-8")
    return run("python", path, check=False)


def test_help_lists_the_options_of_the_architecture_with_their_defaults():
    text = " ".join(run("fairseq-train", "--user-dir", PLUGIN, "--arch", "resmlp_base", "--help").stdout.split())
    assert "--encoder-max-positions" in text
    assert "number of encoder layers (default: 6; 12 in resmlp_base_12, resmlp_wmt_en_de_12" in text


def test_an_input_error_is_printed_in_one_line(tmp_path):
    code = "import fairseq, fairseq_resmlp.common.errors; raise fairseq_resmlp.common.errors.InputError('invalid')"
    done = run_program(tmp_path / "program.py", code)
    assert done.returncode == 1
    assert done.stderr == "error: invalid\n"


@pytest.mark.parametrize("error", ["ValueError('a bug')", "FileNotFoundError(2, 'No such file', 'mine.json')"])
def test_other_errors_keep_their_traceback(tmp_path, error):
    done = run_program(tmp_path / "program.py", f"import fairseq, fairseq_resmlp; raise {error}")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("program", ["fairseq-train", "fairseq_cli/train.py"])
def test_fairseq_commands_report_a_missing_file_in_one_line(tmp_path, program):
    for statement, message in (
        ("open('absent')", "[Errno 2] No such file or directory: 'absent'"),
        ("raise BrokenPipeError", "BrokenPipeError"),
    ):
        done = run_program(tmp_path / program, f"import fairseq, fairseq_resmlp\n{statement}")
        assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "tpu"), [(["--bf16"], False), (["--memory-efficient-bf16"], False), (["--bf16", "--tpu"], True)]
)
def test_bf16_selects_a_tpu_only_if_requested(monkeypatch, arguments, tpu):
    monkeypatch.setattr(option_checks, "missing_modules", lambda names: [])
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


def error_of(function, *args, **kwargs):
    with pytest.raises(Exception) as raised:
        function(*args, **kwargs)
    return raised.value


def test_errors_of_fairseq_that_name_an_option_are_printed_in_one_line(monkeypatch, capsys):
    dictionary = make_task().target_dictionary
    diverse = DiverseBeamSearch(dictionary, num_groups=2, diversity_strength=0.5)
    for error, message in (
        (
            error_of(SequenceGenerator, [make_model()], dictionary, temperature=0),
            "--temperature must be greater than 0",
        ),
        (error_of(diverse.step, 0, torch.zeros(1, 3, 44), None), "DiverseBeamSearch requires --beam to be divisible"),
    ):
        for program, is_one_line in (("/venv/bin/fairseq-generate", True), ("/home/user/my_program.py", False)):
            monkeypatch.setattr(sys, "argv", [program])
            sys.excepthook(type(error), error, error.__traceback__)
            printed = capsys.readouterr().err
            assert (printed.startswith(f"error: {message}") and printed.count("\n") == 1) == is_one_line
            assert ("Traceback" in printed) != is_one_line


def test_errors_of_other_packages_and_bugs_of_fairseq_keep_their_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/fairseq-train"])
    for error in (error_of(torch.zeros, "--lr"), error_of(data_utils.post_process, None, "letter")):
        sys.excepthook(type(error), error, error.__traceback__)
        assert "Traceback" in capsys.readouterr().err


def test_hydra_prints_only_the_message_of_an_input_error():
    failed = JobReturn(overrides=[], status=JobStatus.FAILED)
    failed.return_value = InputError("--max-tokens 0 is less than 1")
    error = error_of(lambda: failed.return_value)
    assert isinstance(error, CompactHydraException) and isinstance(error, InputError)
    assert str(error) == "error: --max-tokens 0 is less than 1"
    failed.return_value = KeyError("a bug")
    assert type(error_of(lambda: failed.return_value)) is KeyError
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 3
    assert done.return_value == 3


def test_training_on_more_processes_than_gpus_is_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    cfg = DistributedTrainingConfig(distributed_world_size=2, tpu=False, pipeline_model_parallel=False)
    with pytest.raises(InputError, match=r"--distributed-world-size 2 with 0 GPUs: .* --distributed-backend gloo"):
        distributed_utils.infer_init_method(cfg)
    for name, value in (("MASTER_ADDR", "x"), ("MASTER_PORT", "1"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)  # as torchrun does
    with pytest.raises(InputError, match="with 0 GPUs"):
        distributed_utils.infer_init_method(cfg)


def test_wrong_types_missing_packages_and_full_output_are_reported_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/fairseq-train"])
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # standard output of the tests stays open
    for error, message in (
        (OSError(28, "No space left on device"), "cannot write standard output: No space left on device"),
        (error_of(build_scorer, Namespace(scoring="wer"), None), "Please install editdistance to use WER scorer"),
        (error_of(OmegaConf.create, object()), "Object of unsupported type: 'object'"),
    ):
        sys.excepthook(type(error), error, error.__traceback__)
        assert capsys.readouterr().err == f"error: {message}\n"
