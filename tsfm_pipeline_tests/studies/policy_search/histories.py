"""Ledgers for tests of the drivers: rows of experiments whose cost is a plain function of settings.

What belongs here: making rows, and a loop of proposals that keeps what is better. What does not:
the real loop and its judging.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.studies.policy_search.drivers import Driver
from tsfm_pipeline.studies.policy_search.ledger import SCHEMA
from tsfm_pipeline.studies.policy_search.policy import Policy

SCREENED_OUT_ABOVE = 0.005
"""How much worse than the incumbent a policy may be without being screened out."""

Costs = Callable[[SearchSettings], tuple[float, float]]
"""The objective and the p95 latency of settings."""


def row(policy: Policy, n: int, /, **columns: Any) -> dict[str, Any]:
    """The ledger's row of an experiment, with these columns in place of a plain discard."""
    plain = {
        "time": datetime(2026, 11, 28, tzinfo=UTC) + timedelta(minutes=n),
        "experiment": f"{n:016x}",
        "yardstick": "y",
        "commit": "c0ffee",
        "policy": policy.digest,
        "parent": Policy().digest,
        "driver": "random",
        "status": "discard",
        "description": "a test",
        "changes": json.dumps(policy.search),
        "n_changes": policy.n_changes,
        "fleets": "demo",
        "screened_out": False,
        "objective": 1.0,
        "loss_standard": 0.5,
        "mae": 0.4,
        "p50_ms": 40.0,
        "p95_ms": 80.0,
        "tokens": 700.0,
        "peak_mib": 300.0,
        "seconds": 9.0,
        "outcome": "{}",
    }
    return plain | columns


def ledger(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def searched(driver: Driver, costs: Costs, n: int) -> tuple[Policy, list[dict[str, Any]]]:
    """The incumbent after `n` experiments, the first of which is the default policy, and all
    rows.
    """
    incumbent, best = Policy(), costs(Policy().settings)[0]
    rows = [row(incumbent, 0, status="keep", objective=best)]
    while len(rows) < n:
        proposal = driver.propose(incumbent, ledger(rows))
        assert proposal is not None
        if proposal.policy.digest in {one["policy"] for one in rows}:
            continue
        objective, p95_ms = costs(proposal.policy.settings)
        kept = objective < best - 0.0005 and p95_ms <= 200
        if kept:
            incumbent, best = proposal.policy, objective
        rows.append(
            row(
                proposal.policy,
                len(rows),
                status="keep" if kept else "discard",
                objective=objective,
                p95_ms=p95_ms,
                screened_out=objective > best + SCREENED_OUT_ABOVE,
            )
        )
    return incumbent, rows
