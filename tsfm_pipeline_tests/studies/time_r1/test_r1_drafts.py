"""Test the drafts of the slow-thinking study, their backtests and the choice by them.

What belongs here: simple drafts by hand, the frozen model's drafts on the model that the tests use,
and what may not be read. What does not: what is said about drafts (`test_r1_findings`).
"""

from dataclasses import replace

import numpy as np
import pytest

from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.studies.time_r1 import drafts as module
from tsfm_pipeline.studies.time_r1.drafts import (
    COMBINED,
    LAST_VALUE,
    MARGIN,
    MOST_BACKTESTS,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    SIMPLE,
    Drafts,
    backtest_errors,
    best_by_backtest,
    drafts_at_origins,
    frozen_context,
    frozen_name,
    make_drafts,
    n_backtests,
    needed_past,
)
from tsfm_pipeline.studies.time_r1.splits import own_windows, scales_of, windows_of
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows
from tsfm_pipeline_tests.studies.time_r1.real_sets import ett
from tsfm_pipeline_tests.studies.time_r1.reflect_windows import daily, of, with_other_truth

NAN = np.nan


def simple(past: list[float], horizon: int, season: int) -> dict[str, list[float]]:
    windows = of(np.array([past], dtype=np.float64), np.zeros((1, horizon)), season)
    return {n: v[0].tolist() for n, v in make_drafts(windows, None, ()).values.items()}


def test_simple_drafts_by_hand() -> None:
    made = simple([1, 2, 3, 4, 5, 6, 7, 9], horizon=3, season=2)
    assert made[LAST_VALUE] == [9, 9, 9]
    assert made[SEASONAL_NAIVE] == [7, 9, 7]
    assert made[SEASONS_MEAN] == [4, 5.25, 4]


def test_simple_drafts_read_known_values_only() -> None:
    made = simple([1, 2, 3, 4, NAN, 6, NAN, NAN], horizon=2, season=2)
    assert made == {LAST_VALUE: [6, 6], SEASONAL_NAIVE: [3, 6], SEASONS_MEAN: [2, 4]}


def test_a_draft_with_an_unknown_step_is_unknown_throughout() -> None:
    made = simple([NAN, 2, NAN, 4], horizon=2, season=2)
    assert made[LAST_VALUE] == [4, 4]
    assert np.isnan(made[SEASONAL_NAIVE]).all()
    assert np.isnan(made[SEASONS_MEAN]).all()
    # A horizon that does not reach the unknown phase has its draft.
    assert simple([2, NAN], horizon=1, season=2)[SEASONAL_NAIVE] == [2]


def test_a_past_that_is_shorter_than_a_season_has_no_seasonal_draft() -> None:
    made = simple([5.0], horizon=3, season=2)
    assert made[LAST_VALUE] == [5, 5, 5]
    assert np.isnan(made[SEASONAL_NAIVE]).all()


@pytest.mark.heavy
def test_the_frozen_models_drafts_are_its_medians_of_one_call(
    mini_forecaster: FrozenForecaster,
) -> None:
    windows = daily()
    drafts = make_drafts(windows, mini_forecaster, (96, 512))
    assert drafts.names == (COMBINED, frozen_name(512), frozen_name(96), *SIMPLE)
    configs = [ForecastConfig(context_len=512), ForecastConfig(context_len=96)]
    panel = Panel(windows.past.astype(np.float32))
    for name, config in zip(("frozen_512", "frozen_96"), configs, strict=True):
        grid = mini_forecaster.forecast_grid(panel, [671], [config], 24)[:, 0, 0]
        np.testing.assert_allclose(drafts.values[name], grid[..., 5], rtol=1e-4)
        np.testing.assert_allclose(drafts.deciles[name], grid[..., 1:], rtol=1e-4)


@pytest.mark.heavy
def test_backtests_are_the_drafts_of_earlier_windows(mini_forecaster: FrozenForecaster) -> None:
    windows = daily()
    assert n_backtests(windows.season, windows.horizon) == 3
    drafts = make_drafts(windows, mini_forecaster, (96, 512))
    one, two = windows.earlier(), windows.earlier().earlier()
    for steps, earlier in ((slice(-24, None), one), (slice(-48, -24), two)):
        for name, values in make_drafts(earlier, mini_forecaster, (96, 512)).values.items():
            np.testing.assert_allclose(drafts.backtests[name][:, steps], values, rtol=1e-4)
    errors = backtest_errors(windows, drafts)
    expected = np.abs(drafts.backtests["frozen_96"] - windows.past[:, -72:]).mean(axis=1)
    np.testing.assert_allclose(errors["frozen_96"], expected)


