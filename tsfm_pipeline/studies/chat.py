"""Ask a language model behind an OpenAI-compatible chat endpoint.

What belongs here: the settings of an endpoint, and the HTTP exchange of one question. What does
not: what a study asks, and what it makes of an answer.
"""

import json
import logging
import time
from collections.abc import Sequence

import httpx
from pydantic import Field, HttpUrl, Secret, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.wait import WaitBaseT

ATTEMPTS = 3
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for a longer wait is asked again after this time."""
MOST_BYTES = 1_000_000
"""Of a response; an answer has a few thousand."""
WAIT = wait_exponential_jitter(initial=1.0, max=20.0, jitter=1.0)

Message = dict[str, str]


class ChatError(RuntimeError):
    """An endpoint is not set, refuses a question or does not answer it; the message says which."""


class ChatSettings(BaseSettings):
    """A chat endpoint; each value may be given, or set in the environment with the prefix of a
    subclass.

    Raises `pydantic.ValidationError`, without the values, for an address that is not http(s).
    """

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    url: HttpUrl | None = Field(None, description="up to and without /chat/completions")
    model: str | None = None
    key: Secret[str] | None = Field(None, description="sent as a bearer token")
    timeout_seconds: float = Field(120.0, gt=0, description="of one answer")


def variable(settings: type[ChatSettings], field: str) -> str:
    """Return the environment variable of a field."""
    return f"{settings.model_config.get('env_prefix', '')}{field}".upper()


def problems(settings: type[ChatSettings], error: ValidationError) -> str:
    """Return what is wrong with settings, by variable and without their values."""
    return "; ".join(
        f"{variable(settings, '_'.join(map(str, problem['loc'])))}: {problem['msg']}"
        for problem in error.errors(include_input=False)
    )


class ChatEndpoint:
    """A model that answers messages. Passing faults are tried again, up to `ATTEMPTS` times."""

    def __init__(self, settings: ChatSettings, wait: WaitBaseT = WAIT) -> None:
        """Raises `ChatError` if no address or no model is set."""
        if settings.url is None or not settings.model:
            raise ChatError(
                f"{variable(type(settings), 'url')} and {variable(type(settings), 'model')} must "
                "both be set"
            )
        self._settings = settings
        self._address = f"{str(settings.url).rstrip('/')}/chat/completions"
        self._wait = wait
        # httpx logs whole addresses at INFO, and an address may hold a secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    def ask(self, messages: Sequence[Message]) -> str:
        """Return the text that the model answers with; of a response that is no chat completion,
        its body. Raises `ChatError` if the endpoint refuses or does not answer.
        """
        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _PassingFault)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._attempt, messages)
        except (httpx.TransportError, _PassingFault) as error:
            reason = str(error) or type(error).__name__
            raise ChatError(
                f"the model at {self._host} did not answer after {ATTEMPTS} attempts: {reason}"
            ) from None

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _PassingFault) and error.retry_after is not None:
            return min(error.retry_after, LONGEST_RETRY_AFTER_S)
        return self._wait(state)

    def _attempt(self, messages: Sequence[Message]) -> str:
        seconds, key = self._settings.timeout_seconds, self._settings.key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        body = {"model": self._settings.model, "messages": list(messages)}
        deadline = time.monotonic() + seconds
        content = bytearray()
        with httpx.stream(
            "POST", self._address, json=body, headers=headers, timeout=seconds
        ) as response:
            self._require_success(response)
            for part in response.iter_bytes():
                content += part
                # The timeout of httpx starts again with every part.
                if time.monotonic() > deadline:
                    raise _PassingFault(f"no complete answer within {seconds:g} s")
                if len(content) > MOST_BYTES:
                    raise ChatError(
                        f"the model at {self._host} answered with more than {MOST_BYTES} bytes"
                    )
        return _content(bytes(content))

    def _require_success(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _PassingFault(f"status {status}", _seconds(response.headers.get("Retry-After")))
        if not response.is_success:
            url, model, key = (
                variable(type(self._settings), field) for field in ("url", "model", "key")
            )
            raise ChatError(
                f"the model at {self._host} refused the request with status {status}; check "
                f"{url}, {model} and {key}"
            )

    @property
    def _host(self) -> str:
        """The host of the address, which has no secret in it."""
        return httpx.URL(self._address).host


class _PassingFault(RuntimeError):
    """A response after which another attempt may succeed."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def message(role: str, content: str) -> Message:
    """Return one message of a conversation."""
    return {"role": role, "content": content}


def _content(body: bytes) -> str:
    """Return the text of the first choice; of a body that is no chat completion, the body."""
    text = body.decode("utf-8", errors="replace")
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return text
    return content if isinstance(content, str) else ""


def _seconds(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, None if it is a date or absent."""
    return float(value) if value and value.isdecimal() else None
