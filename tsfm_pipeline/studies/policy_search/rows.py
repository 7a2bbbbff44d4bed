"""The rows that every experiment is judged on: all candidates at the tuning requests of one fleet.

What belongs here: the arrays, and reading them from the study's tables. What does not: making the
tables (`prepare`), and what a policy costs on them (`evaluation`).
Axes: N tuning tenants, R requests, D metrics, C candidates, J validation origins of the widest
schedule, A tiers, H horizon.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.evidence import loss_columns, violation_columns
from tsfm_pipeline.studies.policy_search.folds import deal_folds
from tsfm_pipeline.studies.policy_search.scope import SCOPE
from tsfm_pipeline.studies.policy_search.tables import EVIDENCE, FORECASTS

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class FleetRows:
    """Everything that an experiment may know of a fleet's tuning requests.

    candidates [C]: names of configurations; the first `n_sealed` are those of the study's tables,
    which decide for every policy alike which requests count. offsets [J]: validation origins in
    steps before a request, ascending. season: length of a day in steps, None without one. alphas
    {tier: alpha}, in the order of the axis A.
    tenant_ids [N], folds int [N] and groups [N] (archetypes, "" where unknown) of the tuning
    tenants. tenants int [R]: the row of each request's tenant, ascending. origins int [R]: the
    number of the request among its tenant's. valid bool [R].
    actual [R, D, H] in units of the values (NaN: not observed); scale [R, D].
    decisions [R, D, C, A + 1, H] in units of the values: quantile forecasts at each alpha, then the
    median; spread [R, D, C, H]: q.9 - q.5; NaN where a candidate is unavailable.
    losses [R, D, C, A + 1] at each alpha and at .5, and violations [R, D, C, A], of the requests
    themselves; evidence and evidence_violations [R, D, C, J, A], of the same candidates at the
    validation origins. Losses are in units of the values.
    features [R, F]: of the window before each request; tenant_features [N, F]: of the window before
    the test period, which the index of tenants holds. Arrays of forecasts, losses and rates are
    float32, as in the fleet's own tables.
    """

    fleet: str
    candidates: tuple[str, ...]
    n_sealed: int
    offsets: tuple[int, ...]
    horizon: int
    season: int | None
    alphas: dict[str, float]
    limits: Limits
    tenant_ids: tuple[str, ...]
    folds: NDArray[np.int64]
    groups: tuple[str, ...]
    tenants: NDArray[np.int64]
    origins: NDArray[np.int64]
    valid: NDArray[np.bool_]
    actual: Floats
    scale: Floats
    decisions: Floats
    spread: Floats
    losses: Floats
    violations: Floats
    evidence: Floats
    evidence_violations: Floats
    features: Floats
    tenant_features: Floats

    @property
    def n_metrics(self) -> int:
        """D, the metrics of a request."""
        return int(self.actual.shape[1])


class Field(NamedTuple):
    """A field of `FleetRows` that has a value per candidate: the table and the columns that it
    comes from, and its axis that runs over these columns, None if there is only one.
    """

    table: str
    columns: Sequence[str]
    axis: int | None

    def of(self, columns: Mapping[str, Floats]) -> Floats:
        """Return the field from its table's columns, arrays [R, D, C, ...]."""
        arrays = [columns[name] for name in self.columns]
        return arrays[0] if self.axis is None else np.stack(arrays, axis=self.axis)


def per_candidate(tiers: Iterable[str]) -> dict[str, Field]:
    """Return the fields of `FleetRows` whose third axis runs over candidates."""
    names = tuple(tiers)
    levels = (*names, "median")
    decisions = [f"decision_{level}" for level in levels]
    return {
        "decisions": Field(FORECASTS, decisions, -2),
        "spread": Field(FORECASTS, ["spread"], None),
        "losses": Field(FORECASTS, loss_columns(levels), -1),
        "violations": Field(FORECASTS, violation_columns(names), -1),
        "evidence": Field(EVIDENCE, loss_columns(names), -1),
        "evidence_violations": Field(EVIDENCE, violation_columns(names), -1),
    }


def read_rows(settings: Settings, fleet: str) -> FleetRows:
    """Return the rows of a fleet from the study's tables.

    Raises `LakeError` if a table is missing, stale or damaged: `prepare` makes it. Raises
    ValueError if the fleet has fewer tuning tenants than folds.
    """
    study = SCOPE.open(settings, fleet)
    tables, alphas = study.tables, study.fleet.protocol.tiers
    axes = tables.record(FORECASTS)
    tenants, requests = tables.read("tuning_tenants"), tables.read("request_features")
    targets = tables.read("tuning_targets")
    shape = (requests.height, len(axes["metrics"]))
    ids, groups = tenants["tenant_id"].to_list(), tenants["archetype"].fill_null("").to_list()
    return FleetRows(
        fleet=fleet,
        candidates=tuple(axes["candidates"]),
        n_sealed=len(axes["candidates"]),
        offsets=tuple(axes["offsets"]),
        horizon=axes["horizon"],
        season=axes["season"],
        alphas=dict(alphas),
        limits=Limits.of(study.fleet.spec.bounds_of(metric) for metric in axes["metrics"]),
        tenant_ids=tuple(ids),
        folds=deal_folds(ids, groups),
        groups=tuple(groups),
        tenants=np.searchsorted(tenants["tenant_number"], requests["tenant_number"]),
        origins=requests["origin"].to_numpy().astype(np.int64),
        valid=requests["valid"].to_numpy(),
        actual=targets["actual"].to_numpy().reshape(*shape, axes["horizon"]),
        scale=targets["scale"].to_numpy().reshape(shape),
        features=requests["features"].to_numpy(),
        tenant_features=tenants["features"].to_numpy(),
        **_fields(tables, per_candidate(alphas), (*shape, len(axes["candidates"]))),
    )


def _fields(
    tables: FleetLake, layout: Mapping[str, Field], shape: tuple[int, int, int]
) -> dict[str, Floats]:
    """Return the fields with a value per candidate, [R, D, C, ...] with R, D, C as in `shape`.

    Each array is filled part by part, so that no more than one part of a table is in memory twice.
    Raises ValueError if a table has other rows.
    """
    arrays: dict[str, Floats] = {}
    for table in dict.fromkeys(field.table for field in layout.values()):
        of_table = {name: field for name, field in layout.items() if field.table == table}
        wanted = [column for field in of_table.values() for column in field.columns]
        first = 0
        for number in range(len(tables.parts(table))):
            frame = tables.read(table, number, columns=wanted)
            n_requests = frame.height // int(np.prod(shape[1:]))
            columns = {column: _by_candidate(frame[column], shape) for column in wanted}
            for name, field in of_table.items():
                part = field.of(columns)
                if name not in arrays:
                    arrays[name] = np.empty((shape[0], *part.shape[1:]), dtype=part.dtype)
                arrays[name][first : first + n_requests] = part
            first += n_requests
        if first != shape[0]:
            raise ValueError(
                f"table {table!r} of {tables.name!r} holds {first} requests; expected {shape[0]}"
            )
    return arrays


def _by_candidate(column: pl.Series, shape: tuple[int, int, int]) -> Floats:
    """Return a column as an array [r, D, C, ...] of the r requests that it holds."""
    values = column.to_numpy()
    return values.reshape(-1, *shape[1:], *values.shape[1:])
