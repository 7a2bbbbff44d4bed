"""The driver `agent`: asks a language model behind an OpenAI-compatible chat endpoint.

What belongs here: what the model is sent, the HTTP exchange, and reading its answer. What does not:
the instructions themselves (`program.md`), and checking a policy (`policy`, `space`).

The driver is off unless an address is set. Nothing is sent but program.md, settings, and figures of
the ledger: no telemetry, no names of fleets or tenants, no paths, and no description, because
people write descriptions.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, Secret, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from tenacity.wait import WaitBaseT

from tsfm_pipeline.studies.policy_search import program, space
from tsfm_pipeline.studies.policy_search.drivers import DriverError, Options, Proposal, recorded
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError, parsed_policy

N_ROWS = 20
"""The latest rows of the ledger that the model is sent."""
FIGURES = (
    "objective",
    "loss_premium",
    "loss_standard",
    "loss_basic",
    "mae",
    "p50_ms",
    "p95_ms",
    "tokens",
)
"""Columns of the ledger that the model is sent as numbers."""
ATTEMPTS = 3
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for a longer wait is asked again after this time."""
MOST_BYTES = 1_000_000
"""Of a response; a policy file has a few thousand."""
WAIT = wait_exponential_jitter(initial=1.0, max=20.0, jitter=1.0)
OFF = (
    "the driver `agent` is switched off. To switch it on, set TSFM_AGENT_URL to the address of an "
    "OpenAI-compatible endpoint, as in http://localhost:11434/v1, TSFM_AGENT_MODEL to a model of "
    "it, and TSFM_AGENT_KEY if it wants a key. It is then sent program.md, the incumbent's "
    f"settings, and settings and figures of the last {N_ROWS} experiments"
)
FORM = (
    'Answer with one JSON object and nothing else: {"policy": {"search": {...}}, "description": '
    '"one sentence"}. The policy is the whole policy file, as an object or as its YAML text, not '
    "only what differs from the incumbent."
)


class AgentSettings(BaseSettings):
    """The chat endpoint; each value may be given, or set as TSFM_AGENT_*.

    Raises `pydantic.ValidationError`, without the values, for an address that is not http(s).
    """

    model_config = SettingsConfigDict(
        env_prefix="TSFM_AGENT_", frozen=True, hide_input_in_errors=True
    )

    url: HttpUrl | None = Field(None, description="up to and without /chat/completions")
    model: str | None = None
    key: Secret[str] | None = Field(None, description="sent as a bearer token")
    timeout_seconds: float = Field(120.0, gt=0, description="of one answer")


class _Answer(BaseModel):
    """What the model must answer with."""

    model_config = ConfigDict(frozen=True)

    policy: str | dict[str, Any]
    description: str = Field(min_length=1, max_length=500)


class AgentDriver:
    """Proposes what a language model answers with.

    An answer that cannot be used is asked for again once, with the error.
    """

    name = "agent"

    def __init__(self, settings: AgentSettings, wait: WaitBaseT = WAIT) -> None:
        """Raises `DriverError` if no address or no model is set."""
        if settings.url is None or not settings.model:
            raise DriverError(OFF)
        self._settings = settings
        self._address = f"{str(settings.url).rstrip('/')}/chat/completions"
        self._wait = wait
        # httpx logs whole addresses at INFO, and an address may hold a secret.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @classmethod
    def of(cls, options: Options) -> "AgentDriver":
        """Return the driver with these options and, where they say nothing, the environment's.

        Raises `DriverError` if it is switched off or wrongly set.
        """
        given = options.model_dump(include={"url", "model", "key"}, exclude_none=True)
        try:
            return cls(AgentSettings(**given))
        except ValidationError as error:
            problems = "; ".join(
                f"TSFM_AGENT_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
                for problem in error.errors(include_input=False)
            )
            raise DriverError(f"the driver `agent` is wrongly set: {problems}") from None

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal:
        """Return the policy of the model's answer.

        Raises `PolicyError` if the second answer cannot be used either, and `DriverError` if the
        endpoint does not answer.
        """
        messages = request_messages(incumbent, history)
        answer = self._ask(messages)
        try:
            policy, description = read_answer(answer)
        except PolicyError as error:
            again = f"That cannot be used: {error}.\n\n{FORM}"
            messages += [_message("assistant", answer[:4000]), _message("user", again)]
            policy, description = read_answer(self._ask(messages))
        return Proposal(policy, incumbent.digest, description)

    def _ask(self, messages: list[dict[str, str]]) -> str:
        """Return the text that the model answers with, after up to `ATTEMPTS` attempts."""
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
            raise DriverError(
                f"the model at {self._host} did not answer after {ATTEMPTS} attempts: {reason}"
            ) from None

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _PassingFault) and error.retry_after is not None:
            return min(error.retry_after, LONGEST_RETRY_AFTER_S)
        return self._wait(state)

    def _attempt(self, messages: list[dict[str, str]]) -> str:
        seconds, key = self._settings.timeout_seconds, self._settings.key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        body = {"model": self._settings.model, "messages": messages}
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
                    raise DriverError(
                        f"the model at {self._host} answered with more than {MOST_BYTES} bytes"
                    )
        return _content(bytes(content))

    def _require_success(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _PassingFault(f"status {status}", _seconds(response.headers.get("Retry-After")))
        if not response.is_success:
            raise DriverError(
                f"the model at {self._host} refused the request with status {status}; check "
                "TSFM_AGENT_URL, TSFM_AGENT_MODEL and TSFM_AGENT_KEY"
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


def request_messages(incumbent: Policy, history: pl.DataFrame) -> list[dict[str, str]]:
    """Return the messages that a model is sent: program.md, then the incumbent's policy file and
    the latest rows of the ledger.
    """
    lines = ["\t".join(("status", *FIGURES, "changes from the default"))]
    lines += [_ledger_line(row) for row in history.tail(N_ROWS).to_dicts()]
    question = (
        f"The incumbent's policy file:\n\n{incumbent.to_yaml()}\n"
        f"The last {len(lines) - 1} experiments, oldest first:\n\n" + "\n".join(lines)
    )
    return [
        _message("system", program.text()),
        _message("user", f"{question}\n\nPropose the next experiment. {FORM}"),
    ]


def read_answer(answer: str) -> tuple[Policy, str]:
    """Return the policy and the description of a model's answer: a JSON object, alone, in a fenced
    block or with words around it. Raises `PolicyError`.
    """
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    if not found:
        raise PolicyError("the answer holds no JSON object")
    try:
        read = _Answer.model_validate(json.loads(found.group()))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PolicyError(f"the answer is not valid JSON: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise PolicyError(
            f"the answer is not of the form that was asked for: {problems}"
        ) from error
    policy = parsed_policy(read.policy, "the answer's policy")
    space.require_allowed(policy, "the answer's policy")
    return policy, " ".join(read.description.split())


def _ledger_line(row: Mapping[str, Any]) -> str:
    status = "screened out" if row["screened_out"] else row["status"]
    figures = ["" if row[name] is None else f"{row[name]:.6g}" for name in FIGURES]
    # What is not a policy may hold any text.
    policy = recorded(row)
    changes = "not a policy" if policy is None else space.described(Policy(), policy)
    return "\t".join((status, *figures, changes))


def _content(body: bytes) -> str:
    """Return the text of the first choice; of a body that is no chat completion, the body."""
    text = body.decode("utf-8", errors="replace")
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return text
    return content if isinstance(content, str) else ""


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _seconds(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, None if it is a date or absent."""
    return float(value) if value and value.isdecimal() else None
