"""Positional embeddings."""

import torch

from support.models import make_model


def test_sinusoidal_embeddings_are_those_of_the_transformer():
    """Half sines and half cosines with wavelengths of up to 10,000 times 2 pi, at the scale of the token embeddings."""
    d = 16
    model = make_model(positional_embeddings="sinusoidal", dropout=0.0)
    added = model.encoder.positions(torch.zeros(2, 9, d))
    waves = torch.arange(9.0).unsqueeze(1) * 10_000 ** -(torch.arange(d / 2) / (d / 2 - 1))
    expected = torch.cat([waves.sin(), waves.cos()], 1) * d**-0.5
    torch.testing.assert_close(added, expected.expand(2, 9, d))
    torch.testing.assert_close(model.decoder.positions(torch.zeros(1, 1, d), 5)[0, 0], expected[5])
