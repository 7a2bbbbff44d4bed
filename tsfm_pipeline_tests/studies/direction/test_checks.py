"""Test the checks of forecasts: red on built offenders, green on what is honest.

What belongs here: each check on small forecasts, and on the bundled model. What does not: tests
against look-ahead (`test_leakage`).
"""

from typing import NamedTuple

import numpy as np
import pytest

from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction import checks
from tsfm_pipeline.studies.direction.auc import auc, auc_draws
from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.bootstrap import day_counts, interval
from tsfm_pipeline.studies.direction.labels import labels
from tsfm_pipeline.studies.direction.leakage import shift_test
from tsfm_pipeline.studies.direction.options import LabelOptions
from tsfm_pipeline.studies.direction.problem import Fold, Target
from tsfm_pipeline_tests.studies.direction.prices import sp500

THRESHOLD = 0.01
N_DAYS = 400
RNG = np.random.default_rng(0)
HONEST = 0.01 * RNG.normal(size=N_DAYS)


def test_forecasts_that_vary_have_not_collapsed() -> None:
    check = checks.collapse("honest", np.stack([HONEST, HONEST + 0.001]))
    assert check.passed
    assert check.figures["n_distinct"] == 2 * N_DAYS


@pytest.mark.parametrize(
    "forecasts",
    [
        np.full(N_DAYS, 0.2),
        0.2 + 1e-8 * HONEST,
        np.where(HONEST > 0, 0.2, 0.4),
        np.tile(np.linspace(0, 1, 20)[:, None], N_DAYS),  # seeds differ, days do not
        np.full(N_DAYS, np.nan),
    ],
    ids=["constant", "rounding errors", "two values", "constant per seed", "no forecast"],
)
def test_a_collapsed_model_is_red(forecasts: Floats) -> None:
    check = checks.collapse("offender", forecasts)
    assert not check.passed
    assert "one value" in check.sentence


def regression(covariates: Floats) -> Floats:
    """Forecasts of the last days by a regression of the outcomes on yesterday's covariates."""
    half = len(OUTCOMES) // 2
    weights = np.linalg.lstsq(covariates[:half], OUTCOMES[:half], rcond=None)[0]
    return covariates[half:] @ weights


