"""Test what a policy costs on rows in which a better policy is planted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.studies.policy_search.evaluation import evaluate
from tsfm_pipeline.studies.policy_search.fitting import FittedFold, View, fit_fold
from tsfm_pipeline.studies.policy_search.policy import policy_of
from tsfm_pipeline.studies.policy_search.results import FleetResult
from tsfm_pipeline.studies.policy_search.rows import FleetRows, per_candidate
from tsfm_pipeline_tests.studies.policy_search import planted

pytestmark = pytest.mark.heavy
DEFAULT, BETTER = (
    policy_of({**planted.QUICK, **change}).settings for change in ({}, planted.BETTER)
)
PER_REQUEST = (
    *("tenants", "origins", "valid", "actual", "scale", "decisions", "spread", "losses"),
    *("violations", "evidence", "evidence_violations", "features"),
)


@pytest.fixture(scope="module")
def rows() -> FleetRows:
    return planted.rows(n_tenants=20)


def _cost(
    rows: FleetRows,
    search: SearchSettings = DEFAULT,
    folds: tuple[int, ...] = (0, 1),
    share: float = 1.0,
) -> FleetResult:
    return evaluate(rows, search, folds, share, planted.LINE)


def _gain(where: planted.Where, folds: tuple[int, ...]) -> float:
    """Return by how much the planted change lowers the mean loss, as a share."""
    rows = planted.rows(where)
    default, better = (_cost(rows, search, folds).loss() for search in (DEFAULT, BETTER))
    return 1 - float(better.mean() / default.mean())


def _without(rows: FleetRows, candidates: list[int], where: np.ndarray) -> FleetRows:
    """Return the rows with some candidates unavailable at some requests, bool [R]."""
    changed: dict[str, Any] = {}
    for name in ("decisions", "spread", "losses", "violations", "evidence", "evidence_violations"):
        values = getattr(rows, name).copy()
        values[np.ix_(where, np.arange(rows.n_metrics), np.array(candidates))] = np.nan
        changed[name] = values
    return replace(rows, **changed)


def _kept(rows: FleetRows, n_candidates: int) -> FleetRows:
    """Return the rows with their first candidates only."""
    changed: dict[str, Any] = {
        name: getattr(rows, name)[:, :, :n_candidates] for name in per_candidate(rows.alphas)
    }
    return replace(rows, candidates=rows.candidates[:n_candidates], **changed)


def _constants(fitted: FittedFold) -> tuple[str, str, list[float]]:
    return (
        fitted.policy.model_dump_json(),
        fitted.choices.model_dump_json(),
        [*fitted.experience.losses.ravel().tolist(), *fitted.index.vectors.ravel().tolist()],
    )


def test_a_better_policy_costs_less_in_all_folds() -> None:
    assert _gain("everywhere", planted.CHOOSING) > 0.1
    assert _gain("everywhere", planted.CONFIRMING) > 0.1


def test_a_policy_that_is_better_for_those_that_chose_it_costs_more_elsewhere() -> None:
    assert _gain("choosing", planted.CHOOSING) > 0.1
    assert _gain("choosing", planted.CONFIRMING) < -0.05


def test_the_loss_is_that_of_the_best_forecast_where_one_candidate_is_nearly_right(
    rows: FleetRows,
) -> None:
    """The extra candidate's error is small, so its mean loss is close to the rule's."""
    result = _cost(rows, BETTER)
    extra = (rows.losses[:, :, -1] / rows.scale[..., None])[
        np.isin(rows.folds[rows.tenants], (0, 1))
    ]
    for a, tier in enumerate(rows.alphas):
        assert np.isclose(result.loss(tier).mean(), extra[..., a].mean(), rtol=0.05)
        assert np.isclose(np.mean(result.fixed[tier]), extra[..., a].mean(), rtol=1e-5)
    assert np.isclose(result.mae, 2 * extra[..., -1].mean(), rtol=0.05)
    assert result.tenants == tuple(np.flatnonzero(np.isin(rows.folds, (0, 1))))
    assert result.groups == tuple(rows.groups[tenant] for tenant in result.tenants)


def test_constants_do_not_depend_on_the_tenants_that_they_are_scored_on(rows: FleetRows) -> None:
    own = rows.folds[rows.tenants] == 0
    noise = np.random.default_rng(1)
    poisoned: dict[str, Any] = {
        name: np.where(
            own.reshape(-1, *[1] * (getattr(rows, name).ndim - 1)),
            noise.uniform(1, 9, getattr(rows, name).shape),
            getattr(rows, name),
        ).astype(getattr(rows, name).dtype)
        for name in PER_REQUEST[3:]
    }
    features = rows.tenant_features.copy()
    features[rows.folds == 0] = 99.0
    changed = replace(rows, **poisoned, tenant_features=features)
    before, after = (fit_fold(View(part, DEFAULT), 0) for part in (rows, changed))
    assert _constants(after) == _constants(before)
    assert _cost(changed, folds=(0,)).losses != _cost(rows, folds=(0,)).losses
    assert _constants(fit_fold(View(changed, DEFAULT), 1)) != _constants(
        fit_fold(View(rows, DEFAULT), 1)
    )


def test_the_order_of_the_requests_changes_nothing(rows: FleetRows) -> None:
    order = np.random.default_rng(2).permutation(len(rows.tenants))
    moved: dict[str, Any] = {name: getattr(rows, name)[order] for name in PER_REQUEST}
    shuffled = replace(rows, **moved)
    assert _cost(shuffled) == _cost(rows)


def test_a_share_uses_every_nth_request_of_each_tenant(rows: FleetRows) -> None:
    thirds = rows.origins % 3 == 0
    changed: dict[str, Any] = {
        name: np.where(
            thirds.reshape(-1, *[1] * (getattr(rows, name).ndim - 1)), getattr(rows, name), 1.0
        )
        for name in ("losses", "decisions", "evidence", "actual")
    }
    other = replace(rows, **changed)
    assert _cost(other, share=1 / 3) == _cost(rows, share=1 / 3)
    assert _cost(other) != _cost(rows)
    with pytest.raises(ValueError, match="allowed: 1, 1/2, 1/3"):
        _cost(rows, share=0.4)


def test_a_candidate_without_a_forecast_is_replaced_by_others(rows: FleetRows) -> None:
    missing = rows.origins % 2 == 1
    extra = rows.candidates.index(planted.EXTRA)
    full, partly = _cost(rows, BETTER), _cost(_without(rows, [extra], missing), BETTER)
    assert np.isfinite(list(partly.losses.values())).all()
    assert (partly.loss() > full.loss()).mean() > 0.9


def test_a_request_that_the_policy_cannot_answer_costs_as_much_as_the_worst_candidate(
    rows: FleetRows,
) -> None:
    """Only one candidate has a forecast for one tenant, and the portfolio cannot hold it."""
    tenant = int(np.flatnonzero(rows.folds == 0)[0])
    others = [c for c, name in enumerate(rows.candidates) if name != "ctx64-s1x5"]
    at_tenant = rows.tenants == tenant
    search = DEFAULT.model_copy(update={"candidates": ("ctx64", "ctx96", "ctx128")})
    result = _cost(_without(rows, others, at_tenant), search, folds=(0,))
    assert result.tenants == _cost(rows, search, folds=(0,)).tenants
    worst = rows.losses[at_tenant][:, :, rows.candidates.index("ctx64-s1x5")]
    expected = (worst / rows.scale[at_tenant][..., None]).mean(axis=(0, 1))
    place = result.tenants.index(tenant)
    for a, tier in enumerate(rows.alphas):
        assert np.isclose(result.losses[tier][place], expected[a])
        assert np.isclose(result.fixed[tier][place], expected[a])


def test_requests_that_nobody_can_answer_or_score_do_not_count(rows: FleetRows) -> None:
    gone = rows.origins == 2
    invalid = replace(rows, valid=~gone)
    unscored = replace(
        _without(rows, list(range(len(rows.candidates))), gone),
        actual=np.where(gone[:, None, None], np.nan, rows.actual).astype(np.float32),
        valid=~gone,
    )
    assert _cost(invalid) == _cost(unscored)
    nothing = replace(
        rows, scale=np.where(rows.folds[rows.tenants][:, None] == 1, np.nan, rows.scale)
    )
    with pytest.raises(ValueError, match="no request of the tenants of fold 1 can be scored"):
        _cost(nothing)


def test_folds_of_one_tenant_are_scored_one_by_one() -> None:
    rows = planted.rows(n_tenants=4)
    alone = replace(rows, folds=np.arange(4))
    result = _cost(alone, folds=(0, 1, 2, 3))
    assert result.tenants == (0, 1, 2, 3)
    assert result.loss()[2] == _cost(alone, folds=(2,)).loss()[0]
    two = replace(rows, folds=np.array([0, 1, 1, 1]))
    assert np.isfinite(_cost(two, folds=(1,)).loss()).all()  # one tenant fits, without neighbours
    with pytest.raises(ValueError, match="nothing can be fitted"):
        _cost(replace(rows, folds=np.zeros(4, dtype=np.int64)), folds=(0,))


def test_a_candidate_that_only_one_policy_names_changes_no_request_that_counts(
    rows: FleetRows,
) -> None:
    """At some requests only the extra candidate has a forecast; at others it is the worst one."""
    extra = rows.candidates.index(planted.EXTRA)
    tables = [c for c in range(len(rows.candidates)) if c != extra]
    alone, partly = rows.origins == 1, rows.origins == 2
    gone = _without(_without(rows, tables, alone), tables[3:], partly)
    losses = gone.losses.copy()
    losses[:, :, extra] *= 100
    search = DEFAULT.model_copy(update={"candidates": rows.candidates[3:extra]})
    without = replace(_kept(gone, extra), n_sealed=extra)
    named = replace(gone, losses=losses, n_sealed=extra)
    assert _cost(named, search) == _cost(without, search)
    assert _cost(replace(named, n_sealed=extra + 1), search) != _cost(without, search)


def test_what_the_rows_lack_is_named(rows: FleetRows) -> None:
    with pytest.raises(ValueError, match="no candidate ctx8192; they hold ctx64"):
        _cost(rows, DEFAULT.model_copy(update={"candidates": ("ctx64", "ctx8192")}))
    with pytest.raises(ValueError, match="no validation origin 416; they hold 32, 64"):
        _cost(rows, DEFAULT.model_copy(update={"recent_origins": 13}))


def test_a_policy_without_a_plain_context_is_refused_because_a_fleet_would_add_one() -> None:
    rows = planted.rows(candidates=DEFAULT.candidates)
    search = policy_of({**planted.QUICK, "candidates": ["ctx640-r5", "ctx1280-r5"]}).settings
    with pytest.raises(ValueError, match=r"no plain context .* add one of ctx64, ctx96, "):
        _cost(rows, search, (0,))


def test_more_tokens_take_longer(rows: FleetRows) -> None:
    short, long = (
        _cost(rows, DEFAULT.model_copy(update={"portfolio_size": size})) for size in (2, 6)
    )
    assert short.tokens < long.tokens
    assert (short.p50_ms, short.p95_ms) == planted.LINE.predict(short.tokens)
    assert short.p95_ms < long.p95_ms
