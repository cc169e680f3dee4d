"""Averaging of checkpoints."""

import re

import pytest
import torch

from fairseq_resmlp.checkpoints.averaging import average_checkpoints
from fairseq_resmlp.checkpoints.dictionary_hash import KEY, dictionary_hashes
from fairseq_resmlp.common.errors import InputError
from support.commands import run
from support.models import make_model, make_task
from support.paths import PLUGIN


def save(path, model, **extra):
    hashes = dictionary_hashes(model.encoder.dictionary, model.decoder.dictionary)
    state = {"model": model.state_dict(), "task_state": {KEY: hashes}, "last_optimizer_state": {"state": {}}}
    torch.save({**state, **extra}, path)
    return str(path)


def test_every_parameter_is_the_mean(tmp_path):
    models = [make_model(seed=seed) for seed in range(3)]
    paths = [save(tmp_path / f"{i}.pt", model, number=i) for i, model in enumerate(models)]
    state = average_checkpoints(paths)
    for name in dict(models[0].named_parameters()):
        value = state["model"][name]
        expected = sum(model.state_dict()[name].double() for model in models) / 3
        torch.testing.assert_close(value, expected.float())
        assert value.dtype == torch.float32
    assert state["number"] == 2
    assert state["last_optimizer_state"] is None


def test_another_architecture_is_rejected_by_name(tmp_path):
    one = save(tmp_path / "one.pt", make_model())
    wider = save(tmp_path / "wider.pt", make_model(encoder_ffn_embed_dim=64))
    with pytest.raises(InputError, match=r"encoder.layers.0.ffn.B.weight is \(64, 16\) in .*wider.pt and \(32, 16\)"):
        average_checkpoints([one, wider])
    deeper = save(tmp_path / "deeper.pt", make_model(encoder_layers=3))
    message = r"deeper.pt and .*one.pt have different parameters, for example encoder.layers.2"
    with pytest.raises(InputError, match=message):
        average_checkpoints([one, deeper])


def test_other_files_are_rejected_in_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    done = run("fairseq-resmlp", "average", tmp_path / "text.pt", "--output", tmp_path / "out.pt", check=False)
    assert done.returncode != 0
    assert done.stderr.startswith(f"Error: {tmp_path}/text.pt is not a checkpoint")
    assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text.pt"]


def test_checkpoints_of_different_dictionaries_are_rejected(tmp_path):
    one = save(tmp_path / "one.pt", make_model())
    other = save(tmp_path / "other.pt", make_model(make_task_with_another_dictionary()))
    message = r"other.pt and .*one.pt are from different training runs: their dictionaries differ"
    with pytest.raises(InputError, match=message):
        average_checkpoints([one, one, other])


def test_checkpoints_with_and_without_dictionary_hashes_can_be_averaged(tmp_path):
    model = make_model()
    new, old = save(tmp_path / "new.pt", model), save(tmp_path / "old.pt", model, task_state={})
    expected = torch.load(new)["task_state"]
    for paths in ([old, new], [new, old]):
        state = average_checkpoints(paths)
        assert state["task_state"] == expected
        assert all(torch.equal(state["model"][name], value) for name, value in model.state_dict().items())


def test_hashes_among_the_weights_are_not_averaged(tmp_path):
    """Earlier versions stored the dictionaries' hashes as buffers of the model."""
    model = make_model()
    expected = torch.load(save(tmp_path / "new.pt", model))["task_state"][KEY]
    buffers = {
        f"{name}.dictionary_version": torch.tensor(list(bytes.fromhex(expected[side])), dtype=torch.uint8)
        for name, side in (("encoder", "source"), ("decoder", "target"))
    }
    torch.save({"model": {**model.state_dict(), **buffers}}, tmp_path / "old.pt")
    state = average_checkpoints([str(tmp_path / "old.pt")] * 3)
    assert state["task_state"][KEY] == expected and not buffers.keys() & state["model"].keys()


def make_task_with_another_dictionary():
    task = make_task()
    task.src_dict.symbols[5] = "another"
    return task


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
