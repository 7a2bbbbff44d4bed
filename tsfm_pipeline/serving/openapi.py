"""The OpenAPI document of the service (docs/openapi.json).

What belongs here: what the document says of a route, and printing it:
`python -m tsfm_pipeline.serving.openapi > docs/openapi.json`. What does not: the routes (`app`) and
the models (`contract`, `status`, `search_contract`), from which the document is made.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from tsfm_pipeline.serving.contract import ErrorBody

_REF = "#/components/schemas/{model}"
_SCHEME = "bearer"
_REFUSALS = {
    403: "the model's licence does not allow it here",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is encoded",
    422: "the request is not valid: `errors` names every place",
    429: "too many forecasts of this caller",
}
_ALWAYS = {
    431: "the headers are too large",
    503: "not now: ask again after `Retry-After` seconds",
}


def documented(
    summary: str,
    answer: type[BaseModel] | str,
    *,
    request: type[BaseModel] | None = None,
    example: Mapping[str, Any] | None = None,
    secured: bool | Literal["by settings"] = False,
    busy: type[BaseModel] = ErrorBody,
    further: Mapping[int, str] | None = None,
    query: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return what FastAPI is told about a route besides its path.

    answer: the model of its answer, or the media type of a text. request: the model of its body,
    which the route validates itself; example: of the body. secured: whether it needs the token.
    busy: the model of its 503. further: refusals of this route alone. query: the parameters of the
    query, with their values.
    """
    refusals = (
        ({401: "no token, or another one"} if secured else {})
        | (_REFUSALS if request is not None else {})
        | _ALWAYS
        | dict(further or {})
    )
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody if status != 503 else busy, "description": text}
        for status, text in sorted(refusals.items())
    }
    if isinstance(answer, str):
        responses[200] = {"content": {answer: {"schema": {"type": "string"}}}}
    else:
        responses[200] = {"model": answer}
    responses[200]["description"] = "the answer"
    for status, header in ((401, "WWW-Authenticate"), (429, "Retry-After"), (503, "Retry-After")):
        if status in responses:
            responses[status]["headers"] = {header: {"schema": {"type": "string"}}}
    extra: dict[str, Any] = {}
    if request is not None:
        schema = {"$ref": _REF.format(model=request.__name__)}
        media: dict[str, Any] = {"schema": schema}
        if example is not None:
            media["example"] = dict(example)
        extra["requestBody"] = {"required": True, "content": {"application/json": media}}
    if secured:
        extra["security"] = [{_SCHEME: []}, *([] if secured is True else [{}])]
    if query is not None:
        extra["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "enum": list(values)}}
            for name, values in query.items()
        ]
    return {
        "summary": summary,
        "responses": responses,
        "openapi_extra": extra,
        "response_class": Response,
        "response_model": None,
    }


def describe(app: FastAPI, requests: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the document of an application whose routes are `documented`. requests: the models of
    their bodies.
    """
    document = get_openapi(
        title=app.title,
        version="1",
        summary=app.summary,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in requests], ref_template=_REF
    )
    components = document.setdefault("components", {})
    components["schemas"] = dict(
        sorted((components.get("schemas", {}) | definitions["$defs"]).items())
    )
    components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer"}}
    return document


def text(document: Mapping[str, Any]) -> str:
    """Return the document as it is stored in docs/openapi.json."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Print the document of the service as it is shipped."""
    from tsfm_pipeline.serving.build import build
    from tsfm_pipeline.serving.settings import ServingSettings

    print(text(build(ServingSettings(), no_auth=True).app.openapi()), end="")


if __name__ == "__main__":
    main()
