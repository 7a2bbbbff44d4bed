"""Test that the report's numbers are those of forecasts, trainings and counts.

What belongs here: numbers. What does not: sentences and figures (`test_r1_report_shown`).
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tsfm_pipeline.reports.shared.files import json_text
from tsfm_pipeline.studies.time_r1 import rewards
from tsfm_pipeline.studies.time_r1.methods import DRAFT, METHODS, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.curves import MOST_POINTS
from tsfm_pipeline.studies.time_r1.report.evidence import (
    Cost,
    Curve,
    Thoughts,
    base_curves,
    reinforced_curve,
)
from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.names import PART_TEXTS, TERM_TEXTS
from tsfm_pipeline.studies.time_r1.report.numbers import N_EXAMPLES, slow_thinking_report_of
from tsfm_pipeline_tests.studies.time_r1.report import made


def test_figures_are_those_of_the_evaluation(won: SlowThinkingReport) -> None:
    evaluated = made.evidence(made.WIN).evaluated
    assert [row.method for row in won.methods()] == list(METHODS)
    assert len(won.questions) == 3
    assert won.questions[0] == won.headline == ("made", made.HORIZON, "own")
    slow = won.method(SLOW_THINKING)
    source = evaluated.filter(method=SLOW_THINKING, window_set="own", data_set="made").row(
        0, named=True
    )
    assert slow is not None
    assert slow.mase == (source["mase"], source["mase_low"], source["mase_high"])
    assert won.over(DRAFT) == tuple(
        source[f"mase_over_draft{end}"] for end in ("", "_low", "_high")
    )
    draft = won.method(DRAFT)
    assert draft is not None
    assert math.isnan(draft.wql.figure), "null in the table is no figure"
    assert math.isnan(won.over(DRAFT, DRAFT).figure), "nothing is compared with itself"
    single = won.over(DRAFT, question=("single", 6, "own"))
    assert math.isfinite(single.figure)
    assert math.isnan(single.low)


def test_the_gate_is_judged_by_what_the_truth_says(won: SlowThinkingReport) -> None:
    evidence = made.evidence(made.WIN)
    case, refined = evidence.headline, evidence.thoughts.refined
    draft = np.abs(case.forecasts[DRAFT].points - case.windows.truth).mean(1)
    answer = np.abs(refined - case.windows.truth).mean(1)
    kept = case.forecasts[SLOW_THINKING].kept
    assert kept is not None
    n = {row.outcome: row.n for row in won.table_gate}
    assert n["kept, lower"] == (kept & (answer < draft)).sum()
    assert n["dropped, lower"] == (~kept & (answer < draft)).sum()
    assert n["kept, higher"] == (kept & (answer > draft)).sum()
    assert n["equal"] == (answer == draft).sum() > 0
    assert sum(n.values()) == len(draft)
    assert sum(row.share for row in won.table_gate) == pytest.approx(1)
    assert won.rule("gate").figure == pytest.approx(won.over(DRAFT).figure)
    assert won.rule("always refined").figure == pytest.approx(answer.sum() / draft.sum())
    oracle = np.minimum(answer, draft).sum() / draft.sum()
    assert won.rule("oracle").figure == pytest.approx(oracle)


def test_windows_without_a_scale_are_not_judged() -> None:
    evidence = made.evidence(made.WIN)
    scale = evidence.headline.scale.copy()
    scale[:16] = np.nan
    report = slow_thinking_report_of(
        replace(evidence, headline=replace(evidence.headline, scale=scale))
    )
    assert sum(row.n for row in report.table_gate) == len(scale) - 16
    assert not {row.channel for row in report.table_gallery} & {"channel 0", "channel 1"}
    nothing = replace(evidence.headline, scale=np.full_like(scale, np.nan))
    report = slow_thinking_report_of(replace(evidence, headline=nothing))
    assert report.table_rules == report.table_gallery == ()


def test_the_gallery_has_the_best_and_the_worst(won: SlowThinkingReport) -> None:
    evidence = made.evidence(made.WIN)
    case = evidence.headline
    difference = np.abs(evidence.thoughts.refined - case.windows.truth).mean(1) / 2
    difference -= case.scaled_errors(DRAFT)
    best, worst = (
        [row.refined_mase - row.draft_mase for row in won.table_gallery if row.kind == kind]
        for kind in ("best", "worst")
    )
    assert best == pytest.approx(np.sort(difference)[:N_EXAMPLES])
    higher = [value for value in np.sort(difference)[::-1][:N_EXAMPLES] if value > 0]
    assert worst == pytest.approx(higher)
    assert worst
    row = won.table_gallery[0]
    at = int(np.argmin(difference))
    assert (row.channel, row.origin) == (case.windows.channels[at], case.windows.origins[at])
    assert row.truth == pytest.approx(case.windows.truth[at], rel=1e-5)
    assert row.history == pytest.approx(case.windows.history[at], rel=1e-5)


def test_ties_in_the_gallery_are_broken_by_the_seed() -> None:
    evidence = made.evidence(made.WIN)
    case = evidence.headline
    points = np.zeros_like(case.windows.truth)
    # Every draft is wrong by 1 and every refined answer by .5: all windows are equal.
    forecasts = {**case.forecasts, DRAFT: replace(case.forecasts[DRAFT], points=points + 1)}
    case = replace(case, windows=replace(case.windows, truth=points), forecasts=forecasts)
    thoughts = Thoughts(points + 0.5, evidence.thoughts.reasons)
    shown = []
    for seed in (0, 0, 1):
        report = slow_thinking_report_of(
            replace(evidence, headline=case, thoughts=thoughts, seed=seed)
        )
        assert [row.kind for row in report.table_gallery] == ["best"] * N_EXAMPLES
        shown.append([(row.channel, row.origin) for row in report.table_gallery])
    assert shown[0] == shown[1] != shown[2]


def test_curves_are_thinned_by_means(won: SlowThinkingReport) -> None:
    for run in ("sft_plain", "sft_draft", "sft_more"):
        rows = [r for r in won.table_warm_ups if (r.run, r.part) == (run, "training")]
        assert 20 < len(rows) <= MOST_POINTS
        (curve,) = (curve for curve in made.evidence(made.WIN).warm_ups if curve.run == run)
        assert rows[0].number == pytest.approx(curve.column("number")[:3].mean())
        assert rows[0].step == 2
        held = [r for r in won.table_warm_ups if (r.run, r.part) == (run, "validation")]
        assert [row.step for row in held] == [50, 100, 150]
        assert {row.template for row in held} == {0.03}
    assert {row.run for row in won.table_rewards} == {"grip", "grpo"}


def test_the_base_has_its_losses_by_kind_of_prompt(won: SlowThinkingReport) -> None:
    rows = [row for row in won.table_base if row.run == "without"]
    assert [row.step for row in rows] == [500, 1000, 1500]
    assert [row.number for row in rows] == [
        made.BASE[str(s)]["without"]["number"] for s in (500, 1000, 1500)
    ]
    assert {row.part for row in won.table_base} == {"validation"}
    assert base_curves({}) == ()


def test_a_validation_gain_is_paired_by_window(won: SlowThinkingReport) -> None:
    rows = [row for row in won.table_validations if row.run == "grip"]
    assert rows[0].gain == (0, 0, 0)
    assert rows[-1].gain.low > 0
    assert [row.kept for row in rows] == [False, False, False, True]
    assert won.kept_validation("grip") == rows[-1]
    assert won.kept_validation("nothing") is None
    rewards = np.array([[0.1, 0.5], [0.3, 0.9]])
    curve = reinforced_curve("grip", ("reward_all",), np.zeros((1, 1)), (0, 5), rewards, 5)
    assert curve.validation("gain")[1] == pytest.approx(0.3)
    assert curve.validation("gain_standard_error")[1] == pytest.approx(0.1)
    alone = reinforced_curve("grip", ("reward_all",), np.zeros((1, 1)), (0, 5), rewards[:, :1], 0)
    assert np.isnan(alone.validation("gain_standard_error")).all()


def test_terms_that_were_not_logged_have_no_figure(won: SlowThinkingReport) -> None:
    rows = [row for row in won.table_terms if row.term == "change_points"]
    assert rows
    assert all(math.isnan(row.variance_share) for row in rows)
    shares = [row.variance_share for row in won.table_terms if row.term == "error"]
    assert np.mean(shares) == pytest.approx(made.TERMS["error"], abs=0.02)


def test_counts_have_their_intervals(won: SlowThinkingReport) -> None:
    free, constrained = won.parsing("free"), won.parsing("constrained")
    assert free is not None
    assert constrained is not None
    assert free.rate.low < free.rate.figure == 0.997 < free.rate.high < 1
    assert constrained.rate.figure == constrained.rate.high == 1 > constrained.rate.low
    assert [(row.problem, row.n) for row in won.table_problems] == [
        ("truncated", 4),
        ("too_few", 2),
    ]
    assert won.exact_kl.low < won.exact_kl.figure < won.exact_kl.high
    assert won.n_prompts == 30


def test_the_json_holds_the_whole_report(won: SlowThinkingReport) -> None:
    text = json_text(won.flat())
    assert json_text(SlowThinkingReport.from_flat(json.loads(text)).flat()) == text


def test_evidence_that_does_not_fit_is_refused() -> None:
    evidence = made.evidence(made.WIN)
    case = evidence.headline
    slow = case.forecasts[SLOW_THINKING]
    ungated = {**case.forecasts, SLOW_THINKING: replace(slow, kept=None)}
    with pytest.raises(ValueError, match="what its gate decided"):
        replace(evidence, headline=replace(case, forecasts=ungated))
    with pytest.raises(ValueError, match="lacks forecasts of slow_thinking"):
        replace(evidence, headline=replace(case, forecasts={DRAFT: case.forecasts[DRAFT]}))
    with pytest.raises(ValueError, match="39 reasons"):
        replace(evidence, thoughts=replace(evidence.thoughts, reasons=("why",) * 39))
    with pytest.raises(ValueError, match="column number has shape"):
        Curve("sft", np.arange(3), {"number": np.zeros(2)})
    with pytest.raises(ValueError, match="no method 'draught'"):
        Cost("draught", 1, 1.0, 1.0, 1.0, 1.0)


def test_terms_are_those_of_rewards() -> None:
    assert tuple(TERM_TEXTS) == rewards.TERMS


@pytest.mark.heavy
def test_parts_are_those_of_trainings() -> None:
    from tsfm_pipeline.studies.time_r1 import training

    assert set(PART_TEXTS) <= set(training.COLUMNS)
