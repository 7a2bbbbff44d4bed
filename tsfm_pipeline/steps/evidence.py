"""The evidence of a batch of requests as arrays: grid, validation losses, priors and policies.

What belongs here: reading stored tables into arrays [R, D, K, ...]. What does not: making the
tables (`steps.forecasts`), deciding (`autoresearch`).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.policy import Decision, SearchPolicy
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import tested_folds, tuning_mask
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, N_COLUMNS, ForecastConfig
from tsfm_pipeline.steps.known_events import beside_events

Floats = NDArray[np.floating]


def loss_columns(tiers: Iterable[str]) -> list[str]:
    """Return the columns that hold a configuration's loss at each tier's alpha."""
    return [f"loss_{tier}" for tier in tiers]


def violation_columns(tiers: Iterable[str]) -> list[str]:
    """Return the columns that hold a configuration's violation rate at each tier."""
    return [f"violation_{tier}" for tier in tiers]


def score_columns(
    losses: Floats, violations: Floats, levels: Iterable[str], tiers: Iterable[str]
) -> dict[str, Floats]:
    """Return losses [..., L] and violation rates [..., A] as columns by name; levels [L] are the
    tiers [A], or begin with them.
    """
    columns = {name: losses[..., a] for a, name in enumerate(loss_columns(levels))}
    return columns | {name: violations[..., a] for a, name in enumerate(violation_columns(tiers))}