@pytest.mark.heavy
def test_drafts_of_several_origins_at_once_are_those_of_the_earlier_windows(
    mini_forecaster: FrozenForecaster,
) -> None:
    windows = daily(n=2)
    by_origin = drafts_at_origins(windows, mini_forecaster, (96, 512), 2)
    assert len(by_origin) == 3
    earlier = windows
    for drafts in by_origin:
        alone = make_drafts(earlier, mini_forecaster, (96, 512))
        assert drafts.names == alone.names
        for part in ("values", "deciles", "backtests"):
            for name, made in getattr(drafts, part).items():
                np.testing.assert_allclose(made, getattr(alone, part)[name], rtol=1e-4)
        earlier = earlier.earlier()


@pytest.mark.parametrize(
    ("season", "horizon", "expected"),
    [(24, 24, 3), (24, 96, 1), (24, 7, 11), (1440, 60, MOST_BACKTESTS)],
)
def test_a_backtest_covers_three_seasons_and_has_a_most_of_origins(
    season: int, horizon: int, expected: int
) -> None:
    assert n_backtests(season, horizon) == expected
    assert needed_past([96], season, horizon) == max(96, 4 * season) + expected * horizon


@pytest.mark.heavy
def test_nothing_after_an_origin_is_read(mini_forecaster: FrozenForecaster) -> None:
    windows = daily()
    drafts = make_drafts(windows, mini_forecaster, (96,))
    again = make_drafts(with_other_truth(windows), mini_forecaster, (96,))
    past = windows.past.copy()
    past[:, -24:] = 500.0
    spoiled = make_drafts(replace(windows, past=past), mini_forecaster, (96,))
    for name in drafts.names:
        assert np.array_equal(drafts.values[name], again.values[name])
        assert np.array_equal(drafts.backtests[name], again.backtests[name])
        # The last known day is the target of the latest backtest, which may not know it.
        np.testing.assert_allclose(spoiled.backtests[name], drafts.backtests[name], rtol=1e-4)
        assert not np.allclose(spoiled.values[name], drafts.values[name])


@pytest.mark.heavy
def test_a_context_that_the_past_does_not_fill_has_no_draft(
    mini_forecaster: FrozenForecaster,
) -> None:
    windows = daily(n=2, past=200)
    past = windows.past.copy()
    past[1, :110] = NAN
    drafts = make_drafts(replace(windows, past=past), mini_forecaster, (96, 512))
    assert np.isnan(drafts.values["frozen_512"]).all()
    known = [np.isfinite(v).any() for v in drafts.values["frozen_96"]]
    assert known == [True, False]
    backtest = np.isfinite(drafts.backtests["frozen_96"][0].reshape(3, 24)).all(axis=1)
    assert backtest.tolist() == [True, True, True]
    # The median is that of what is known: of two drafts in the first window, of one in the second.
    short, naive = drafts.values["frozen_96"], drafts.values[SEASONAL_NAIVE]
    np.testing.assert_allclose(drafts.values[COMBINED][0], (short[0] + naive[0]) / 2)
    assert np.array_equal(drafts.values[COMBINED][1], naive[1])


@pytest.mark.heavy
def test_the_median_of_drafts_is_of_the_frozen_models_and_the_seasonal_naive(
    mini_forecaster: FrozenForecaster,
) -> None:
    drafts = make_drafts(daily(), mini_forecaster, (96, 512))
    for made in (drafts.values, drafts.backtests):
        members = [made["frozen_96"], made["frozen_512"], made[SEASONAL_NAIVE]]
        assert np.array_equal(made[COMBINED], np.median(members, axis=0))


def test_needed_past_gives_every_draft_a_whole_backtest() -> None:
    assert needed_past((96, 512), season=24, horizon=24) == 512 + 72
    assert needed_past((96,), season=24, horizon=96) == 96 + 96
    assert needed_past((32,), season=24, horizon=12) == 96 + 72


def by_hand(errors: dict[str, float], known: dict[str, bool] | None = None) -> str:
    """The choice of a window whose drafts missed each of the last 3 known steps by so much."""
    windows = of(np.zeros((1, 8)), np.zeros((1, 3)), season=1)
    known = known or {}
    values: dict[str, Floats] = {
        name: np.full((1, 3), 0.0 if known.get(name, True) else NAN) for name in errors
    }
    backtests = {name: np.full((1, 3), error) for name, error in errors.items()}
    return best_by_backtest(windows, Drafts(values, {}, backtests))[0]


