"""Matrix products through oneDNN, with plain and with packed weights."""

import pytest
import torch

from fairseq_resmlp.common import onednn
from fairseq_resmlp.common.onednn import has_onednn_linear, onednn_linear, pack_onednn_weight

pytestmark = pytest.mark.skipif(not has_onednn_linear(), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_a_packed_weight_gives_the_same_product(rows):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 48), torch.randn(130, 48), torch.randn(130)
    before = weight.clone()
    expected = x @ weight.t() + bias
    packed = pack_onednn_weight(weight)
    assert packed.layout == torch._mkldnn
    torch.testing.assert_close(onednn_linear(x, packed, bias), expected)
    torch.testing.assert_close(onednn_linear(x, weight, bias), expected)
    assert torch.equal(weight, before)


def test_without_the_operator_the_weight_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr(onednn, "_HAS_PACKING", False)
    weight = torch.randn(8, 4)
    assert pack_onednn_weight(weight) is weight
