"""The server conforms to its OpenAPI document: schemathesis generates requests from it and checks the answers."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from fairseq_resmlp.server.app import create_app
from fairseq_resmlp.server.models import Models
from fairseq_resmlp.server.serve import load_model
from fairseq_resmlp.server.settings import Settings


@pytest.fixture(scope="module")
def operations(exported_models):
    """The operations of the document, which are called without a network."""
    settings = Settings(beam=2, max_characters=60, max_lines=100, allowed_hosts=["testserver"])
    models = Models([load_model(str(exported_models / "float32"), None, settings)])
    # A limit on all texts together cannot be expressed in the document.
    statuses = {"positive_data_acceptance": [200, 404, 413], "negative_data_rejection": [400, 413]}
    checks = {name: {"expected-statuses": expected} for name, expected in statuses.items()}
    config = schemathesis.Config.from_dict({"checks": checks})
    app = create_app(models, settings, "127.0.0.1")
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    yield [result.ok() for result in schema.get_all_operations()]
    models.close()


def check(operation, mode, examples):
    """Send generated requests, and check status, headers and content of each answer."""
    phases = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain]

    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=examples, derandomize=True, deadline=None, database=None, phases=phases)
    def answers_conform(case):
        case.call_and_validate()

    answers_conform()


def test_the_document_describes_every_address(operations):
    assert {operation.label for operation in operations} == {
        *("POST /translate", "POST /stream", "POST /detect", "GET /languages", "GET /models", "GET /health"),
        *("GET /models/{name}/maps", "GET /models/{name}/maps/{stack}/{layer}", "GET /frontend/settings"),
        "GET /metrics",
    }


def test_valid_requests_are_answered_as_the_document_says(operations):
    for operation in operations:
        check(operation, GenerationMode.POSITIVE, 3)


def test_invalid_requests_are_refused_as_the_document_says(operations):
    for operation in operations:
        if operation.body:
            check(operation, GenerationMode.NEGATIVE, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_many_requests_are_answered_as_the_document_says(operations, mode):
    for operation in operations:
        if operation.body:
            check(operation, mode, 100)
