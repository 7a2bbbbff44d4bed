"""Drivers: whoever proposes the next policy.

What belongs here: the protocol of a driver, what it is given, and one module per driver. What does
not: running and judging what was proposed (`loop`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.space import require_allowed

DRIVERS = ("random", "optuna", "file", "agent")


class DriverError(RuntimeError):
    """A driver cannot propose anything; the message says why, and what to do. The loop ends with
    it.
    """


class Proposal(NamedTuple):
    """A policy to try, the digest of the policy that it was made from, and one sentence."""

    policy: Policy
    parent: str
    description: str


class Driver(Protocol):
    """Proposes policies, one at a time.

    name: as in the ledger.
    """

    @property
    def name(self) -> str: ...

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal | None:
        """Return the next policy to try, or None if the driver has no more.

        incumbent: the best policy so far. history: the ledger's rows of this yardstick, oldest
        first, those of other loops included (`ledger.SCHEMA`). A driver keeps no state of its own
        that the history does not hold, so that an interrupted loop goes on where it was. Asked
        again with the same history, it proposes something else. Raises `PolicyError` if what it was
        given is not a policy, `DriverError` if it cannot propose at all.
        """
        ...


class Options(BaseModel):
    """What a driver is told when a loop starts.

    seed: of `random` and `optuna`. budget_ms: the yardstick's; policies with a higher p95 latency
    cannot be kept, and `optuna` keeps away from them. path and description: the policy file of
    `file`, and its sentence in the ledger. url, model and key: the chat endpoint of `agent`; each
    that is None is taken from the environment (`agent.AgentSettings`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    budget_ms: float = Field(200.0, gt=0)
    path: Path | None = None
    description: str = ""
    url: str | None = None
    model: str | None = None
    key: str | None = Field(None, repr=False)


def driver(name: str, options: Options) -> Driver:
    """Return the driver of that name.

    Raises ValueError, with the known names, for an unknown one; `PolicyError` for a policy file
    that cannot be used; `DriverError` for a driver that is not set up.
    """
    match name:
        case "random":
            from tsfm_pipeline.studies.policy_search.drivers.random import RandomDriver

            return RandomDriver(options.seed)
        case "optuna":
            from tsfm_pipeline.studies.policy_search.drivers.optuna import OptunaDriver

            return OptunaDriver(options.seed, options.budget_ms)
        case "file":
            from tsfm_pipeline.studies.policy_search.drivers.file import FileDriver

            return FileDriver.read(options.path, options.description)
        case "agent":
            from tsfm_pipeline.studies.policy_search.drivers.agent import AgentDriver

            return AgentDriver.of(options)
    raise ValueError(f"no driver is named {name!r}; allowed: {', '.join(DRIVERS)}")


def tried(history: pl.DataFrame) -> Sequence[str]:
    """Return the digests of all policies that the ledger already holds."""
    return history["policy"].to_list()


def recorded(row: Mapping[str, Any]) -> Policy | None:
    """Return the policy of a row of the ledger, None if what was tried is no policy that a driver
    could have proposed: an unusable proposal, or a field or a candidate that this release refuses.
    """
    try:
        policy = policy_of(json.loads(row["changes"] or "{}"))
        require_allowed(policy)
    except ValueError:
        return None
    return policy if policy.digest == row["policy"] else None


class Draws:
    """Generators of random numbers that depend on a seed, the length of the history and how often
    it was asked for with a history of this length.

    A restarted loop with the same history draws what the interrupted one would have drawn. Two
    loops with the same seed first propose the same, and the one that comes second is asked again.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._n_rows, self._n_asked = -1, 0

    def next(self, history: pl.DataFrame) -> np.random.Generator:
        """Return the generator for the next proposal."""
        self._n_asked = self._n_asked + 1 if len(history) == self._n_rows else 0
        self._n_rows = len(history)
        return np.random.default_rng((self._seed, self._n_rows, self._n_asked))
