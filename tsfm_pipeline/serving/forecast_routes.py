"""The routes that forecast: reading requests, and the statuses of answers.

What belongs here: from the bytes of a body to the bytes of an answer, of one series, of many, and
of a search. What does not: answering (`service`, `search_route`), and the other routes (`app`).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tsfm_pipeline.serving import errors
from tsfm_pipeline.serving.contract import (
    MAX_ITEMS,
    BatchItem,
    BatchResponse,
    ErrorCode,
    ForecastRequest,
    ForecastResponse,
)
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.errors import InvalidRequest
from tsfm_pipeline.serving.guard import (
    RETRY_AFTER_S,
    Refusal,
    read_body,
    refusal,
    while_connected,
)
from tsfm_pipeline.serving.lanes import NoModelAnswer
from tsfm_pipeline.serving.licences import ModelNotAllowed
from tsfm_pipeline.serving.metrics import Status
from tsfm_pipeline.serving.rooms import Rooms
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure

if TYPE_CHECKING:
    from tsfm_pipeline.serving.search_contract import SearchRequest, SearchResponse
    from tsfm_pipeline.serving.search_route import SearchRoute


class _Batch(BaseModel):
    """A batch whose items are not validated yet."""

    model_config = ConfigDict(strict=True, extra="forbid")

    items: list[Any] = Field(min_length=1, max_length=MAX_ITEMS)


async def forecast_one(rooms: Rooms, request: Request) -> Response:
    """Answer POST /tsfm/forecast. Raises `Refusal`."""
    raw = await _body(rooms, request)
    rooms.take(request)
    try:
        answer = await while_connected(request, _answer(rooms, raw, request.state))
    except (Refusal, ClientDisconnect):
        rooms.give_back(request)
        raise
    return json_response(answer)


async def forecast_many(rooms: Rooms, request: Request) -> Response:
    """Answer POST /tsfm/forecast/batch. Raises `Refusal`."""
    raw = await _body(rooms, request)
    try:
        items = _Batch.model_validate_json(raw).items
    except ValidationError as error:
        rooms.count(Status.INVALID)
        raise invalid(error) from error
    rooms.take(request, len(items))
    try:
        answers = await while_connected(request, _answers(rooms, items, request.state))
    except ClientDisconnect:
        rooms.give_back(request, len(items))
        raise
    rooms.give_back(request, sum(item.response is None for item in answers))
    rooms.metrics.cycle(time.monotonic() - request.state.arrived)
    return json_response(BatchResponse.model_construct(items=answers))


async def search_one(rooms: Rooms, request: Request) -> Response:
    """Answer POST /forecast. Raises `Refusal`."""
    search = rooms.search
    if search is None:
        raise refusal(
            404,
            ErrorCode.NO_SEARCH,
            "this service has no search; start it with --fleet or --bundle",
        )
    raw = await _body(rooms, request)
    rooms.take(request)
    try:
        asked = search.read(raw)
        deadline = Deadline(request.state.arrived + rooms.forecasts.settings.deadline_s)
        answer = await while_connected(request, _searched(rooms, search, asked, deadline))
    except ValidationError as error:
        rooms.count(Status.INVALID)
        rooms.give_back(request)
        raise invalid(error) from error
    except (Refusal, ClientDisconnect):
        rooms.give_back(request)
        raise
    rooms.metrics.request(Status.ANSWERED, rooms.forecasts.stage)
    return json_response(answer)


async def _searched(
    rooms: Rooms, search: "SearchRoute", asked: "SearchRequest", deadline: Deadline
) -> "SearchResponse":
    """Return the search's answer. Raises `Refusal`."""
    lane = rooms.forecasts.lanes.local
    try:
        lane.check_licence(rooms.forecasts.settings.environment)
        lane.require_started()
        return await search.answer(asked, deadline)
    except ModelNotAllowed as error:
        rooms.count(Status.REFUSED)
        raise refusal(403, ErrorCode.MODEL_NOT_ALLOWED, str(error)) from error
    except (RuntimeFailure, NoModelAnswer) as failure:
        rooms.count(Status.UNAVAILABLE)
        code, detail = _BUSY.get(getattr(failure, "failure", None), _NOT_READY)
        raise refusal(503, code, detail, retry_after=str(RETRY_AFTER_S)) from failure


_NOT_READY = ErrorCode.NOT_READY, "the model is being loaded; ask again"
_BUSY: dict[Failure | None, tuple[ErrorCode, str]] = {
    Failure.QUEUE_FULL: (ErrorCode.QUEUE_FULL, "too many searches wait; ask again"),
    Failure.TIMEOUT: (ErrorCode.QUEUE_FULL, "the search had no turn in time; ask again"),
    Failure.INTERNAL: (ErrorCode.INTERNAL, "the search failed; the log says why"),
}


async def _body(rooms: Rooms, request: Request) -> bytes:
    """Return the body of a request. Raises what `read_body` raises."""
    try:
        return await read_body(request, rooms.max_body_bytes)
    except Refusal:
        rooms.count(Status.INVALID)
        raise


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Return a model as a response. It is serialised, not validated again."""
    return Response(
        body.__pydantic_serializer__.to_json(body), status, media_type="application/json"
    )


def invalid(error: ValidationError) -> Refusal:
    """Return what a client is told about a body that is not valid."""
    return Refusal(422, errors.body(errors.problems(error)))


async def _answer(rooms: Rooms, raw: bytes, state: Any) -> ForecastResponse:
    """Return the answer to one request. Raises `Refusal`."""
    try:
        request = ForecastRequest.model_validate_json(raw)
        answer = await rooms.forecasts.answer(request, state.request_id, state.arrived)
    except ValidationError as error:
        rooms.count(Status.INVALID)
        raise invalid(error) from error
    except InvalidRequest as error:
        rooms.count(Status.INVALID)
        raise Refusal(422, errors.body(error.problems)) from error
    except ModelNotAllowed as error:
        rooms.count(Status.REFUSED)
        raise refusal(403, ErrorCode.MODEL_NOT_ALLOWED, str(error)) from error
    except asyncio.CancelledError:
        rooms.count(Status.GONE)
        raise
    status = Status.FALLBACK if answer.meta.fallback_used else Status.ANSWERED
    rooms.metrics.request(status, answer.meta.route.stage)
    return answer


async def _answers(rooms: Rooms, items: Sequence[Any], state: Any) -> list[BatchItem]:
    """Return one answer per item; an item that cannot be answered does not spoil the others."""

    async def one(item: Any) -> BatchItem:
        try:
            # Back to bytes: strict types of JSON are not those of Python's own objects.
            raw = to_json(item, inf_nan_mode="constants")
            answer = await _answer(rooms, raw, state)
        except Refusal as refused:
            return BatchItem(status=refused.status, error=refused.body)
        return BatchItem.model_construct(status=200, response=answer, error=None)

    tasks: list[asyncio.Task[BatchItem]] = []
    async with asyncio.TaskGroup() as group:
        for item in items:
            await rooms.forecasts.turns.mine()
            tasks.append(group.create_task(one(item)))
    return [task.result() for task in tasks]