def test_the_first_draft_is_kept_unless_another_wins_by_the_margin() -> None:
    assert by_hand({"b": 1.0, "a": 1.01 - MARGIN}) == "b"
    assert by_hand({"b": 1.0, "a": 0.99 - MARGIN}) == "a"
    assert by_hand({"b": 1.0, "a": 0.1, "c": 0.05}) == "c"


def test_what_is_not_known_is_not_chosen() -> None:
    assert by_hand({"b": 1.0, "a": 0.1}, {"a": False}) == "b"
    assert by_hand({"b": 1.0, "a": 9.0, "c": 8.0}, {"b": False}) == "a"
    # Without a backtest of its own, the first draft cannot be said to have lost.
    assert by_hand({"b": NAN, "a": 0.1}) == "b"
    assert by_hand({"b": 1.0, "a": NAN}) == "b"
    with pytest.raises(ValueError, match=r"by hand, channel c0, origin 7: none of b, a is known"):
        by_hand({"b": 1.0, "a": 1.0}, {"a": False, "b": False})


def test_chosen_drafts_bring_their_deciles_or_the_frozen_models_spread() -> None:
    spread = np.linspace(-4, 4, 9)
    values = {"frozen_9": np.full((3, 2), 5.0), LAST_VALUE: np.full((3, 2), 1.0)}
    values["frozen_9"][2] = NAN
    drafts = Drafts(values, {"frozen_9": values["frozen_9"][..., None] + spread}, {})
    deciles = drafts.taken_deciles(("frozen_9", LAST_VALUE, LAST_VALUE))
    np.testing.assert_allclose(deciles[0, 0], 5 + spread)
    np.testing.assert_allclose(deciles[1, 1], 1 + spread)
    np.testing.assert_allclose(deciles[2], 1)
    assert np.array_equal(deciles[..., 4], drafts.taken(("frozen_9", LAST_VALUE, LAST_VALUE)))


def test_rows_are_taken_alike_from_all_arrays() -> None:
    windows = daily(n=4, past=200)
    drafts = make_drafts(windows, None, ())
    some = make_drafts(windows.at([2, 0]), None, ())
    for name, values in drafts.at([2, 0]).values.items():
        assert np.array_equal(values, some.values[name])
        assert np.array_equal(drafts.at([2, 0]).backtests[name], some.backtests[name])


def test_names_of_the_frozen_models_drafts_tell_their_context() -> None:
    assert frozen_context(frozen_name(512)) == 512
    assert [frozen_context(name) for name in SIMPLE] == [None] * 3


def mase(windows: Windows, forecast: Floats, scales: Floats) -> float:
    return float((np.abs(forecast - windows.truth).mean(axis=1) / scales).mean())


@pytest.mark.slow
def test_the_margin_is_better_than_the_lowest_error_on_validation_rows(
    mini_forecaster: FrozenForecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = ett("ETTh1")
    past = needed_past((96, 512), 24, 24)
    windows = windows_of(series, "validation", 96, 24, past=past)
    drafts, scales = make_drafts(windows, mini_forecaster, (96, 512)), scales_of(series, windows)
    chosen = mase(windows, drafts.taken(best_by_backtest(windows, drafts)), scales)
    monkeypatch.setattr(module, "MARGIN", 0.0)
    lowest = mase(windows, drafts.taken(best_by_backtest(windows, drafts)), scales)
    assert chosen < 0.97 * lowest
    assert chosen < 1.01 * mase(windows, drafts.values[COMBINED], scales)
    assert chosen < 0.99 * mase(windows, drafts.values["frozen_512"], scales)


@pytest.mark.heavy
def test_simple_drafts_of_our_own_windows_of_etth1_have_their_known_figures() -> None:
    series = ett("ETTh1")
    windows = own_windows(series, past=96)
    drafts, scales = make_drafts(windows, None, ()), scales_of(series, windows)
    figures = {name: mase(windows, values, scales) for name, values in drafts.values.items()}
    assert len(windows) == 203
    assert figures[LAST_VALUE] == pytest.approx(1.392, abs=5e-4)
    assert figures[SEASONAL_NAIVE] == pytest.approx(0.952, abs=6e-4)
    assert figures[SEASONS_MEAN] == pytest.approx(0.896, abs=5e-4)
