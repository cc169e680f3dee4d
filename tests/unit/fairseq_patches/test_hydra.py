"""Patches of fairseq-hydra-train. tests/fairseq_cli trains with it."""

from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY

from fairseq_resmlp.fairseq_patches.hydra import register_adagrad_with_hydra


def test_an_existing_dataclass_of_adagrad_is_kept(monkeypatch):
    monkeypatch.setitem(OPTIMIZER_DATACLASS_REGISTRY, "adagrad", "fairseq's own")
    register_adagrad_with_hydra()
    assert OPTIMIZER_DATACLASS_REGISTRY["adagrad"] == "fairseq's own"