class SearchBatch:
    """Everything that a decision rule may use for the test requests of some tenants, as arrays
    [R, D, ...].

    K counts the configurations of all folds. Those outside of the portfolio of a request's fold are
    NaN.
    """

    def __init__(self, fleet: Fleet, requests: Requests) -> None:
        self.fleet = fleet
        self.requests = requests

    @property
    def configs(self) -> tuple[ForecastConfig, ...]:
        """The K configurations."""
        return self.fleet.configs

    @cached_property
    def all_deciles(self) -> Floats:
        """Deciles [R, D, K, H, 9] of every configuration, also of those outside the portfolio."""
        return grid_arrays(self.fleet, self.requests)[0]

    @cached_property
    def deciles(self) -> Floats:
        """Deciles [R, D, K, H, 9] of the configurations in the portfolio; NaN for the others."""
        return np.where(self.members[:, None, :, None, None], self.all_deciles, np.float32(np.nan))

    @cached_property
    def evidence(self) -> tuple[Floats, Floats]:
        """Validation losses and violation rates [R, D, K, J, A]."""
        return self._of_members(validation_arrays(self.fleet, self.requests))

    @cached_property
    def evidence_of_every_origin(self) -> tuple[Floats, Floats]:
        """The same where known events count as ordinary times."""
        return self._of_members(validation_arrays(self.fleet, self.requests, despite_events=True))

    def _of_members(self, evidence: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        losses, violations = evidence
        members = self.members[:, None, :, None, None]
        return np.where(members, losses, np.nan), np.where(members, violations, np.nan)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The test fold of each request [R]."""
        return self.requests.frame["fold"].to_numpy().astype(np.int64)

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Which configurations are in the portfolio of each request's fold [R, K]."""
        masks = {int(fold): self.fleet.portfolio_mask(int(fold)) for fold in np.unique(self.folds)}
        return np.array([masks[int(fold)] for fold in self.folds], dtype=bool).reshape(
            len(self.folds), len(self.fleet.configs)
        )

    @cached_property
    def priors(self) -> tuple[dict[str, Floats], Floats]:
        """Relative losses {kind: [R, D, K, A]} and violation rates [R, D, K, A], from the tuning
        tenants of the request's own fold.
        """
        return prior_arrays(self.fleet, self.requests)

    @cached_property
    def policies(self) -> dict[int, SearchPolicy]:
        """The policy of each test fold."""
        return read_policies(self.fleet)

    def decide(
        self,
        rule: str | None = None,
        correct: bool = True,
        *,
        deciles: Floats | None = None,
        priors: tuple[Mapping[str, Floats], Floats] | None = None,
        evidence: tuple[Floats, Floats] | None = None,
    ) -> Decision:
        """Return the decision of the policy of each request's fold.

        rule: name of a rule to use in place of the default. correct: False skips the level
        correction. deciles, priors, evidence: replacements for the requests' own, for controls and
        ablations; shapes as in the properties.
        """
        deciles = self.deciles if deciles is None else deciles
        losses, violations = self.evidence if evidence is None else evidence
        relative, violation_priors = self.priors if priors is None else priors
        names = [config.name for config in self.configs]
        n_requests, n_metrics, n_configs, horizon = deciles.shape[:4]
        n_tiers = len(self.fleet.protocol.tiers)
        tails = {
            "weights": (n_configs,),
            "deciles": (horizon, 9),
            "decision": (horizon,),
            "shift": (),
            "posterior": (n_configs,),
        }
        parts = {
            name: np.full((n_requests, n_metrics, n_tiers, *tail), np.nan)
            for name, tail in tails.items()
        }
        for fold in np.unique(self.folds):
            policy, rows = self.policies[int(fold)], np.flatnonzero(self.folds == fold)
            columns = np.array([names.index(name) for name in policy.portfolio])
            decided = policy.decide(
                deciles[rows][:, :, columns],
                losses[rows][:, :, columns],
                violations[rows][:, :, columns],
                {kind: prior[rows][:, :, columns] for kind, prior in relative.items()},
                violation_priors[rows][:, :, columns],
                rule=rule,
                correct=correct,
                limits=self.fleet.arrays.limits,
            )
            for name in ("deciles", "decision", "shift"):
                parts[name][rows] = getattr(decided, name)
            inside = np.ix_(rows, np.arange(n_metrics), np.arange(n_tiers), columns)
            answered = np.isfinite(decided.weights).all(axis=-1, keepdims=True)
            parts["weights"][rows] = np.where(answered, 0.0, np.nan)
            parts["weights"][inside], parts["posterior"][inside] = (
                decided.weights,
                decided.posterior,
            )
        return Decision(**parts)


def grid_arrays(fleet: Fleet, requests: Requests) -> tuple[Floats, Floats, Floats]:
    """Return deciles [R, D, K, H, 9], actual [R, D, H] and scale [R, D] of the requests."""
    n_metrics, n_configs = len(fleet.grid.metrics), len(fleet.configs)
    (forecast,) = fleet.arrays.of("forecast_grid", requests, ["forecast"], (n_metrics, n_configs))
    deciles = forecast.reshape(*forecast.shape[:3], fleet.spec.horizon, N_COLUMNS)[
        ..., DECILE_COLUMNS
    ]
    actual, scale = target_arrays(fleet, requests)
    return deciles, actual, scale


def target_arrays(fleet: Fleet, requests: Requests) -> tuple[Floats, Floats]:
    """Return actual [R, D, H] and scale [R, D] of the requests."""
    actual, scale = fleet.arrays.of(
        "request_targets", requests, ["actual", "scale"], (len(fleet.grid.metrics),)
    )
    return actual, scale


def validation_arrays(
    fleet: Fleet, requests: Requests, *, despite_events: bool = False
) -> tuple[Floats, Floats]:
    """Return validation losses and violation rates of the requests [R, D, K, J, A].

    Origins that the fleet's known events make no evidence for a request are NaN, unless
    `despite_events` (`EventSteps.comparable`).
    """
    shape = (len(fleet.grid.metrics), len(fleet.configs), len(fleet.offsets))
    tiers = fleet.protocol.tiers
    columns = fleet.arrays.of(
        "validation_losses", requests, [*loss_columns(tiers), *violation_columns(tiers)], shape
    )
    parts = np.stack(columns[: len(tiers)], axis=-1), np.stack(columns[len(tiers) :], axis=-1)
    return parts if despite_events else beside_events(fleet, requests, parts)


def prior_arrays(
    fleet: Fleet, requests: Requests, fold: int | None = None
) -> tuple[dict[str, Floats], Floats]:
    """Return priors {kind: [R, D, K, A]} and prior violation rates [R, D, K, A].

    fold: the test fold whose tuning tenants they come from; None, for test requests, means each
    request's own fold. Raises ValueError if the table lacks rows.
    """
    frame = fleet.arrays.rows("config_priors", requests)
    if fold is not None:
        frame = frame.filter(pl.col("fold") == fold)
    table = frame.sort("request_id", maintain_order=True).collect()
    shape = (requests.ids.size, len(fleet.grid.metrics), len(fleet.configs))
    if table.height != int(np.prod(shape)):
        raise ValueError(
            f"table 'config_priors' holds {table.height} rows for {requests.ids.size} requests; "
            f"expected {np.prod(shape)}"
        )
    fleet_prior, retrieved, violations = (
        np.stack(
            [table[f"{kind}_{tier}"].to_numpy().reshape(shape) for tier in fleet.protocol.tiers],
            axis=-1,
        )
        for kind in ("fleet", "retrieved", "violations")
    )
    return {"fleet": fleet_prior, "retrieved": retrieved}, violations


@lru_cache(maxsize=2)
def read_policies(fleet: Fleet) -> dict[int, SearchPolicy]:
    """Return the search policy of each test fold."""
    frame = fleet.tables.read("search_policy")
    return {
        row["fold"]: SearchPolicy.model_validate_json(row["policy"])
        for row in frame.iter_rows(named=True)
    }


@lru_cache(maxsize=2)
def tunes(fleet: Fleet) -> NDArray[np.bool_]:
    """Return which tenants are tuning tenants of some test fold, bool [N]."""
    folds = fleet.folds
    return np.any([tuning_mask(folds, fold) for fold in tested_folds(folds)], axis=0)


def by_request(array: NDArray[Any], n_metrics: int) -> NDArray[Any]:
    """Reorder an array by request: [N * D, O, ...] -> [R = N * O, D, ...]."""
    shaped = array.reshape(len(array) // n_metrics, n_metrics, *array.shape[1:]).swapaxes(1, 2)
    return shaped.reshape(shaped.shape[0] * shaped.shape[1], *shaped.shape[2:])
