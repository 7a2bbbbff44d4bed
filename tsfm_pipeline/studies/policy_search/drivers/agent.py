"""The driver `agent`: asks a language model behind an OpenAI-compatible chat endpoint.

What belongs here: what the model is sent, and reading its answer. What does not: the HTTP exchange
(`studies.chat`), the instructions themselves (`program.md`), and checking a policy (`policy`,
`space`).

The driver is off unless an address is set. Nothing is sent but program.md, settings, and figures of
the ledger: no telemetry, no names of fleets or tenants, no paths, and no description, because
people write descriptions.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import SettingsConfigDict
from tenacity.wait import WaitBaseT

from tsfm_pipeline.studies.chat import (
    WAIT,
    ChatEndpoint,
    ChatError,
    ChatSettings,
    Message,
    message,
    problems,
)
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


class AgentSettings(ChatSettings):
    """The chat endpoint; each value may be given, or set as TSFM_AGENT_*."""

    model_config = SettingsConfigDict(env_prefix="TSFM_AGENT_")


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
        self._endpoint = ChatEndpoint(settings, wait)

    @classmethod
    def of(cls, options: Options) -> "AgentDriver":
        """Return the driver with these options and, where they say nothing, the environment's.

        Raises `DriverError` if it is switched off or wrongly set.
        """
        given = options.model_dump(include={"url", "model", "key"}, exclude_none=True)
        try:
            return cls(AgentSettings(**given))
        except ValidationError as error:
            raise DriverError(
                f"the driver `agent` is wrongly set: {problems(AgentSettings, error)}"
            ) from None

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
            messages += [message("assistant", answer[:4000]), message("user", again)]
            policy, description = read_answer(self._ask(messages))
        return Proposal(policy, incumbent.digest, description)

    def _ask(self, messages: list[Message]) -> str:
        """Return the text that the model answers with. Raises `DriverError`."""
        try:
            return self._endpoint.ask(messages)
        except ChatError as error:
            raise DriverError(str(error)) from None


def request_messages(incumbent: Policy, history: pl.DataFrame) -> list[Message]:
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
        message("system", program.text()),
        message("user", f"{question}\n\nPropose the next experiment. {FORM}"),
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
        faults = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise PolicyError(f"the answer is not of the form that was asked for: {faults}") from error
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
