"""The routes: what may be asked over HTTP, by whom, and where the answer comes from.

What belongs here: the routes with what the OpenAPI document says of them, those about the service
itself, and the bodies of errors. What does not: reading and answering forecasts
(`forecast_routes`, `search_route`, `service`), what holds for every request (`guard`).
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tsfm_pipeline import __version__
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.serving.contract import (
    BatchRequest,
    BatchResponse,
    ErrorCode,
    ForecastRequest,
    ForecastResponse,
)
from tsfm_pipeline.serving.errors import plain, problem
from tsfm_pipeline.serving.forecast_routes import (
    forecast_many,
    forecast_one,
    json_response,
    search_one,
)
from tsfm_pipeline.serving.guard import Guard, Refusal, refusal
from tsfm_pipeline.serving.openapi import describe, documented
from tsfm_pipeline.serving.reporting import model_statuses, observe, readiness
from tsfm_pipeline.serving.rooms import Rooms
from tsfm_pipeline.serving.search_contract import SearchRequest, SearchResponse
from tsfm_pipeline.serving.status import Health, Models, Ready

REQUESTS = (ForecastRequest, BatchRequest, SearchRequest)
"""The bodies that routes read themselves."""
EXAMPLE = {
    "market_id": "example",
    "as_of_ts": "2026-01-31T12:00:00Z",
    "y": [round(0.4 + 0.1 * ((i * 7) % 12) / 12, 3) for i in range(72)],
}
"""A small request: six hours of a share."""
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def create_app(rooms: Rooms) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await rooms.start()
        yield
        await rooms.stop()

    app = FastAPI(
        title="tsfm-pipeline",
        version=__version__,
        summary="Forecasts on request: quantiles and calibrated intervals of one series or many.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, gate=rooms.gate, turns=rooms.forecasts.turns)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.openapi = lambda: describe(app, REQUESTS)  # type: ignore[method-assign]
    _add_forecasts(app, rooms)
    _add_status(app, rooms)
    _add_page(app)
    return app


def _add_forecasts(app: FastAPI, rooms: Rooms) -> None:
    for_callers = [Depends(rooms.caller)]

    @app.post(
        "/tsfm/forecast",
        dependencies=for_callers,
        **documented(
            "Forecast one series",
            ForecastResponse,
            request=ForecastRequest,
            example=EXAMPLE,
            secured=True,
        ),
    )
    async def forecast(request: Request) -> Response:
        return await forecast_one(rooms, request)

    @app.post(
        "/tsfm/forecast/batch",
        dependencies=for_callers,
        **documented(
            "Forecast up to 200 series, each answered by itself",
            BatchResponse,
            request=BatchRequest,
            example={"items": [EXAMPLE]},
            secured=True,
        ),
    )
    async def forecast_batch(request: Request) -> Response:
        return await forecast_many(rooms, request)

    @app.post(
        "/forecast",
        dependencies=for_callers,
        **documented(
            "Search the best configuration for one tenant, and forecast all of its metrics",
            SearchResponse,
            request=SearchRequest,
            secured=True,
            further={404: "the service has no search"},
        ),
    )
    async def search(request: Request) -> Response:
        return await search_one(rooms, request)


def _add_status(app: FastAPI, rooms: Rooms) -> None:
    healthy = json_response(Health())

    @app.get("/health", **documented("Whether the process answers", Health))
    async def health() -> Response:
        return healthy

    @app.get(
        "/ready",
        **documented(
            "Whether to send requests here, and the state of all parts", Ready, busy=Ready
        ),
    )
    async def ready() -> Response:
        state = readiness(rooms.forecasts, draining=rooms.gate.draining)
        return json_response(state, 200 if state.ready else 503)

    @app.get(
        "/models",
        dependencies=[Depends(rooms.caller)],
        **documented("The models that a request may name", Models, secured=True),
    )
    async def models() -> Response:
        return json_response(Models(models=model_statuses(rooms.forecasts)))

    async def metrics(request: Request) -> Response:
        wanted = request.query_params.get("recommended", "0")
        if wanted not in ("0", "1"):
            raise refusal(
                422,
                ErrorCode.INVALID_FIELD,
                "recommended is neither 0 nor 1",
                problem(ErrorCode.INVALID_FIELD, "not allowed", "recommended", wanted, "0 or 1"),
            )
        if wanted == "1":
            return Response(await recommended(rooms), media_type=EXPOSITION)
        observe(rooms.forecasts)
        return Response(rooms.metrics.text(), media_type=EXPOSITION)

    for path in ("/metrics", "/tsfm/metrics"):
        app.get(
            path,
            dependencies=[Depends(rooms.reader)],
            **documented(
                "Metrics in the text format of Prometheus",
                "text/plain",
                secured="by settings",
                further={
                    404: "there are no recommendations",
                    422: "recommended is neither 0 nor 1",
                },
                query={"recommended": ("0", "1")},
            ),
        )(metrics)


async def recommended(rooms: Rooms) -> bytes:
    """Return what the fleet's run recommends to reserve, as metrics. Raises `Refusal` (404)."""
    if rooms.recommendations is None:
        raise refusal(404, ErrorCode.UNKNOWN_ROUTE, "this service has no fleet; use --fleet")
    try:
        return await asyncio.to_thread(rooms.recommendations.text)
    except StorageError as error:
        raise refusal(404, ErrorCode.UNKNOWN_ROUTE, plain(str(error), 300)) from error


def _add_page(app: FastAPI) -> None:
    page = (files("tsfm_pipeline.serving") / "page.html").read_bytes()
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    @app.get("/", **documented("A page with the service's state and a form", "text/html"))
    async def root() -> Response:
        return Response(page, headers=headers, media_type="text/html")


def _policy(page: bytes) -> str:
    """Return a policy under which the page runs its own script and style, and talks to the service
    alone.
    """

    def sources(tag: bytes) -> str:
        texts = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page, flags=re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in texts
        )

    return (
        f"default-src 'none'; script-src {sources(b'script')}; style-src {sources(b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:80], request.method
    code, detail = (
        (ErrorCode.METHOD_NOT_ALLOWED, f"{method} is not allowed here")
        if error.status_code == 405
        else (ErrorCode.UNKNOWN_ROUTE, f"there is no route {path!r}; /openapi.json lists all")
    )
    refused = refusal(error.status_code, code, detail)
    refused.headers |= dict(error.headers or {})
    return refused.response
