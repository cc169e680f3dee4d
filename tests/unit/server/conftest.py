"""Fixtures of the server's tests."""

import pytest

from support.server import served


@pytest.fixture(scope="module")
def server(exported_models):
    """A server with the golden model."""
    with served(exported_models / "float32", beam=3) as running:
        yield running
