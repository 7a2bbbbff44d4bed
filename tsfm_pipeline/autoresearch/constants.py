"""The constants of each rule: the lists to choose from, and the choice on tuning rows.

What belongs here: the declared constants, the lists, and the search over them. What does not: the
loss of a set of constants (`tuning_rows`), the choice among rules (`tuning`).
Axes: N tenants of the tuning rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.calibration import clustered
from tsfm_pipeline.autoresearch.rules import PRIOR_KINDS, DecisionRule
from tsfm_pipeline.autoresearch.tuning_rows import Schedule, TierRows
from tsfm_pipeline.baselines.combinations import TierChoices
from tsfm_pipeline.settings import SearchSettings

MAX_PASSES = 4
"""Highest number of sweeps over the constants of one rule; the search ends as soon as a sweep
changes nothing, usually after two or three.
"""


@dataclass(frozen=True)
class Grid:
    """The constants to choose from for one rule: the declared ones, and blocks of fields that are
    searched together, each field with its list of values.
    """

    kind: type[DecisionRule]
    start: dict[str, Any]
    blocks: tuple[Mapping[str, Sequence[Any]], ...]

    def distance(self, rule: DecisionRule) -> int:
        """Return how many steps in the lists lie between a rule and the declared one."""
        lists = {name: list(values) for block in self.blocks for name, values in block.items()}
        return sum(
            abs(values.index(getattr(rule, name)) - values.index(self.start[name]))
            for name, values in lists.items()
        )


def grids(settings: SearchSettings, schedule: Schedule, rival: TierChoices) -> dict[str, Grid]:
    """Return the grid of each rule, simplest rule first. The declared constants are the retrieved
    prior, no decay, and the middle of every other list.
    """
    origins = {"half_life": schedule.half_lives, "same_hour": settings.same_hours}
    shrinkage = {"prior": PRIOR_KINDS, "kappa": settings.shrinkages}
    start = {
        "prior": "retrieved",
        "half_life": max(schedule.half_lives),
        "same_hour": _middle(settings.same_hours),
    }
    shrunken = {**start, "kappa": _middle(settings.shrinkages)}

    def with_own(kind: type[DecisionRule], own: dict[str, Sequence[Any]], **fixed: Any) -> Grid:
        middles = {name: _middle(values) for name, values in own.items()}
        return Grid(kind, {**shrunken, **middles, **fixed}, (shrinkage, origins, own))

    return {
        "argmin": Grid(rules.Argmin, {**start, "kappa": 0.0}, ({"prior": PRIOR_KINDS}, origins)),
        "shrunken_argmin": Grid(rules.ShrunkenArgmin, shrunken, (shrinkage, origins)),
        "no_harm": with_own(rules.NoHarm, {"margin": settings.margins}, fixed=rival.fixed_config),
        "top_m": with_own(rules.TopM, {"m": settings.top_ms}),
        "softmax": with_own(rules.Softmax, {"temperature": settings.temperatures}),
        "tilted_ensemble": with_own(
            rules.TiltedEnsemble,
            {"temperature": settings.tilts, "epsilon": settings.ensemble_epsilons},
            base=rival.ensemble_weights,
        ),
    }


def _middle(values: Sequence[Any]) -> Any:
    return values[len(values) // 2]


def tune(grid: Grid, rows: TierRows, among: NDArray[np.bool_]) -> Any:
    """Return the rule nearest to the declared one among those that cost at most one standard error
    more than the cheapest, by the losses of some of the tenants: bool [N]. Where there are none,
    the declared rule.

    The cheapest is found by block-coordinate descent from the declared constants: each block's full
    product in turn, until a sweep changes nothing. The error is that of the paired difference over
    tuning tenants. Few tenants do not support a choice among hundreds of constants, hence the
    one-standard-error rule (Breiman et al., 1984).
    """
    n_rows = rows.outcomes.n_rows[among]
    constants = grid.start
    if not len(n_rows):
        return grid.kind(**constants)
    seen: dict[DecisionRule, float] = {}

    def loss(rule: DecisionRule) -> float:
        if rule not in seen:
            seen[rule] = float(rows.tenant_sums(rule)[among].sum() / n_rows.sum())
        return seen[rule]

    for _ in range(MAX_PASSES):
        before = constants
        for block in grid.blocks:
            options = [
                {**constants, **dict(zip(block, values, strict=True))}
                for values in product(*block.values())
            ]
            constants = min([constants, *options], key=lambda option: loss(grid.kind(**option)))
        if constants == before:
            break
    cheapest = rows.tenant_sums(grid.kind(**constants))
    for rule in sorted(seen, key=lambda rule: (grid.distance(rule), seen[rule])):
        excess, error = clustered((rows.tenant_sums(rule) - cheapest)[among], n_rows)
        if excess <= error:
            return rule
    return grid.kind(**constants)
