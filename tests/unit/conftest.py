"""Fixtures that tests of several packages share."""

import pytest

from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model
from support.paths import GOLDEN


@pytest.fixture(scope="session")
def exported_models(tmp_path_factory):
    """The golden model (N = 40), exported to the directories float32 and int8."""
    directory = tmp_path_factory.mktemp("exported_models")
    for dtype in ("float32", "int8"):
        assert export_model(str(GOLDEN), str(directory / dtype), dtype=dtype) == ["en", "de"]
    return directory


@pytest.fixture(scope="module")
def translator(exported_models):
    """A translator with the golden model in float32."""
    return Translator.load(str(exported_models / "float32"))
