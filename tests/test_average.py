"""The mean of several checkpoints."""

import os
import re

import pytest
import torch
from conftest import PLUGIN, make_model, run

from fairseq_resmlp.average import average_checkpoints
from fairseq_resmlp.errors import InputError


def store(path, model, **extra):
    torch.save({"model": model.state_dict(), "last_optimizer_state": {"state": {}}, **extra}, path)
    return str(path)


def test_every_parameter_is_the_mean(tmp_path):
    models = [make_model(seed=seed) for seed in range(3)]
    paths = [store(tmp_path / f"{i}.pt", model, number=i) for i, model in enumerate(models)]
    state = average_checkpoints(paths)
    for name, value in state["model"].items():
        expected = sum(model.state_dict()[name].double() for model in models) / 3
        torch.testing.assert_close(value, expected.float())
        assert value.dtype == torch.float32
    assert state["number"] == 2
    assert state["last_optimizer_state"] is None


def test_another_architecture_is_refused_by_name(tmp_path):
    one = store(tmp_path / "one.pt", make_model())
    wider = store(tmp_path / "wider.pt", make_model(encoder_ffn_embed_dim=64))
    with pytest.raises(InputError, match=r"encoder.layers.0.ffn.B.weight is \(64, 16\) in .*wider.pt and \(32, 16\)"):
        average_checkpoints([one, wider])
    deeper = store(tmp_path / "deeper.pt", make_model(encoder_layers=3))
    with pytest.raises(InputError, match=r"deeper.pt has other parameters .* encoder.layers.2"):
        average_checkpoints([one, deeper])


class RunsCommand:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_what_is_no_checkpoint_is_refused_in_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").write_text("")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    torch.save({"model": {"weight": "text"}}, tmp_path / "text_inside.pt")
    torch.save({"model": RunsCommand(tmp_path / "evidence")}, tmp_path / "hostile.pt")
    for name, message in (
        ("text", "cannot be loaded as a checkpoint"),
        ("empty", "cannot be loaded as a checkpoint"),
        ("other", "it holds no model"),
        ("text_inside", "it holds no model"),
        ("hostile", "cannot be loaded as a checkpoint"),
    ):
        with pytest.raises(InputError, match=f"{name}.pt .*{message}"):
            average_checkpoints([str(tmp_path / f"{name}.pt")])
    done = run("fairseq-resmlp", "average", tmp_path / "hostile.pt", "--output", tmp_path / "out.pt", check=False)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("empty.pt", "hostile.pt", "other.pt", "text.pt", "text_inside.pt")
    ]


def test_an_average_translates_and_its_decoder_stays_triangular(trained, tmp_path):
    checkpoints = [trained / "checkpoints" / f"checkpoint{epoch}.pt" for epoch in (2, 3)]
    run("fairseq-resmlp", "average", *checkpoints, "--output", tmp_path / "average.pt")
    for name, value in torch.load(tmp_path / "average.pt")["model"].items():
        if re.fullmatch(r"decoder\.layers\.\d+\.mixing\.A", name):
            assert (value.triu(1) == 0).all()
            assert value.any()
    done = run(
        *("fairseq-generate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("--path", tmp_path / "average.pt"),
    )
    assert len(re.findall(r"^H-", done.stdout, re.M)) == 21
