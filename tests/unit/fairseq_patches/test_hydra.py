"""Patches of fairseq-hydra-train."""

import re

import pytest
import torch
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY

from fairseq_resmlp.fairseq_patches.hydra import register_adagrad_with_hydra
from support.commands import run
from support.paths import PLUGIN, ROOT


def test_an_existing_dataclass_of_adagrad_is_kept(monkeypatch):
    monkeypatch.setitem(OPTIMIZER_DATACLASS_REGISTRY, "adagrad", "fairseq's own")
    register_adagrad_with_hydra()
    assert OPTIMIZER_DATACLASS_REGISTRY["adagrad"] == "fairseq's own"


PROGRAMS = {
    "command": ["fairseq-hydra-train"],
    "plugin first": ["-c", "import fairseq_resmlp; from fairseq_cli.hydra_train import cli_main; cli_main()"],
    "plugin last": ["-c", "import fairseq_cli.hydra_train as program, fairseq_resmlp; program.cli_main()"],
}


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_job_of_a_sweep_trains_the_model_that_the_configuration_names(toy, tmp_path, program):
    command = PROGRAMS[program]
    if command[0] == "-c":
        (tmp_path / "program.py").write_text(command[1])
        command = ["python", tmp_path / "program.py"]
    done = run(
        *(*command, "-m", "--config-dir", ROOT / "examples" / "grammar", "--config-name", "hydra"),
        *(f"task.data={toy / 'data-bin'}", f"common.user_dir={PLUGIN}", f"hydra.sweep.dir={tmp_path / 'sweep'}"),
        *("common.cpu=true", "dataset.num_workers=0", "+model.encoder_max_positions=24"),
        *("optimization.max_update=3", "optimization.lr=[0.1],[1e-9]"),
        cwd=tmp_path,
    )
    log = done.stdout + done.stderr
    for job in (0, 1):
        state = torch.load(tmp_path / "sweep" / str(job) / "checkpoints" / "checkpoint_best.pt")
        sizes = [
            state["cfg"]["model"][name] for name in ("encoder_embed_dim", "decoder_layers", "encoder_max_positions")
        ]
        assert sizes == [128, 2, 24]
        assert state["extra_state"]["best"] == state["extra_state"]["val_loss"]
        assert state["optimizer_history"][-1]["num_updates"] == 3
    assert len(set(re.findall(r"num\. shared model params: ([\d,]+)", log))) <= 1


@pytest.mark.slow
def test_finished_jobs_of_a_sweep_do_not_end_the_others(toy, tmp_path):
    """Run again with more updates, only one of two jobs is finished."""
    command = [
        *("fairseq-hydra-train", "-m", "--config-dir", ROOT / "examples" / "grammar", "--config-name", "hydra"),
        *(f"task.data={toy / 'data-bin'}", f"common.user_dir={PLUGIN}", "common.cpu=true", "dataset.num_workers=0"),
        *(f"hydra.sweep.dir={tmp_path / 'sweep'}", f"checkpoint.save_dir={tmp_path}/${{common.seed}}"),
        *("+model.encoder_max_positions=24", "+model.decoder_max_positions=24"),
    ]
    run(*command, "common.seed=1", "optimization.max_update=1", cwd=tmp_path)
    run(*command, "common.seed=1,2", "optimization.max_update=1", cwd=tmp_path)
    for seed in ("1", "2"):
        assert torch.load(tmp_path / seed / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 1
    done = run(*command, "common.seed=1,2", f"checkpoint.save_dir={tmp_path}/1", cwd=tmp_path, check=False)
    assert "two jobs of this sweep have the same checkpoint.save_dir" in done.stdout + done.stderr
