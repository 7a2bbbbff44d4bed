"""The study's tables: every candidate's forecasts and evidence at the tuning requests of a fleet.

What belongs here: one record and one maker per table, their columns, and the bounds of their size.
What does not: making them (`making`), opening a fleet for the study (`scope`), reading them into
arrays (`rows`).

Together the tables hold all that an experiment reads, so that no later change of a fleet's own
tables moves the yardstick.
"""

from typing import TYPE_CHECKING, Any

from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import COLUMNS, FLOAT32, FLOAT64, INT32, METRIC, SERIES
from tsfm_pipeline.catalogue.registry import Column, Table, registry
from tsfm_pipeline.catalogue.tables import TABLES as FLEET_TABLES
from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.steps.makers import Maker, with_model
from tsfm_pipeline.studies.policy_search.space import DAYS, MOST_RECENT

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.scope import StudyContext, StudyFleet

POLICY_SEARCH = "policy_search"
"""The name of the scope, and of the group in the asset graph."""
FOLDER = f".{POLICY_SEARCH}"
"""The study's folder in the lake and among the records. No fleet has such a name, so that
forgetting a fleet never deletes it."""
FORECASTS, EVIDENCE = "candidate_forecasts", "candidate_evidence"
MOST_REQUESTS = 2400
"""Tuning requests per fleet; of a fleet with more, a seeded draw of whole tenants is used."""
WIDEST = SearchSettings(recent_origins=MOST_RECENT, daily_origins=DAYS)
"""The schedule whose validation origins the tables hold. Any schedule of up to 12 recent origins
and of daily ones 1, 2, 3 and 7 days ago is a part of it. A daily origin takes a window of its own
with most candidates, and three of the last week's seven were dropped for a third of the time."""
SAME_FORECASTS = ("forecast_grid", "validation_losses", "tuning_losses")
"""Tables of a fleet that are made by the same code as the candidates' tables: a new version of one
of them makes these stale too."""


def widest_offsets(horizon: int, season: int | None) -> tuple[int, ...]:
    """Return the J validation origins of the tables, in steps before a request, ascending."""
    return validation_offsets(WIDEST, horizon, season)


def _requests(context: "StudyContext") -> parameters.Parameters:
    """Return what decides which requests are tuned on, and what happened after them."""
    return {
        "request_targets": context.fleet_tables["request_targets"],
        "seed": context.fleet.settings.evaluation.seed,
        "most_requests": MOST_REQUESTS,
    }


def _features(context: "StudyContext") -> parameters.Parameters:
    """Return the requests, and the version of the features, which the fleet's index has as well."""
    return {**_requests(context), "index_version": FLEET_TABLES["archetype_index"].version}


def _candidates(context: "StudyContext") -> parameters.Parameters:
    """Return what decides the candidates' forecasts at these requests."""
    fleet = context.fleet
    return {
        **_requests(context),
        **parameters.model(fleet),
        **parameters.decided(fleet),
        "candidates": list(fleet.settings.search.candidates),
        "versions": {name: FLEET_TABLES[name].version for name in SAME_FORECASTS},
    }


def _evidence(context: "StudyContext") -> parameters.Parameters:
    """Return the same, with the validation origins of the fleet and of the widest schedule."""
    fleet = context.fleet.settings.search
    schedules = [[s.recent_origins, list(s.daily_origins)] for s in (fleet, WIDEST)]
    return {**_candidates(context), "schedules": schedules}


def _per_request(*, metrics: bool = True, candidates: bool = False) -> Any:
    """Return a function that counts one row per request, and metric, and candidate."""

    def count(study: "StudyFleet") -> int:
        n_rows = int(study.requests.ids.size)
        n_rows *= len(study.fleet.grid.metrics) if metrics else 1
        return n_rows * (len(study.candidates) if candidates else 1)

    return count


def _at_origins(name: str, meaning: str, unit: str) -> Column:
    return Column(
        name,
        FLOAT32,
        f"{meaning}, at each validation origin, nearest first; NaN: unavailable",
        unit,
        axis="J",
    )


