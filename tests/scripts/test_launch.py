"""How train.sh starts training on GPUs and clusters, with stand-ins for what this machine does not have."""

import os
import sys

import pytest

from support.commands import run
from support.paths import ROOT, SCRIPTS


def stand_in(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def train(tmp_path):
    """Function that runs train.sh with GPUs of the given memory in GiB, and a fairseq-train that prints its options."""
    for name in ("data-bin", "pieces"):
        (tmp_path / name).mkdir()
    (tmp_path / "pieces" / "train.json").write_text("{}")
    bin = tmp_path / "bin"
    stand_in(bin / "fairseq-train", 'echo "fairseq-train: $* SLURM ${SLURM_JOB_NODELIST-none}"')
    stand_in(bin / "fairseq-resmlp", "")

    def train(*arguments, gpus=1, memory=8, **variables):
        answer = f'case ${{2-}} in *cuda*) echo "{gpus} {memory}" ;; *) exec {sys.executable} "$@" ;; esac'
        stand_in(bin / "python", answer)
        env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "a[1-2]", **variables}
        command = [SCRIPTS / "train.sh", "wmt14.en-de", "resmlp_wmt_en_de", "--out", tmp_path, *arguments]
        done = run(*command, check=False, env=env)
        options = [line for line in done.stdout.split("\n") if line.startswith("fairseq-train: ")]
        return options, done.stderr

    return train


@pytest.mark.parametrize(
    ("gpus", "options", "precision"),
    [
        (1, [], {"--amp"}),
        (1, ["--amp"], {"--amp"}),
        (1, ["--bf16"], {"--bf16"}),
        (1, ["--fp32"], set()),
        (0, [], set()),
        (0, ["--bf16"], {"--bf16"}),
    ],
)
def test_training_has_one_precision(train, gpus, options, precision):
    (started,), _ = train("--", *options, gpus=gpus)
    assert set(started.split()) & {"--amp", "--bf16", "--fp16", "--fp32"} == precision
    assert ("--cpu" in started) == (gpus == 0)
    assert started.endswith("SLURM none")


@pytest.mark.parametrize(
    ("gpus", "arguments", "variables", "message"),
    [
        (1, ["--", "--amp", "--bf16"], {}, "error: --amp and --bf16: specify one of them"),
        (1, ["--", "--fp16"], {}, "error: --fp16 rounds Adagrad's sums of squares: use --amp, --bf16 or --fp32"),
        (0, ["--", "--amp"], {}, "error: --amp needs a GPU: use --bf16 or --fp32"),
        (2, ["--processes", "3"], {}, "error: --processes 3: this machine has 2 GPU(s), and a process needs one of"),
        (2, ["--processes", "two"], {}, "error: --processes two is not a positive integer"),
        (1, [], {"SLURM_STEP_NUM_TASKS": "2"}, "error: srun has started 2 tasks: start one per machine, with torchrun"),
    ],
)
def test_what_cannot_be_started_is_refused(train, gpus, arguments, variables, message):
    started, said = train(*arguments, gpus=gpus, **variables)
    assert started == [] and message in said


@pytest.mark.parametrize(
    ("memory", "max_tokens", "update_freq"), [(8, 3584, 8), (16, 7168, 4), (79.1, 28672, 1), (4, 1792, 16)]
)
def test_batches_follow_the_memory_of_the_gpu_and_updates_do_not(train, memory, max_tokens, update_freq):
    (started,), _ = train(memory=memory)
    assert f"--max-tokens {max_tokens} --update-freq {update_freq} " in started


def test_a_process_is_started_for_each_gpu(train):
    (started,), _ = train(
        gpus=2, SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="2"
    )  # a batch script; the others print to logs
    assert "--update-freq 4 " in started
    assert "--distributed-world-size 2 --distributed-rank 0 --distributed-no-spawn" in started
    assert "--device-id 0" in started and "gloo" not in started


def test_the_slurm_script_starts_torchrun_once_on_each_machine(tmp_path):
    bin = tmp_path / "bin"
    # It prints more than a pipe holds, so that it is still printing when the script has read the first line.
    stand_in(bin / "scontrol", "echo a1; seq -f a%g 2 20000")
    stand_in(bin / "srun", 'echo "srun $*"; while [[ $1 == --* ]]; do shift 2; done; "$@"; "$@"')
    stand_in(bin / "torchrun", 'echo "torchrun $*"')
    env = {
        "PATH": f"{bin}:/usr/bin:/bin",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "a[1-2]",
        "SLURM_NNODES": "2",
    }
    for variables, gpus in (({"SLURM_GPUS_ON_NODE": "4"}, 4), ({"SLURM_GPUS_PER_NODE": "a100:2"}, 2), ({}, 8)):
        done = run("bash", ROOT / "examples" / "wmt14.en-de" / "slurm.sh", env={**env, **variables}, cwd=tmp_path)
        step, *launched = done.stdout.strip().split("\n")
        assert "--ntasks 2 --ntasks-per-node 1" in step
        torchrun = f"torchrun --nnodes 2 --nproc-per-node {gpus} --rdzv-id 1234567 --rdzv-backend c10d"
        command = "--no-python scripts/train.sh wmt14.en-de resmlp_wmt_en_de"
        assert launched == [f"{torchrun} --rdzv-endpoint a1:24567 {command}"] * 2
