"""The driver `optuna`: a tree-structured Parzen estimator of loss and latency.

What belongs here: the ledger's rows as trials, and proposals from them. What does not: the values
of the fields (`space`), and pruning, which the experiments do themselves by screening.

The study lives in memory and is made again from the ledger for each proposal, so that several loops
share it and a restarted loop goes on with it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tsfm_pipeline.studies.policy_search import space
from tsfm_pipeline.studies.policy_search.drivers import (
    Draws,
    DriverError,
    Proposal,
    recorded,
    tried,
)
from tsfm_pipeline.studies.policy_search.moves import Axis
from tsfm_pipeline.studies.policy_search.policy import Policy

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

MOST_FIELDS = 4
"""Fields that one proposal changes at most."""
STARTUP_TRIALS = 12
"""Rows before which proposals are random."""
MOST_ROWS = 500
"""The latest rows that a study is made of; each takes about a millisecond."""
MOST_ASKS = 20
"""How often the study is asked for a policy that is not in the ledger, before one is drawn."""
FAILED = 10.0
"""By how much a crash or a timeout violates its constraint: more than any screened-out policy."""


class OptunaDriver:
    """Proposes the incumbent with new values in one to four fields, which TPE chooses jointly.

    Fields are drawn at random, and the study of one proposal knows these fields only. With all of
    them at once, TPE would prefer an untried value in nearly every field, and a policy that differs
    from the incumbent everywhere is seldom better.

    Objectives are the ledger's objective and the p95 latency, both minimised. Studies with two
    objectives cannot prune (`Trial.report` refuses), so a screened-out policy is a trial that
    violates a constraint, by its objective at screening. TPE then counts it among the bad trials,
    and among those the less bad come first. The same goes for a policy over the latency budget, and
    for a crash or a timeout, which is worse than either.
    Sources: Bergstra, Bardenet, Bengio and Kegl (2011); Ozaki, Tanigaki, Watanabe and Onishi (2020)
    for two objectives; Watanabe and Hutter (2023) for constraints.
    """

    name = "optuna"

    def __init__(self, seed: int, budget_ms: float) -> None:
        self._draws = Draws(seed)
        self._budget_ms = budget_ms

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal:
        """Return the next policy. Raises `DriverError` if optuna is not installed."""
        rng = self._draws.next(history)
        known = set(tried(history))
        latest = history.tail(MOST_ROWS).to_dicts()
        rows = [(policy, row) for row in latest if (policy := recorded(row)) is not None]
        for _ in range(MOST_ASKS):
            drawn = rng.choice(len(space.FIELDS), rng.integers(1, MOST_FIELDS + 1), replace=False)
            fields = [space.FIELDS[n] for n in sorted(drawn)]
            values = self._ask(fields, rows, int(rng.integers(2**31)))
            policy = space.with_values(incumbent, values)
            if policy.digest != incumbent.digest and policy.digest not in known:
                break
        else:
            policy = space.fresh(incumbent, rng, MOST_FIELDS)
        return Proposal(policy, incumbent.digest, space.described(incumbent, policy))

    def _ask(
        self,
        fields: Sequence[space.Field],
        rows: Sequence[tuple[Policy, Mapping[str, Any]]],
        seed: int,
    ) -> dict[str, Any]:
        """Return the values that TPE chooses for these fields, given the tried policies and their
        rows.
        """
        distributions = _distributions(fields)
        study = _study(seed)
        for policy, row in rows:
            if (numbers := _numbers(fields, policy)) is not None:
                study.add_trial(_trial(numbers, distributions, row, self._budget_ms))
        numbers = study.ask(distributions).params
        return {
            field.name: field.kind.decode(
                {axis: int(numbers[_key(field, axis)]) for axis in field.kind.axes()}
            )
            for field in fields
        }


def _study(seed: int) -> "Study":
    try:
        import optuna
    except ImportError as error:
        raise DriverError(
            "the driver `optuna` needs the package optuna; install the extra `studies`, as in "
            "pip install 'tsfm-pipeline[studies]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS, constant_liar=False
    )
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def _distributions(fields: Sequence[space.Field]) -> "dict[str, BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, IntDistribution

    def distribution(axis: Axis) -> "BaseDistribution":
        if axis.ordered:
            return IntDistribution(0, axis.size - 1)
        return CategoricalDistribution(range(axis.size))

    return {
        _key(field, name): distribution(axis)
        for field in fields
        for name, axis in field.kind.axes().items()
    }


def _trial(
    numbers: dict[str, int],
    distributions: "dict[str, BaseDistribution]",
    row: Mapping[str, Any],
    budget_ms: float,
) -> "FrozenTrial":
    from optuna.trial import create_trial

    objective, p95_ms = row["objective"], row["p95_ms"]
    if objective is None or p95_ms is None or not np.isfinite([objective, p95_ms]).all():
        values, constraints = [FAILED, FAILED * budget_ms], {"failed": FAILED}
    else:
        values = [objective, p95_ms]
        constraints = {
            "screening": min(objective, FAILED) if row["screened_out"] else 0.0,
            "latency": min(max(0.0, p95_ms / budget_ms - 1), FAILED),
        }
    return create_trial(
        params=numbers, distributions=distributions, values=values, constraints=constraints
    )


def _numbers(fields: Sequence[space.Field], policy: Policy) -> dict[str, int] | None:
    """Return the numbers that stand for a policy's values of these fields, None if a value of one
    has none.
    """
    numbers: dict[str, int] = {}
    for field in fields:
        encoded = field.kind.encode(field.value(policy))
        if encoded is None:
            return None
        numbers |= {_key(field, axis): number for axis, number in encoded.items()}
    return numbers


def _key(field: space.Field, axis: str) -> str:
    return f"{field.name}={axis}" if axis else field.name
