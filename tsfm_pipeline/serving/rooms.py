"""What stands behind the routes of one service.

What belongs here: the parts that routes use, in one place, and what a refused caller is told. What
does not: making the parts (`build`), and the routes (`app`, `forecast_routes`).
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from tsfm_pipeline.serving.auth import Bearer
from tsfm_pipeline.serving.contract import ErrorCode
from tsfm_pipeline.serving.guard import Gate, Refusal, refusal
from tsfm_pipeline.serving.limits import RateLimit
from tsfm_pipeline.serving.metrics import Metrics, Status
from tsfm_pipeline.serving.recommendations import Recommendations
from tsfm_pipeline.serving.service import ForecastService

if TYPE_CHECKING:
    from tsfm_pipeline.serving.search_route import SearchRoute


@dataclass(frozen=True, eq=False)
class Rooms:
    """Everything behind the routes.

    search: answers POST /forecast; None where the service has no bundle. recommendations: what the
    fleet's run recommends; None where the service has no fleet. start, stop: awaited before the
    first request is let in, and after the last one.
    """

    forecasts: ForecastService
    search: "SearchRoute | None"
    recommendations: Recommendations | None
    callers: Bearer
    readers: Bearer
    limit: RateLimit
    gate: Gate
    metrics: Metrics
    max_body_bytes: int
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]

    async def caller(self, request: Request) -> None:
        """Let a caller in who presents the token. Raises `Refusal` (401)."""
        if not self.callers.allows(request.headers.get("authorization")):
            self.count(Status.UNAUTHORISED)
            raise _unauthorised()

    async def reader(self, request: Request) -> None:
        """Let in who may read metrics. Raises `Refusal` (401)."""
        header = request.headers.get("authorization")
        if not (self.readers.allows(header) or self.callers.allows(header)):
            raise _unauthorised()

    def take(self, request: Request, forecasts: int = 1) -> None:
        """Count forecasts of a caller. Raises `Refusal` (429) beyond the limit."""
        wait = self.limit.take(_name(request), forecasts)
        if wait > 0:
            self.count(Status.LIMITED)
            raise refusal(
                429,
                ErrorCode.RATE_LIMITED,
                f"too many forecasts; ask again in {wait:.1f} s",
                retry_after=str(max(1, math.ceil(wait))),
            )

    def give_back(self, request: Request, forecasts: int = 1) -> None:
        """Give back what was taken for requests that got no forecast."""
        if forecasts:
            self.limit.give_back(_name(request), forecasts)

    def count(self, status: Status) -> None:
        """Count a request that ended without a forecast."""
        self.metrics.request(status, self.forecasts.stage)


def _name(request: Request) -> str:
    """Return by what a caller is known: there is one token, so by the address."""
    return request.client.host if request.client else ""


def _unauthorised() -> Refusal:
    return refusal(
        401,
        ErrorCode.UNAUTHORISED,
        "send the token as `Authorization: Bearer <token>`",
        www_authenticate='Bearer realm="tsfm-pipeline"',
    )
