"""Test the final look and the timing of a policy on a small fleet: the default policy costs what the
fleet graph pays for it, and every part of a look counts what it says.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.policy_search.final_look import (
    ScoredRequests,
    final_look,
    score_test_requests,
    tuning_rows,
)
from tsfm_pipeline.studies.policy_search.fitting import View, fit_fold
from tsfm_pipeline.studies.policy_search.latency import WARM_UP
from tsfm_pipeline.studies.policy_search.policy import DEFAULT, Policy, policy_of
from tsfm_pipeline.studies.policy_search.prepare import prepare
from tsfm_pipeline.studies.policy_search.scope import SCOPE, StudyFleet
from tsfm_pipeline.studies.policy_search.timing import N_REQUESTS, measured_p95
from tsfm_pipeline_tests.project import Project
from tsfm_pipeline_tests.studies.policy_search.hosts import (
    FLEET,
    N_METRICS,
    N_ORIGINS,
    N_TENANTS,
    project_with_hosts,
)

pytestmark = pytest.mark.heavy

YARDSTICK: Any = SimpleNamespace(fleets=(FLEET,))
OTHER = policy_of({"portfolio_size": 3, "recent_origins": 8, "candidates": ["ctx48", "ctx96"]})
"""Another portfolio, another schedule, and a candidate that the tables lack."""
FLEETS_OWN = (
    "forecast_requests",
    "request_targets",
    "archetype_index",
    "config_portfolio",
    "forecast_grid",
    "validation_losses",
    "tuning_losses",
    "config_priors",
    "search_policy",
    "autoresearch_forecasts",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = project_with_hosts(tmp_path_factory.mktemp("look"))
    prepare(project.settings, FLEET)
    return project


@pytest.fixture(scope="module")
def study(project: Project) -> StudyFleet:
    return SCOPE.open(project.settings, FLEET)


def scored(study: StudyFleet, *policies: Policy) -> ScoredRequests:
    first, second = (policy.settings for policy in policies)
    rows = tuning_rows(study, (first, second))
    return score_test_requests(study, rows, (first, second), model_of(study.settings))


@pytest.fixture(scope="module")
def graph(project: Project, study: StudyFleet) -> Fleet:
    """The fleet with the tables that its own graph makes, until the search's test forecasts."""
    fleet = project.fleet(FLEET)
    for name in FLEETS_OWN:
        make(FLEETS, fleet, TABLES[name], MAKERS[name], fleet.settings)
    return fleet


def graph_losses(fleet: Fleet) -> NDArray[np.floating]:
    """The mean scaled loss of the fleet's own search at its test requests [R, A]."""
    requests, alphas = fleet.arrays.requests("test"), fleet.protocol.alphas
    shape = (N_METRICS, len(alphas))
    (decision,) = fleet.arrays.of("autoresearch_forecasts", requests, ["decision"], shape)
    actual, scale = fleet.arrays.of("request_targets", requests, ["actual", "scale"], (N_METRICS,))
    losses = [mean_pinball(actual, decision[:, :, a], alpha) for a, alpha in enumerate(alphas)]
    return np.mean(np.stack(losses, axis=-1) / scale[..., None], axis=1)


def test_the_default_policy_costs_what_the_fleet_graph_pays(
    study: StudyFleet, graph: Fleet
) -> None:
    """In folds in which both choose the same portfolio."""
    found = scored(study, Policy(), Policy())
    assert len(found.tenants) == N_TENANTS * N_ORIGINS
    assert not found.failed.any()
    np.testing.assert_array_equal(found.challenger, found.replaced)
    rows = tuning_rows(study, ())
    assert list(rows.alphas) == list(graph.protocol.tiers)
    expected = graph_losses(graph)
    folds, policies = graph.manifest["fold"].to_numpy(), read_policies(graph)
    n_compared = 0
    for fold in np.unique(folds):
        fitted = fit_fold(View(rows, DEFAULT), int(fold))
        if fitted.policy.portfolio != policies[int(fold)].portfolio:
            continue
        for tenant in np.flatnonzero(folds == fold):
            own = found.challenger[found.tenants == tenant]
            requests = graph.arrays.requests("test").tenants == tenant
            np.testing.assert_allclose(own, expected[requests], rtol=1e-3)
            n_compared += 1
    assert n_compared >= N_TENANTS // 2


@pytest.mark.slow
def test_a_look_compares_both_policies_at_every_tier(project: Project, study: StudyFleet) -> None:
    looks = final_look(project.settings, YARDSTICK, OTHER, Policy())
    assert {(look.fleet, look.group) for look in looks} == {(FLEET, "")}
    assert sorted(look.tier for look in looks) == ["basic", "premium", "standard"]
    found = scored(study, OTHER, Policy())
    for a, look in enumerate(looks):
        own, other = found.challenger[:, a], found.replaced[:, a]
        assert look.ratio == pytest.approx(own.sum() / other.sum())
        assert look.low <= look.ratio <= look.high
        assert (look.n_requests, look.n_tenants) == (N_TENANTS * N_ORIGINS, N_TENANTS)
        interval = two_way_bootstrap(
            own, other, found.tenants, found.days, **project.settings.evaluation.bootstrap
        )
        assert (look.low, look.high, look.n_days) == (interval.low, interval.high, interval.n_days)


def test_the_time_is_that_of_the_slow_requests_under_the_policy(project: Project) -> None:
    asked: list[tuple[AutoresearchEngine, Panel, str]] = []

    def answer(engine: AutoresearchEngine, history: Panel, tier: str) -> float:
        asked.append((engine, history, tier))
        return 1000.0 if len(asked) <= WARM_UP else float(len(asked) - WARM_UP)

    p95_ms = measured_p95(project.settings, YARDSTICK, OTHER, answer=answer)
    assert p95_ms == pytest.approx(np.quantile(np.arange(1, N_REQUESTS + 1), 0.95))
    assert len(asked) == WARM_UP + N_REQUESTS
    engine, history, _ = asked[0]
    assert set(engine.policy.portfolio) <= {"ctx48", "ctx96", *DEFAULT.candidates}
    assert len(engine.policy.offsets) == len(set(engine.policy.offsets))
    assert history.n_series == N_METRICS
    assert {tier for *_, tier in asked} == {"premium", "standard", "basic"}
    response = engine.forecast(history, "standard")
    assert np.isfinite(response.decision).all()
