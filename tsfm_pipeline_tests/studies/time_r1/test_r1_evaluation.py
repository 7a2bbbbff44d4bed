"""Test that every method is scored by every measure on the same windows, with honest intervals.

What belongs here: the rows of the evaluation and their JSON. What does not: the measures of single
windows (`test_r1_measures`), and what a report makes of the rows.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.studies.time_r1 import drafts, measures
from tsfm_pipeline.studies.time_r1.evaluation import Case, Forecast, evaluate, evaluation_json
from tsfm_pipeline.studies.time_r1.evaluation_columns import EVALUATED, minus, over
from tsfm_pipeline.studies.time_r1.measure_units import MEASURES
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    LAST_VALUE,
    MATCHED_WITH_GRIP,
    METHODS,
    REFERENCES,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    SLOW_THINKING,
)
from tsfm_pipeline_tests.studies.time_r1.report import made


def rows(case: Case, draws: int = made.DRAWS) -> dict[str, dict[str, Any]]:
    """The rows of one case by method."""
    return {row["method"]: row for row in evaluate([case], draws, 0).iter_rows(named=True)}


def only(case: Case, *methods: str) -> Case:
    return replace(case, forecasts={name: case.forecasts[name] for name in methods})


def test_every_figure_is_that_of_the_measures() -> None:
    case = made.case()
    # Unequal channels tell a mean over channels from a mean over windows; one has no scale.
    asked = case.windows.at(slice(3, None))
    scale = np.where(np.array(asked.channels) == "channel 4", np.nan, 2.0)
    forecast = case.forecasts[SLOW_THINKING]
    assert forecast.deciles is not None
    cut = Forecast(forecast.points[3:], forecast.deciles[3:])
    floor = np.full(len(asked), 4.0)
    row = rows(Case(asked, "own", scale, floor, {SLOW_THINKING: cut}))[SLOW_THINKING]
    expected = measures.measures(asked.truth, cut.points, asked.channels, scale, floor, cut.deciles)
    for name in MEASURES:
        assert row[name] == pytest.approx(getattr(expected, name)), name
    assert row["n_windows"] == expected.n_windows == 37
    assert row["n_unscaled"] == expected.n_unscaled == 8
    assert row["n_floored"] == expected.n_floored > 0
    assert (row["n_channels"], row["n_origins"], row["n_left_out"]) == (5, 8, 0)
    gaps = Case(replace(asked, left_out=4), "own", scale, floor, {SLOW_THINKING: cut})
    assert rows(gaps)[SLOW_THINKING]["n_left_out"] == 4


def test_a_perfect_forecast_has_no_error() -> None:
    case = made.case()
    truth = case.windows.truth
    deciles = np.repeat(truth[..., None], 9, axis=-1)
    row = rows(replace(case, forecasts={DRAFT: Forecast(truth, deciles)}))[DRAFT]
    for name in MEASURES:
        ends = tuple(row[f"{name}{end}"] for end in ("", "_low", "_high"))
        assert ends == pytest.approx((1.0,) * 3 if name == "r2" else (0.0,) * 3, abs=1e-12)


def windows_of_many_sizes(seed: int = 11) -> tuple[Case, tuple[int, int, int]]:
    """Equal channels, whose windows differ much in the size of their waves and of their errors."""
    n, horizon = 16, 12
    rng = np.random.default_rng(seed)
    size, error = np.exp(0.5 * rng.normal(size=(2, n * n, 1)))
    waves = size * np.sin(2 * np.pi * np.arange(horizon) / 12)
    truth = 2 + waves + 0.1 * rng.normal(size=waves.shape)
    asked = replace(
        made.windows().at([0] * n * n),
        channels=tuple(np.repeat([f"channel {c}" for c in range(n)], n).tolist()),
        origins=np.tile(100 + 24 * np.arange(n), n).astype(np.int64),
        truth=truth,
    )
    points = truth + 0.5 * error * rng.normal(size=truth.shape)
    one = np.ones(n * n)
    return Case(asked, "own", one, one, {DRAFT: Forecast(points)}), (n, n, horizon)


@pytest.mark.parametrize("measure", ["r2", "nrmse"])
def test_linearised_intervals_are_as_wide_as_those_of_resampled_windows(measure: str) -> None:
    """One sample's width is off by a third; the mean over samples is not."""
    widths, resampled = [], []
    for seed in range(8):
        case, shape = windows_of_many_sizes(seed)
        row = rows(only(case, DRAFT), 500)[DRAFT]
        low, high = row[f"{measure}_low"], row[f"{measure}_high"]
        assert low < row[measure] < high
        widths.append(high - low)
        rng = np.random.default_rng(seed)
        truth = case.windows.truth.reshape(shape)
        points = case.forecasts[DRAFT].points.reshape(shape)
        # Channels differ by chance alone, so that resampling windows within them is enough.
        draws = []
        for _ in range(100):
            within = rng.integers(0, shape[1], shape[:2])
            pairs = ((truth[c, some], points[c, some]) for c, some in enumerate(within))
            draws.append(np.mean([getattr(measures, measure)(*pair) for pair in pairs]))
        resampled.append(np.subtract(*np.quantile(draws, [0.975, 0.025])))
    assert np.mean(widths) / np.mean(resampled) == pytest.approx(1, abs=0.2)


