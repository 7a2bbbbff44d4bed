"""Test findings and the words in which they are told.

What belongs here: each finding by hand and recomputed by plain loops, what it may not depend on,
and both languages. What does not: how drafts are made (`test_r1_drafts`).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.time_r1.drafts import (
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    SIMPLE,
    Drafts,
    best_by_backtest,
    frozen_name,
    make_drafts,
)
from tsfm_pipeline.studies.time_r1.findings import (
    LEAST_MISS,
    Amplitude,
    Choice,
    Excess,
    Finding,
    LevelJump,
    MissedPeak,
    Moment,
    Offset,
    Spread,
    Trend,
    find,
    moment,
)
from tsfm_pipeline.studies.time_r1.reasons import THOUGHT_WORDS, filled, own_words, sentence
from tsfm_pipeline.studies.time_r1.vocabulary import WORDS
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows
from tsfm_pipeline_tests.studies.time_r1.reflect_windows import daily, of, with_other_truth

NAN = np.nan


def found(windows: Windows, drafts: Drafts, name: str) -> list[list[Finding]]:
    return find(windows, drafts, [name] * len(windows))


def only(kind: type, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if isinstance(finding, kind)]


def four_step_days(*days: Sequence[float]) -> Windows:
    """One window whose seasons have these values, without a clock."""
    return of(np.array([days], dtype=np.float64).reshape(1, -1), np.zeros((1, 4)), season=4)


def with_misses(windows: Windows, *errors: Floats) -> Drafts:
    """The draft `d`, whose method missed the last known values by these errors [M]."""
    error = np.concatenate(errors)[None]
    backtest = windows.past[:, -error.shape[1] :] - error
    draft = np.repeat(np.nanmean(windows.history, axis=1)[:, None], windows.horizon, axis=1)
    return Drafts({"d": draft}, {}, {"d": backtest})


def test_a_level_jump_is_told_in_deviations_of_the_look_back() -> None:
    windows = four_step_days([0, 1, 2, 1], [0, 1, 2, 1], [0, 1, 2, 1], [2, 3, 4, 3])
    (jump,) = only(LevelJump, found(windows, make_drafts(windows, None, ()), SEASONAL_NAIVE)[0])
    assert jump == LevelJump(2 / float(np.std(windows.past)))
    lower = four_step_days([0, 1, 2, 1], [-2, -1, 0, -1])
    (fall,) = only(LevelJump, found(lower, make_drafts(lower, None, ()), SEASONAL_NAIVE)[0])
    assert isinstance(fall, LevelJump)
    assert fall.change < 0
    alike = four_step_days([0, 1, 2, 1], [0, 1, 2, 1.1])
    assert not only(LevelJump, found(alike, make_drafts(alike, None, ()), SEASONAL_NAIVE)[0])


def test_the_amplitude_is_the_last_seasons_range_over_the_mean_of_those_before() -> None:
    wide = four_step_days([0, 1, 0, 1], [0, 3, 0, 3], [0, 4, 0, 4])
    assert only(Amplitude, found(wide, make_drafts(wide, None, ()), SEASONAL_NAIVE)[0]) == [
        Amplitude(2.0)
    ]
    same = four_step_days([0, 2, 0, 2], [0, 2.2, 0, 2.2])
    assert not only(Amplitude, found(same, make_drafts(same, None, ()), SEASONAL_NAIVE)[0])
    # Seasons that did not move have no range to compare with.
    flat = four_step_days([1, 1, 1, 1], [0, 2.2, 0, 2.2])
    assert not only(Amplitude, found(flat, make_drafts(flat, None, ()), SEASONAL_NAIVE)[0])


def test_the_trend_is_the_slope_through_the_means_of_the_seasons() -> None:
    windows = four_step_days([0, 2, 0, 2], [1, 3, 1, 3], [2, 4, 2, 4], [5, 7, 5, 7])
    (trend,) = only(Trend, found(windows, make_drafts(windows, None, ()), SEASONAL_NAIVE)[0])
    assert isinstance(trend, Trend)
    slope = np.polyfit(range(4), [1, 2, 3, 6], 1)[0]
    assert trend.change == pytest.approx(slope / np.std(windows.past))


def test_a_missed_peak_counts_the_latest_days_in_a_row() -> None:
    windows = four_step_days(*[[0, 4, 1, 0]] * 3, [0, 1, 4, 0])
    scale = float(np.std(windows.past))
    hit, missed = np.zeros(4), np.array([0, 2.0, 0, 0])
    last = np.array([0, -9.0, 1.0, 0])
    assert only(MissedPeak, found(windows, with_misses(windows, missed, hit, missed, last), "d")[0])
    (peak,) = only(
        MissedPeak, found(windows, with_misses(windows, missed, hit, missed, last), "d")[0]
    )
    assert isinstance(peak, MissedPeak)
    # Errors beside the peak do not count, and the second day, which was not missed, ends the run.
    assert (peak.seasons, peak.at) == (2, Moment(2, 4, None))
    assert peak.miss == pytest.approx((2 + 1) / 2 / scale)


def test_a_run_of_missed_peaks_ends_with_the_other_sign_a_small_miss_or_a_gap() -> None:
    windows = four_step_days(*[[0, 4, 1, 0]] * 4)
    scale = float(np.std(windows.past))
    low, high = np.array([0, 2.0, 0, 0]), np.array([0, -2.0, 0, 0])
    small, gap = np.array([0, 0.9 * LEAST_MISS * scale, 0, 0]), np.array([0, 2.0, NAN, 0])

    def run(*errors: Floats) -> list[tuple[int, bool]]:
        peaks = only(MissedPeak, found(windows, with_misses(windows, *errors), "d")[0])
        return [(p.seasons, p.miss > 0) for p in peaks if isinstance(p, MissedPeak)]

    assert run(low, low, low) == [(3, True)]
    assert run(low, high, high) == [(2, False)]
    assert run(low, gap, low) == [(1, True)]
    assert run(low, low, small) == []
    assert run(low, low, gap) == []


def test_a_draft_that_leaves_the_range_of_the_look_back_is_told_with_its_step() -> None:
    windows = four_step_days([0, 4, 1, 0], [0, 4, 1, 0])
    draft = np.array([[0, 5.0, 1, -2.0]])
    drafts = Drafts({"d": draft}, {}, {"d": np.full((1, 4), NAN)})
    scale = float(np.std(windows.past))
    assert only(Excess, found(windows, drafts, "d")[0]) == [
        Excess("above", 1 / scale, Moment(1, 4, None)),
        Excess("below", 2 / scale, Moment(3, 4, None)),
    ]
    inside = Drafts({"d": windows.past[:, :4]}, {}, drafts.backtests)
    assert not only(Excess, found(windows, inside, "d")[0])


def test_the_choice_names_the_best_other_draft_and_leaves_unknown_errors_open() -> None:
    windows = four_step_days([0, 4, 1, 0], [0, 4, 1, 0])
    scale = float(np.std(windows.past))
    values = dict.fromkeys("abc", np.zeros((1, 4)))
    errors = {"a": 2.0, "b": 1.0, "c": NAN}
    backtests = {name: windows.past[:, -4:] - error for name, error in errors.items()}
    drafts = Drafts(values, {}, backtests)
    assert only(Choice, found(windows, drafts, "a")[0]) == [
        Choice("a", 2 / scale, "b", 1 / scale, 4)
    ]
    assert only(Choice, found(windows, drafts, "b")[0]) == [
        Choice("b", 1 / scale, "a", 2 / scale, 4)
    ]
    assert only(Choice, found(windows, drafts, "c")[0]) == [Choice("c", None, "b", 1 / scale, 4)]


def test_times_of_day_need_a_clock_and_a_season_of_a_day() -> None:
    windows = daily(n=1)
    assert moment(windows, 0, 0) == Moment(23, 24, "23:00")
    assert moment(windows, 0, 15) == Moment(14, 24, "14:00")
    assert moment(windows, 0, -9) == Moment(14, 24, "14:00")
    assert moment(replace(windows, season=7), 0, 1) == Moment(0, 7, None)
    assert moment(replace(windows, times=None), 0, 1) == Moment(0, 24, None)


def test_findings_of_real_shapes_recompute_by_plain_loops() -> None:
    windows = daily(n=24)
    drafts = make_drafts(windows, None, ())
    chosen = [SIMPLE[row % 3] for row in range(24)]
    kinds = set()
    for row, findings in enumerate(find(windows, drafts, chosen)):
        history, past = windows.history[row], windows.past[row]
        scale, name = float(history.std()), chosen[row]
        errors = past[-72:] - drafts.backtests[name][row]
        days = [history[24 * day : 24 * day + 24] for day in range(4)]
        for finding in findings:
            kinds.add(type(finding))
            match finding:
                case Choice():
                    expected = float(np.mean(np.abs(errors))) / scale
                    assert (finding.draft, finding.steps) == (name, 72)
                    assert finding.error == pytest.approx(expected)
                case Spread():
                    values = [drafts.values[other][row] for other in SIMPLE]
                    apart = np.mean([max(step) - min(step) for step in zip(*values, strict=True)])
                    assert (finding.drafts, finding.distance) == (3, pytest.approx(apart / scale))
                case LevelJump():
                    change = (days[3].mean() - days[2].mean()) / scale
                    assert finding.change == pytest.approx(change)
                case Amplitude():
                    ranges = [day.max() - day.min() for day in days]
                    assert finding.ratio == pytest.approx(ranges[3] / np.mean(ranges[:3]))
                case Trend():
                    slope = np.polyfit(range(4), [day.mean() for day in days], 1)[0]
                    assert finding.change == pytest.approx(slope / scale)
                case Offset():
                    assert finding.steps == 72
                    assert finding.change == pytest.approx(errors.mean() / scale)
                case MissedPeak():
                    misses = []
                    for day in range(finding.seasons):
                        first = 48 - 24 * day
                        peak = first + int(np.argmax(past[-72:][first : first + 24]))
                        misses.append(errors[peak] / scale)
                    assert min(np.abs(misses)) >= LEAST_MISS
                    assert finding.miss == pytest.approx(np.mean(misses))
                    assert finding.at.step == int(np.argmax(past[-24:]))
                case Excess():
                    draft = drafts.values[name][row]
                    over = draft.max() - history.max()
                    under = history.min() - draft.min()
                    expected = over if finding.side == "above" else under
                    assert finding.amount == pytest.approx(expected / scale)
    assert kinds >= {Choice, Spread, LevelJump, Trend, Offset, MissedPeak}


def test_findings_do_not_depend_on_the_truth() -> None:
    windows = daily(n=6)
    drafts = make_drafts(windows, None, ())
    assert found(windows, drafts, SEASONS_MEAN) == found(
        with_other_truth(windows), drafts, SEASONS_MEAN
    )


def test_as_many_drafts_as_windows_must_be_chosen() -> None:
    windows = daily(n=2)
    with pytest.raises(ValueError, match="1 drafts are chosen for 2 windows"):
        find(windows, make_drafts(windows, None, ()), [SEASONAL_NAIVE])


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 1e4), shift=st.floats(-1e4, 1e4))
def test_words_do_not_depend_on_the_units_of_the_data(
    seed: int, scale: float, shift: float
) -> None:
    windows = daily(n=4, past=200, seed=seed)
    other = replace(windows, past=windows.past * scale + shift)
    first, second = (
        found(one, make_drafts(one, None, ()), SEASONS_MEAN) for one in (windows, other)
    )
    # Rounding may move an amount over a threshold or over half a tenth, but hardly ever.
    assert sum(own_words(a) == own_words(b) for a, b in zip(first, second, strict=True)) >= 3


GOLDEN = (
    Choice(frozen_name(512), 0.414, SEASONS_MEAN, 0.452, 72),
    Spread(5, 1.07),
    LevelJump(-0.5),
    Amplitude(1.26),
    Trend(0.13),
    Offset(0.19, 72),
    MissedPeak(0.34, 2, Moment(14, 24, "14:00")),
    Excess("above", 0.25, Moment(3, 24, None)),
)
"""One of each kind."""


def test_sentences_are_what_an_operator_reads() -> None:
    assert sentence(GOLDEN).split(". ") == [
        "The draft is the frozen model with 512 steps of context; over the last 72 known steps it "
        "was off by 0.41 standard deviations on average, the best other one, the mean of the last "
        "four seasons, by 0.45",
        "The 5 drafts lie 1.07 standard deviations apart on average, from the lowest to the "
        "highest",
        "The last season lies 0.50 standard deviations below the one before",
        "The last season's range is 1.26 times the mean range of the seasons before",
        "The level rises by 0.13 standard deviations per season",
        "Over the last 72 known steps the forecasts were 0.19 standard deviations too low on "
        "average",
        "The peak at 14 h was missed on two days running, by 0.34 standard deviations on average",
        "The draft goes 0.25 standard deviations above the range of the history, at step 4 of 24.",
    ]


def test_own_words_say_tenths() -> None:
    assert own_words(GOLDEN) == (
        "draft model 512 error 4 other mean four error 5 spread 11 level down 5 amplitude 13 "
        "trend up 1 draft below 2 peak hour 14 missed up 3 2 range above 2 step 3"
    )


def test_the_longest_reason_is_filled_to_the_length_of_every_other() -> None:
    everything = (*GOLDEN, Excess("below", 0.25, Moment(9, 24, "09:00")))
    longest, shortest = own_words(everything), own_words(GOLDEN[:1])
    assert filled(longest) == longest
    assert filled(shortest).startswith(f"{shortest} done done")
    for words in (filled(longest), filled(shortest)):
        assert len(words.split(" ")) == THOUGHT_WORDS
        assert set(words.split(" ")) <= set(WORDS)


def test_the_other_forms_of_a_sentence() -> None:
    once = MissedPeak(-0.5, 1, Moment(3, 24, None))
    assert sentence([once]) == (
        "The peak at step 4 of 24 was forecast too high on the last season, by 0.50 standard "
        "deviations."
    )
    often = MissedPeak(0.5, 12, Moment(3, 288, "00:15"))
    assert "The peak at 00:15 was missed on 12 days running" in sentence([often])
    assert sentence([Choice("answer_2", None, None, None, 72)]) == (
        "The draft is answer 2; it has no backtest."
    )
    assert sentence([Choice("answer_2", 0.5, None, None, 72)]).endswith(" on average.")
    assert own_words([Choice("answer_2", None, SEASONAL_NAIVE, 0.3, 72)]) == (
        "draft answer 2 error unknown other seasonal naive error 3"
    )
    with pytest.raises(ValueError, match="no findings"):
        sentence([])


def numbers_of(findings: Sequence[Finding]) -> set[str]:
    """Every number that a sentence about these findings may hold."""
    numbers = set()
    for finding in findings:
        for value in vars(finding).values():
            if isinstance(value, float):
                numbers.add(f"{abs(value):.2f}")
            elif isinstance(value, int):
                numbers.add(str(value))
            elif isinstance(value, Moment):
                clock = value.clock or ""
                numbers |= {str(value.step + 1), str(value.season), str(int(clock[:2] or 0))}
    return numbers


def test_every_number_in_a_sentence_recomputes_from_the_history() -> None:
    windows = daily(n=40, seed=3)
    drafts = make_drafts(windows, None, ())
    chosen = best_by_backtest(windows, drafts)
    # Of values up to the origin alone, in another order: nothing else is there to compute from.
    order = np.arange(40)[::-1]
    known = with_other_truth(windows).at(order)
    again = find(known, make_drafts(known, None, ()), [chosen[row] for row in order])[::-1]
    for findings, recomputed in zip(find(windows, drafts, chosen), again, strict=True):
        text = sentence(findings)
        assert text == sentence(recomputed)
        written = set(re.findall(r"\d+(?:\.\d+)?", text))
        assert written <= numbers_of(recomputed)
        assert len(written) >= 4


def test_own_words_are_of_the_closed_vocabulary() -> None:
    for seed in range(2):
        windows = daily(n=40, seed=seed)
        drafts = make_drafts(windows, None, ()).joined({"answer_1": windows.truth})
        for name in drafts.names:
            for findings in found(windows, drafts, name):
                words = own_words(findings).split(" ")
                assert set(words) <= set(WORDS)
                assert len(words) <= THOUGHT_WORDS
