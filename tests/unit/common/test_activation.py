"""Activations of the feed-forward layers."""

import torch
from torch.nn import functional as F

from fairseq_resmlp.common.activation import geglu


def test_geglu_multiplies_the_gelu_of_the_first_half_by_the_second_half():
    gate, value = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(geglu(torch.cat([gate, value], -1)), F.gelu(gate) * value)
