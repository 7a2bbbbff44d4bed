"""Drivers: whoever proposes the next policy.

What belongs here: the protocol of a driver, and one module per driver. What does not: running and
judging what was proposed (`loop`).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import polars as pl

from tsfm_pipeline.studies.policy_search.policy import Policy


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
        that the history does not hold, so that an interrupted loop goes on where it was.
        """
        ...


def tried(history: pl.DataFrame) -> Sequence[str]:
    """Return the digests of all policies that the ledger already holds."""
    return history["policy"].to_list()