def _of_fleet(*names: str) -> tuple[Column, ...]:
    return tuple(COLUMNS[name] for name in names)


_SERIES = _of_fleet(*SERIES, "config")
_FEATURES = Column(
    "features", FLOAT64, "features of the window, as the fleet's index has them", axis="F"
)
TABLES: dict[str, Table] = registry(
    (
        Table(
            "tuning_tenants",
            POLICY_SEARCH,
            POLICY_SEARCH,
            1,
            question="Which tenants are experiments judged on, and what do they look like?",
            row="tuning tenant that was drawn",
            parameters=_features,
            columns=(*_of_fleet("tenant_number", "tenant_id", "archetype"), _FEATURES),
            key=("tenant_number",),
            n_rows=lambda study: len(study.tenants),
        ),
        Table(
            "request_features",
            POLICY_SEARCH,
            POLICY_SEARCH,
            1,
            question="Which requests are experiments judged on, and what does the window before "
            "each look like?",
            row="tuning request",
            inputs=("tuning_tenants",),
            parameters=_features,
            columns=(
                *_of_fleet("request_id", "tenant_number"),
                Column("origin", INT32, "number of the request among its tenant's", "number"),
                *_of_fleet("origin_step", "valid"),
                _FEATURES,
            ),
            key=("request_id",),
            n_rows=_per_request(metrics=False),
        ),
        Table(
            "tuning_targets",
            POLICY_SEARCH,
            POLICY_SEARCH,
            1,
            question="What happened after each of these requests?",
            row="tuning request and metric",
            inputs=("tuning_tenants",),
            parameters=_requests,
            columns=_of_fleet(*SERIES, "scale", "actual"),
            key=("request_id", "metric"),
            n_rows=_per_request(),
        ),
        Table(
            FORECASTS,
            POLICY_SEARCH,
            POLICY_SEARCH,
            1,
            question="What would every candidate have forecast at these requests, and at what "
            "cost?",
            row="tuning request, metric and candidate",
            inputs=("tuning_tenants", "tuning_targets"),
            parameters=_candidates,
            columns=(
                *_SERIES,
                Column(
                    "decision_{tier}",
                    FLOAT32,
                    "quantile forecast at {tier}'s alpha per step; NaN: unavailable",
                    METRIC,
                    axis="H",
                ),
                Column("decision_median", FLOAT32, "median per step", METRIC, axis="H"),
                Column("spread", FLOAT32, "q.9 - q.5 per step", METRIC, axis="H"),
                *_of_fleet("loss_{tier}", "loss_median", "violation_{tier}"),
            ),
            key=("request_id", "metric", "config"),
            n_rows=_per_request(candidates=True),
            sharded=True,
        ),
        Table(
            EVIDENCE,
            POLICY_SEARCH,
            POLICY_SEARCH,
            1,
            question="What would every candidate have cost at earlier origins of the same series?",
            row="tuning request, metric and candidate",
            inputs=("tuning_tenants",),
            parameters=_evidence,
            columns=(
                *_SERIES,
                _at_origins("loss_{tier}", "mean pinball loss at {tier}'s alpha", METRIC),
                _at_origins(
                    "violation_{tier}", "share of observed steps above the {tier} decision", "share"
                ),
            ),
            key=("request_id", "metric", "config"),
            n_rows=_per_request(candidates=True),
            sharded=True,
        ),
    )
)
"""Every table of the study by name."""

_MAKING = "tsfm_pipeline.studies.policy_search.making"
MAKERS: dict[str, Maker] = {
    "tuning_tenants": Maker(f"{_MAKING}:tuning_tenants"),
    "request_features": Maker(f"{_MAKING}:request_features"),
    "tuning_targets": Maker(f"{_MAKING}:tuning_targets"),
    FORECASTS: with_model(
        f"{_MAKING}:candidate_forecasts_shard", leakage=f"{_MAKING}:forecasts_leakage"
    ),
    EVIDENCE: with_model(
        f"{_MAKING}:candidate_evidence_shard", leakage=f"{_MAKING}:evidence_leakage"
    ),
}
"""The maker of every table of the study."""