def test_comparisons_are_paired_on_the_same_windows() -> None:
    found = rows(made.case(made.WIN))
    slow = found[SLOW_THINKING]
    for reference in REFERENCES:
        other = found[reference]
        assert slow[over(reference)] == pytest.approx(slow["mase"] / other["mase"])
        assert slow[minus(reference)] == pytest.approx(slow["mase"] - other["mase"])
        assert other[over(reference)] is None, "nothing is compared with itself"
    assert (
        slow[f"{over(DRAFT)}_high"]
        < 1
        < rows(made.case(made.LOSS))[SLOW_THINKING][f"{over(DRAFT)}_low"]
    )
    # A constant ratio has no spread where it is paired, although both errors have much of it.
    case = made.case()
    halved = case.windows.truth + 0.5 * (case.forecasts[DRAFT].points - case.windows.truth)
    forecasts = {DRAFT: case.forecasts[DRAFT], SLOW_THINKING: Forecast(halved)}
    row = rows(replace(case, forecasts=forecasts))[SLOW_THINKING]
    ends = [row[f"{over(DRAFT)}{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([0.5] * 3)


def test_failures_and_the_gate_are_counted() -> None:
    case = made.case()
    found = rows(case)
    kept = case.forecasts[SLOW_THINKING].kept
    assert kept is not None
    slow = found[SLOW_THINKING]
    assert (slow["n_failed"], found[DRAFT]["n_failed"]) == (2, 0)
    assert slow["gate_rate"] == pytest.approx(kept.mean())
    assert slow["gate_rate_low"] < slow["gate_rate"] < slow["gate_rate_high"]
    assert found[DRAFT]["gate_rate"] is found[DRAFT]["wql"] is None


def test_one_channel_gives_figures_without_intervals() -> None:
    row = rows(made.case(data_set="single", channels=1))[SLOW_THINKING]
    for name in (*MEASURES, over(DRAFT)):
        assert row[name] is not None
        assert row[f"{name}_low"] is row[f"{name}_high"] is None


def test_rows_keep_the_order_of_cases_and_methods_and_are_the_same_twice() -> None:
    cases = [made.case(window_set="paper"), made.case()]
    first, again = (evaluate(cases, 50, 3) for _ in range(2))
    assert first.equals(again)
    assert first["method"].to_list() == [*METHODS, *METHODS]
    assert first["window_set"].unique(maintain_order=True).to_list() == ["paper", "own"]
    case, _ = windows_of_many_sizes()  # with fewer channels nothing is drawn
    assert not evaluate([case], 50, 3).equals(evaluate([case], 50, 4))


def test_every_column_says_what_it_holds() -> None:
    evaluated = evaluate([only(made.case(), DRAFT)], 50, 0)
    assert evaluated.columns == [column.name for column in EVALUATED]
    for column in EVALUATED:
        assert column.meaning
        assert column.unit or column.dtype == pl.String
    content = json.loads(evaluation_json(evaluated, 50, 0))
    assert content["table_evaluation"][0]["mase"] == evaluated["mase"][0]
    assert content["table_evaluation"][0]["wql"] is None
    assert {each["name"]: each["unit"] for each in content["table_columns"]} == {
        column.name: column.unit for column in EVALUATED
    }


def _spoilt(case: Case) -> Forecast:
    points = case.forecasts[DRAFT].points.copy()
    points[2, 3] = np.nan
    return Forecast(points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"forecasts": {DRAFT: _spoilt(c)}}, "replaced by the draft"),
        (lambda c: {"forecasts": {"oracle": c.forecasts[DRAFT]}}, "no method 'oracle'; allowed"),
        (lambda c: {"forecasts": {DRAFT: Forecast(c.windows.truth[:, 1:])}}, "shape"),
        (
            lambda c: {"forecasts": {DRAFT: Forecast(c.windows.truth, failed=np.zeros(3, bool))}},
            "failed of draft",
        ),
        (lambda c: {"window_set": "ours"}, "allowed: own, paper, fleet"),
        (lambda c: {"scale": c.scale[1:]}, "one of each per window"),
        (
            lambda c: {"windows": replace(c.windows, truth=np.full_like(c.windows.truth, np.nan))},
            "finite truths",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(change: Any, message: str) -> None:
    case = only(made.case(), DRAFT)
    with pytest.raises(ValueError, match=message):
        replace(case, **change(case))


def test_no_case_is_evaluated_twice() -> None:
    with pytest.raises(ValueError, match="each once"):
        evaluate([made.case(), made.case(made.LOSS)], 50, 0)


def test_methods_are_named_as_drafts_are_and_titles_are_unique() -> None:
    assert {LAST_VALUE, SEASONAL_NAIVE, SEASONS_MEAN} == set(drafts.SIMPLE)
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert set(MATCHED_WITH_GRIP) <= set(REFERENCES) <= set(METHODS)
