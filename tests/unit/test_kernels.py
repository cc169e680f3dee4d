"""The kernels of a training update are no more than docs/performance.md states."""

import json

import pytest

import kernels
from support.paths import ROOT
from systems import Settings

DOCUMENTED = json.loads((ROOT / "docs" / "measured" / "kernels.json").read_text(encoding="utf-8"))["eager"]


@pytest.mark.parametrize("name", kernels.MODELS)
def test_a_training_update_launches_no_more_kernels_than_documented(name):
    """The count depends on the number of layers, but not on the dimensions."""
    counted = kernels.count_eager(*kernels.MODELS[name], Settings(d=16, hidden=32, heads=2, vocabulary=100))
    assert counted["batch"] <= DOCUMENTED[name]["batch"]
    assert counted["update"] <= DOCUMENTED[name]["update"]