def dropping(covariates: Floats) -> Floats:
    """The same forecasts, whatever the covariates."""
    return HONEST[len(covariates) // 2 :] + 8e-9 * covariates[len(covariates) // 2 :, 0]


def glancing(covariates: Floats) -> Floats:
    """Forecasts that covariates change, but not towards the outcome."""
    return dropping(covariates) + 0.05 * np.abs(covariates[len(covariates) // 2 :, 0])


OUTCOMES = 0.01 * RNG.normal(size=N_DAYS)


def test_covariates_that_reach_the_model_and_are_used_are_green() -> None:
    covariates = np.column_stack([OUTCOMES + HONEST, HONEST])
    assert checks.covariate_effect("honest", regression, covariates, seed=0).passed
    assert checks.covariate_use("honest", regression, OUTCOMES, seed=0).passed


def test_a_model_that_drops_its_covariates_is_red() -> None:
    effect = checks.covariate_effect("offender", dropping, RNG.normal(size=(N_DAYS, 3)), seed=0)
    assert not effect.passed
    assert "do not reach the model" in effect.sentence
    assert not checks.covariate_use("offender", dropping, OUTCOMES, seed=0).passed


def test_an_effect_is_no_use() -> None:
    assert checks.covariate_effect("offender", glancing, RNG.normal(size=(N_DAYS, 1)), 0).passed
    assert not checks.covariate_use("offender", glancing, OUTCOMES, seed=0).passed


def test_permuted_rows_stay_whole() -> None:
    values = np.column_stack([np.arange(50.0), np.arange(50.0)])
    shuffled = checks.shuffled_days(values, seed=0)
    assert (shuffled[:, 0] == shuffled[:, 1]).all()
    assert (shuffled != values).any()


class Forecasts(NamedTuple):
    """The bundled model on real returns, on days [D]: mean and spread as returns, q90, all [T] with
    NaN elsewhere; and the label of the next high.
    """

    bars: Bars
    fold: Fold
    mean: Floats
    q90: Floats
    spread: Floats
    label: Floats

    def estimate(self, scores: Floats) -> Estimate:
        days, n_days = self.fold.test, len(self.fold.test)
        given = scores[days], self.label[days], np.zeros(n_days, np.int64)
        draws = auc_draws(*given, day_counts(n_days, 10, 200, seed=0))
        return Estimate(auc(*given), *interval(draws, 0.95))


@pytest.fixture(scope="module")
def forecasts() -> Forecasts:
    bars = sp500().until(1200)
    days = np.arange(600, 600 + N_DAYS)
    panel = Panel(100 * bars.returns[None, 1:].astype(np.float32))
    grid = load_forecaster("bundled", device="cpu").forecast_grid(
        panel, days - 1, [ForecastConfig(context_len=80)], horizon=1
    )[0, :, 0, 0]
    returns = np.full((len(bars), grid.shape[-1]), np.nan)
    returns[days] = grid / 100
    none = np.array([], np.int64)
    return Forecasts(
        bars,
        Fold(2001, none, none, days[2:]),
        returns[:, 0],
        returns[:, 9],
        returns[:, 9] - returns[:, 1],
        labels(bars, LabelOptions(threshold=THRESHOLD))[Target("touch_up", 1)],
    )


@pytest.mark.heavy
def test_the_bundled_model_has_not_collapsed(forecasts: Forecasts) -> None:
    days = forecasts.fold.test
    assert checks.collapse("mean", forecasts.mean[days]).passed
    assert checks.collapse("spread", forecasts.spread[days]).passed


@pytest.mark.heavy
def test_the_mean_never_reaches_the_threshold_and_the_quantile_does(forecasts: Forecasts) -> None:
    days = forecasts.fold.test
    label = forecasts.label[days]
    quantile = checks.reachability("q90", forecasts.q90[days], THRESHOLD, label)
    mean = checks.reachability("mean", forecasts.mean[days], THRESHOLD, label)
    assert quantile.passed
    assert quantile.figures["share_of_days"] > quantile.figures["base_rate"]
    assert not mean.passed
    assert "never reaches" in mean.sentence


@pytest.mark.heavy
def test_the_mean_is_read_the_wrong_way_round_and_the_spread_is_not(forecasts: Forecasts) -> None:
    mean, spread = forecasts.estimate(forecasts.mean), forecasts.estimate(forecasts.spread)
    wrong = checks.inversion("mean", mean, spread)
    assert not wrong.passed
    assert "scores volatility negatively" in wrong.sentence
    assert f"{spread.figure:.3f}" in wrong.sentence
    assert wrong.figures["auc"] == mean.figure < 0.5, "nothing is turned round"
    assert checks.inversion("spread", spread, spread).passed
    assert not checks.inversion("negated", forecasts.estimate(-forecasts.spread), spread).passed


@pytest.mark.heavy
def test_a_context_that_ends_a_day_early_is_red(forecasts: Forecasts) -> None:
    days = forecasts.fold.test
    label, returns = forecasts.label[days], forecasts.bars.returns[days]
    strata = np.zeros(len(days), np.int64)

    def check(days_late: int) -> checks.Check:
        at = days - days_late
        areas = (auc(forecasts.spread[each], label, strata) for each in (at, at - 1))
        return checks.off_by_one("model", *areas, forecasts.mean[at], returns)

    assert check(0).passed
    assert not check(1).passed
    assert "does not know the return of its own day" in check(1).sentence


def test_inputs_that_are_as_good_a_day_older_are_red() -> None:
    assert checks.off_by_one("honest", 0.7, 0.69, HONEST, HONEST).passed
    check = checks.off_by_one("offender", 0.7, 0.7, HONEST, HONEST)
    assert not check.passed
    assert "one day older do as well" in check.sentence


@pytest.mark.heavy
def test_a_score_that_is_a_day_late_or_early_is_red(forecasts: Forecasts) -> None:
    def check(days_late: int) -> checks.Check:
        scores = np.roll(forecasts.spread, days_late)
        shift = shift_test(scores, forecasts.label, forecasts.bars, [forecasts.fold])
        return checks.own_day("spread", shift)

    assert check(0).passed
    assert "end a day early" in check(1).sentence
    assert "look ahead" in check(-1).sentence
    assert not check(1).passed
    assert not check(-1).passed


def test_an_interval_that_holds_a_half_is_no_inversion() -> None:
    assert checks.inversion("chance", Estimate(0.48, 0.45, 0.51), Estimate()).passed
    assert not checks.inversion("inverted", Estimate(0.40, 0.35, 0.45), Estimate()).passed
