"""Test the learned gate: its traits, that its coefficients minimise the loss of the average, and
that it falls back to the declared coefficients with few tenants.
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.calibration import Outcomes
from tsfm_pipeline.autoresearch.gate import even_and, fit_gate, trait_names, traits
from tsfm_pipeline.autoresearch.rules import PRIOR_KINDS, weights
from tsfm_pipeline.settings import SearchSettings

K, H, SEASON = 3, 6, 1440
OFFSETS = (60, 120, 1440, 2880)
ALPHA = 0.75
COEFFICIENTS = SearchSettings().gate_coefficients
DECLARED = (COEFFICIENTS["posterior"], 0.0)
EVEN = np.zeros(3)
"""Of the planted traits, `posterior` and `seasons_ago_2`; the second has no declared coefficient.
"""


def told(evidence: np.ndarray, **parts: np.ndarray) -> dict[str, float | np.ndarray]:
    """The traits [..., K] of evidence [..., K, J] by name; what is not given is the same for all
    configurations.
    """
    alike = np.ones(evidence.shape[:-1])
    priors = {kind: parts.get(kind, alike) for kind in PRIOR_KINDS}
    found = traits(
        parts.get("posterior", alike), priors, evidence, parts.get("spread", alike), OFFSETS, SEASON
    )
    return dict(zip(trait_names(OFFSETS, SEASON), np.moveaxis(found, -1, 0), strict=True))


def test_a_trait_compares_configurations_and_the_average_one_has_none() -> None:
    evidence = np.ones((K, len(OFFSETS)))
    found = told(evidence, spread=np.array([1.0, 2.0, 3.0]), fleet=np.array([2.0, 2.0, 2.0]))
    assert found["spread"][0] < 0 < found["spread"][2]
    assert found["spread"][1] == 0
    assert not any(found[name].any() for name in found if name != "spread")
    np.testing.assert_allclose(
        told(evidence, spread=np.array([10.0, 20.0, 30.0]))["spread"], found["spread"]
    )


def test_each_seasonal_origin_is_heard_by_itself_and_the_others_together() -> None:
    evidence = np.ones((K, len(OFFSETS)))
    evidence[0, 3] = 9.0
    found = told(evidence)
    assert list(found)[4:] == ["every_origin", "other_hours", "seasons_ago_1", "seasons_ago_2"]
    assert found["seasons_ago_2"][0] > 0 > found["seasons_ago_2"][1]
    assert found["every_origin"][0] > 0
    assert not found["seasons_ago_1"].any()
    assert not found["other_hours"].any()


def test_what_is_unknown_speaks_neither_for_nor_against() -> None:
    evidence = np.ones((K, len(OFFSETS)))
    evidence[0, 3], evidence[1, 3] = np.nan, 4.0
    found = told(evidence, retrieved=np.full(K, np.nan))
    assert found["seasons_ago_2"][0] == 0
    assert found["seasons_ago_2"][1] > 0 > found["seasons_ago_2"][2]
    assert not found["retrieved"].any()
    assert all(
        np.isfinite(trait).all() for trait in told(np.full((K, len(OFFSETS)), np.nan)).values()
    )


def test_without_a_season_there_are_no_seasonal_traits() -> None:
    assert trait_names(OFFSETS, None) == (
        "posterior",
        *PRIOR_KINDS,
        "spread",
        "every_origin",
        "other_hours",
    )
    found = traits(
        np.ones(K),
        dict.fromkeys(PRIOR_KINDS, np.ones(K)),
        np.ones((K, len(OFFSETS))),
        np.ones(K),
        OFFSETS,
        None,
    )
    assert found.shape == (K, 6)


def planted(n_tenants: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Outcomes]:
    """Trait 0 tells at each row which configuration is right, trait 1 nothing; configuration 2 is
    never right, which no trait tells.
    """
    rng = np.random.default_rng(seed)
    n = n_tenants * 10
    right = rng.integers(0, 2, n)
    told = rng.normal(0, 0.1, (n, K, 2))
    told[np.arange(n), right, 0] -= 1.0
    decisions = 1.0 + rng.normal(0, 0.1, (n, K, H))
    decisions[np.arange(n), right] = rng.normal(0, 0.01, (n, H))
    outcomes = Outcomes(
        np.zeros((n, H)), rng.uniform(0.5, 2, n), np.repeat(np.arange(n_tenants), 10)
    )
    return told.astype(np.float32), decisions.astype(np.float32), outcomes


def test_the_trait_that_tells_is_heard_and_the_configuration_that_is_never_right_loses() -> None:
    told, decisions, outcomes = planted(40)
    available = np.ones(told.shape[:2], dtype=bool)
    found = fit_gate(DECLARED, EVEN, told, decisions, available, outcomes, ALPHA, 0.3)
    assert found[0] < DECLARED[0]
    assert abs(found[1]) < 0.5 * abs(found[0])
    assert found[4] < min(found[2], found[3])
    assert found[2:].sum() == pytest.approx(0.0, abs=1e-12)

    unseen, theirs, actual = planted(40, seed=1)
    weight = weights(-(unseen @ found[:2] + found[2:]), available, 1.0)
    decided = np.einsum("mk,mkh->mh", weight, theirs)
    assert actual.mean_loss(decided, ALPHA) < 0.3 * actual.mean_loss(theirs.mean(axis=1), ALPHA)


def test_the_coefficients_are_a_minimum() -> None:
    told, decisions, outcomes = planted(20)
    available = np.ones(told.shape[:2], dtype=bool)
    found = fit_gate(DECLARED, EVEN, told, decisions, available, outcomes, ALPHA, 1e-6)

    def loss(coefficients: np.ndarray) -> float:
        weight = weights(-(told @ coefficients[:2] + coefficients[2:]), available, 1.0)
        return outcomes.mean_loss(np.einsum("mk,mkh->mh", weight, decisions), ALPHA)

    for i in range(len(found)):
        for step in (-1.0, 1.0):
            moved = found.copy()
            moved[i] += step
            assert loss(moved) > loss(found) - 1e-5


def test_a_heavy_penalty_and_no_rows_leave_the_declared_coefficients() -> None:
    told, decisions, outcomes = planted(4)
    available = np.ones(told.shape[:2], dtype=bool)
    declared = [*DECLARED, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(
        fit_gate(DECLARED, EVEN, told, decisions, available, outcomes, ALPHA, 1e9),
        declared,
        atol=1e-3,
    )
    nobody = np.zeros(len(told), dtype=bool)
    np.testing.assert_array_equal(
        fit_gate(
            DECLARED,
            EVEN,
            told[nobody],
            decisions[nobody],
            available[nobody],
            outcomes.of(nobody),
            ALPHA,
            0.3,
        ),
        declared,
    )


def test_where_no_trait_tells_the_gate_starts_from_the_given_weights() -> None:
    """Configuration 2 is nowhere available."""
    told, decisions, outcomes = planted(4)
    available = np.ones(told.shape[:2], dtype=bool)
    available[:, 2] = False
    start = even_and((0.75, 0.25, 0.0), 0.4, available)
    found = fit_gate(DECLARED, start, 0 * told, decisions, available, outcomes, ALPHA, 1e9)
    weight = weights(-(0 * told @ found[:2] + found[2:]), available, 1.0)
    np.testing.assert_allclose(weight, np.tile([0.65, 0.35, 0.0], (len(told), 1)), atol=1e-3)
    np.testing.assert_allclose(even_and((0.0, 1.0, 0.0), 1.0, available | True), np.log(1 / 3))


def test_every_declared_coefficient_is_of_a_trait_that_some_fleet_has() -> None:
    assert set(COEFFICIENTS) <= set(trait_names((60, 1440, 7 * 1440), SEASON))


def test_an_unavailable_configuration_has_no_say() -> None:
    """Whatever its traits and decisions hold."""
    told, decisions, outcomes = planted(10)
    available = np.ones(told.shape[:2], dtype=bool)
    available[:, 2] = False
    other_told, other_decisions = told.copy(), decisions.copy()
    other_told[:, 2], other_decisions[:, 2] = 7.0, 0.0
    first = fit_gate(DECLARED, EVEN, told, decisions, available, outcomes, ALPHA, 0.3)
    second = fit_gate(DECLARED, EVEN, other_told, other_decisions, available, outcomes, ALPHA, 0.3)
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_slope_is_the_derivative_of_the_mean_loss() -> None:
    rng = np.random.default_rng(2)
    actual = rng.normal(size=(5, H))
    actual[0, :2] = np.nan
    outcomes = Outcomes(actual, rng.uniform(0.5, 2, 5), np.arange(5))
    decision = rng.normal(size=(5, H))
    loss, slope = outcomes.loss_and_slope(decision, ALPHA)
    assert loss == pytest.approx(outcomes.mean_loss(decision, ALPHA), rel=1e-5)
    for m, h in ((0, 0), (0, 3), (4, 5)):
        moved = decision.copy()
        moved[m, h] += 1e-3
        assert slope[m, h] == pytest.approx(
            (outcomes.loss_and_slope(moved, ALPHA)[0] - loss) / 1e-3, abs=1e-4
        )
