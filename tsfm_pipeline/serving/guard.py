"""What holds for every request, whatever its route: its id, its size, and whether there is room.

What belongs here: the middleware around all routes, reading a body within its limits, the states of
the whole process (draining, requests in work), and the web server's limit of headers. What does
not: the meaning of a request (`app`).
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tsfm_pipeline.serving.contract import ErrorBody, ErrorCode, Problem
from tsfm_pipeline.serving.turns import Turns

MAX_HEADER_BYTES = 16_384
MAX_HEADERS = 64
BODY_TIMEOUT_S = 10.0
"""Time that a client has to send a body."""
RETRY_AFTER_S = 1

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class Refusal(Exception):
    """A request that gets no forecast: its status, body and headers."""

    def __init__(
        self, status: int, body: ErrorBody, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {body.code}: {body.detail}")
        self.status, self.body, self.headers = status, body, dict(headers or {})

    @property
    def response(self) -> Response:
        """The refusal as a response."""
        return Response(
            self.body.model_dump_json(),
            self.status,
            headers=self.headers,
            media_type="application/json",
        )


def refusal(
    status: int, code: ErrorCode, detail: str, *problems: Problem, **headers: str
) -> Refusal:
    """Return a refusal. headers: with `_` for `-` in their names."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refusal(status, ErrorBody(detail=detail, code=code, errors=list(problems)), named)


@dataclass
class Gate:
    """The requests in work, and whether further ones are let in."""

    max_waiting: int
    draining: bool = False
    active: int = 0
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    async def emptied(self) -> None:
        """Return when no request is in work."""
        while self.active:
            self._left.clear()
            await self._left.wait()

    def leave(self) -> None:
        """Count a request that is done."""
        self.active -= 1
        self._left.set()

    def refuses(self, scope: Scope) -> Refusal | None:
        """Return why a request may not come in; None: it may."""
        if self.draining and scope["path"] not in ("/health", "/ready", "/metrics"):
            return refusal(
                503,
                ErrorCode.NOT_READY,
                "the service is shutting down; ask again: another process answers",
                retry_after=str(RETRY_AFTER_S),
                connection="close",
            )
        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(map(_size, headers)) > MAX_HEADER_BYTES:
            return refusal(
                431,
                ErrorCode.TOO_LARGE,
                f"the headers are too large; allowed: {MAX_HEADERS} headers of together "
                f"{MAX_HEADER_BYTES} bytes",
                connection="close",
            )
        if scope["method"] == "POST" and self.active >= self.max_waiting:
            return refusal(
                503,
                ErrorCode.QUEUE_FULL,
                f"{self.active} requests are in work; ask again later",
                retry_after=str(RETRY_AFTER_S),
            )
        return None


class Guard:
    """The middleware around all routes.

    It gives every request an id (`x-request-id`, the client's where it is a plain one) and its time
    of arrival, lets it in or not, and answers 503 where a route raised an error that nobody
    expected.
    """

    def __init__(self, app: ASGIApp, gate: Gate, turns: Turns) -> None:
        """turns: of all work on the event loop, so that new requests take turns with answers."""
        self._app, self._gate, self._turns = app, gate, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(request_id=request_id, arrived=time.monotonic())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        if (refused := self._gate.refuses(scope)) is not None:
            await refused.response(scope, receive, send_with_id)
            return
        is_work = scope["method"] == "POST"
        self._gate.active += is_work
        try:
            if is_work:
                await self._turns.mine()
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            _LOGGER.info("client left", extra={"fields": {"request_id": request_id}})
        except Exception as error:
            if started:
                raise
            _LOGGER.error(
                "unexpected error", exc_info=error, extra={"fields": {"request_id": request_id}}
            )
            failed = refusal(
                503,
                ErrorCode.INTERNAL,
                f"an error that nobody expected; the log has it under {request_id}",
                retry_after=str(RETRY_AFTER_S),
            )
            await failed.response(scope, receive, send_with_id)
        finally:
            if is_work:
                self._gate.leave()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body, which is refused as soon as it is larger than allowed.

    Raises `Refusal`: 413 for a large body, 415 for an encoded one, 408 for one that does not come.
    Raises `ClientDisconnect` where the client has left.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise refusal(
            415,
            ErrorCode.UNSUPPORTED_ENCODING,
            "encoded bodies are not read",
            Problem(
                code=ErrorCode.UNSUPPORTED_ENCODING,
                where="content-encoding",
                value=repr(encoding[:20]),
                allowed="identity",
                detail="encoded bodies are not read; allowed: none, or identity",
            ),
            accept_encoding="identity",
        )
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise refusal(
            408,
            ErrorCode.REQUEST_TIMEOUT,
            f"the body did not come within {BODY_TIMEOUT_S:g} s",
            connection="close",
        ) from None
    return bytes(body)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled if the client leaves before it is done.

    To be called when the body has been read. Raises `ClientDisconnect` where the client has left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(request.receive())
    left = False

    def cancel(_: object) -> None:
        nonlocal left
        left = not task.done()
        task.cancel()

    watch.add_done_callback(cancel)
    try:
        return await task
    except asyncio.CancelledError:
        if left:
            raise ClientDisconnect from None
        task.cancel()
        raise
    finally:
        watch.remove_done_callback(cancel)
        watch.cancel()


def _too_large(max_bytes: int) -> Refusal:
    # The rest of the body is not read, so that the connection cannot be used again.
    return refusal(
        413,
        ErrorCode.TOO_LARGE,
        f"the body is too large; allowed: {max_bytes} bytes",
        connection="close",
    )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])
