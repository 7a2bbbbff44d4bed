"""Test that docs/openapi.json is the document of the service as it is."""

import json
from typing import Any

import pytest

from tsfm_pipeline.serving.build import build
from tsfm_pipeline.serving.contract import ErrorCode
from tsfm_pipeline.serving.openapi import text
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.settings import PROJECT_ROOT

DOCUMENT = PROJECT_ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build(ServingSettings(token=None), no_auth=True).app.openapi()


def test_the_stored_document_is_that_of_the_service(document: dict[str, Any]) -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == text(document), (
        "python -m tsfm_pipeline.serving.openapi > docs/openapi.json"
    )


def test_every_reference_is_defined(document: dict[str, Any]) -> None:
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    names = {reference.partition('"')[0] for reference in references}
    assert names <= set(document["components"]["schemas"])


def test_all_routes_are_described_and_every_error_has_its_body(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        *("/", "/forecast", "/health", "/metrics", "/models", "/ready"),
        *("/tsfm/forecast", "/tsfm/forecast/batch", "/tsfm/metrics"),
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            errors = {status: a for status, a in operation["responses"].items() if status >= "400"}
            if path == "/ready":
                errors.pop("503")
            for answer in errors.values():
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}
            assert "500" not in errors


def test_forecasting_routes_state_their_token_and_their_body(document: dict[str, Any]) -> None:
    for path in ("/tsfm/forecast", "/tsfm/forecast/batch", "/forecast"):
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"bearer": []}]
        assert operation["requestBody"]["required"]
        assert {"401", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert "security" not in document["paths"]["/health"]["get"]


def test_the_codes_of_errors_are_a_closed_list(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["ErrorCode"]["enum"] == list(ErrorCode)
