"""The forecast quality report in words and pictures: what the interval shows and no more."""

from typing import Any

import pytest

from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.quality.figures import quality_figure
from tsfm_pipeline.reports.quality.words import methods, quality_answer


def row(method: str, tier: str, wql: float, skill: float) -> dict[str, Any]:
    scores = {"wql": wql, "mase": 2 * wql, "wql_skill": skill, "mase_skill": skill, "coverage_80": 0.79}
    limits = {f"{name}_{end}": value + sign * 0.05 for name, value in scores.items() for end, sign in (("low", -1), ("high", 1))}
    return {"method": method, "tier": tier, **scores, **limits, "n_failed": 0}


def report(low: float | None, figure: float | None, high: float | None) -> dict[str, Any]:
    rows = [row("search", "standard", 0.2, 0.5), row("search", "basic", 0.21, 0.48), row("seasonal_naive", "all", 0.4, 0.0)]
    rows += [row("fixed_quantile", "standard", 0.25, 0.4), row("config:ctx64", "all", 0.3, 0.2)]
    cut = {"": figure, "_low": low, "_high": high}
    return {
        "fleet": "shop",
        "n_requests": 120,
        "search_coverage_80": 0.79,
        **{f"search_wql_skill_over_fixed{end}": value for end, value in cut.items()},
        **{f"{r['method']}_{key}": value for r in rows[:1] + rows[3:4] for key, value in r.items() if key.startswith("wql_skill")},
        "table_methods": rows,
    }


@pytest.mark.parametrize(
    ("limits", "effect", "words"),
    [
        (
            (0.02, 0.05, 0.08),
            "gain",
            "the search's deciles are better than those of the fixed configuration: cut of WQL 5.0 % (2.0 to 8.0)",
        ),
        ((-0.08, -0.05, -0.02), "loss", "are worse than those of the fixed configuration: cut of WQL −5.0 %"),
        ((-0.01, 0.02, 0.05), "null", "are not shown to differ from those of the fixed configuration"),
        ((None, 0.02, None), "unknown", "without an interval: cut of WQL 2.0 %."),
        ((None, None, None), "unknown", "On shop, no forecast of the search and the fixed configuration was scored."),
    ],
)
def test_the_sentence_says_what_the_interval_shows(limits: tuple[float | None, ...], effect: str, words: str) -> None:
    answered = quality_answer(report(*limits))
    assert answered.effect == effect
    assert words in answered.sentence


def test_the_table_has_the_headline_tier_and_no_single_configurations() -> None:
    table = methods(report(0.02, 0.05, 0.08))
    assert [cells[0] for cells in table.rows] == ["search, per request", "seasonal naive", "fixed configuration (the one to beat)"]
    assert table.emphasised == {0}
    assert "| **search, per request** | **0.200 (0.150 to 0.250)** |" in summary("forecast_quality_report", report(0.02, 0.05, 0.08))


def test_the_figure_shows_a_mark_per_method_in_both_scores_and_says_when_there_is_none() -> None:
    figure = quality_figure(report(0.02, 0.05, 0.08))
    assert [axes.get_xlabel() for axes in figure.axes] == ["WQL, relative to seasonal naive", "MASE, relative to seasonal naive"]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "search, per request"
    search = next(line for line in figure.axes[0].lines if line.get_ydata().tolist() == [0] and line.get_marker() == "o")
    assert search.get_xdata().tolist() == [0.5], "a skill of one half is half of seasonal naive's error"
    assert quality_figure({"table_methods": []}).texts[0].get_text() == "no forecast was scored"
