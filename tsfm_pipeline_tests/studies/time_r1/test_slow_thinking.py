"""Test slow thinking: its passes, its gate, its deciles, and what it does with useless answers."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.studies.time_r1 import slow_thinking
from tsfm_pipeline.studies.time_r1.asking import Answers, answer
from tsfm_pipeline.studies.time_r1.drafts import best_by_backtest, make_drafts
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.output_filter import WITHHELD
from tsfm_pipeline.studies.time_r1.policy import OutOfTime
from tsfm_pipeline.studies.time_r1.samples import thoughts_of
from tsfm_pipeline.studies.time_r1.slow_thinking import (
    GATE_MARGIN,
    GATE_TOLERANCE,
    LEAST_SAMPLES,
    SHARE,
    drafts_at_gate,
    think,
)
from tsfm_pipeline.studies.time_r1.slow_thought import SlowThought, verdicts
from tsfm_pipeline_tests.studies.time_r1.thinking_setting import (
    LOOK_BACK,
    noise_windows,
    random_asker,
    wave_windows,
)

GATE_ORIGINS = ThinkingOptions().gate_origins


@pytest.fixture(scope="module")
def noisy() -> SlowThought:
    """What a policy of random weights makes of noise: some of its answers win their backtest."""
    return think(random_asker(), noise_windows(28), None, ())


def test_the_gate_keeps_what_did_not_lose_its_backtest_and_a_further_pass_that_won_it(
    noisy: SlowThought,
) -> None:
    allowed = np.array([[1 + GATE_TOLERANCE], [1 - GATE_MARGIN]])
    np.testing.assert_array_equal(noisy.kept, noisy.errors[1:] < allowed * noisy.errors[:-1])
    assert 0 < noisy.gate.sum() < len(noisy.gate)
    np.testing.assert_array_equal(noisy.forecast[~noisy.gate], noisy.draft[~noisy.gate])
    first = noisy.iterations == 1
    np.testing.assert_array_equal(noisy.forecast[first], noisy.refined[0][first])


def test_only_what_was_kept_is_refined_again(noisy: SlowThought) -> None:
    asked = np.isfinite(noisy.refined).all(axis=2)
    assert asked[0].all()
    np.testing.assert_array_equal(asked[1], noisy.kept[0])
    twice = noisy.iterations == 2
    assert twice.any()
    np.testing.assert_array_equal(noisy.forecast[twice], noisy.refined[1][twice])
    np.testing.assert_array_equal(noisy.after(0), noisy.draft)
    np.testing.assert_array_equal(noisy.after(1)[twice], noisy.refined[0][twice])
    np.testing.assert_array_equal(noisy.after(2), noisy.forecast)


def test_the_error_of_the_gate_is_that_of_the_same_procedure_at_earlier_origins() -> None:
    asker, windows = random_asker(max_iterations=1), wave_windows(5)
    errors = np.zeros((2, GATE_ORIGINS, len(windows)))
    earlier = windows
    for origin in range(GATE_ORIGINS):
        earlier = earlier.earlier()
        drafts = make_drafts(earlier, None, ())
        chosen = best_by_backtest(earlier, drafts)
        draft = drafts.taken(chosen)
        told = thoughts_of(earlier, drafts, chosen, asker.codec)
        answered = answer(asker, earlier, draft, told, greedy=True).median
        refined = draft + SHARE * (answered - draft)
        for forecast, error in zip((draft, refined), errors, strict=True):
            error[origin] = np.abs(forecast - earlier.truth).mean(axis=1)
    np.testing.assert_allclose(think(asker, windows, None, ()).errors, errors.mean(axis=1))


def test_drafts_that_are_given_change_nothing(
    noisy: SlowThought, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = noise_windows(28)
    drafts = drafts_at_gate(windows, None, (), GATE_ORIGINS)
    monkeypatch.setattr(slow_thinking, "drafts_at_origins", None)
    _assert_equal(noisy, think(random_asker(), windows, None, (), drafts=drafts))


def test_nothing_after_the_origin_is_read() -> None:
    windows = noise_windows(12)
    noise = np.random.default_rng(1).exponential(100.0, windows.truth.shape)
    one = think(random_asker(), windows, None, ())
    other = think(random_asker(), replace(windows, truth=noise), None, ())
    _assert_equal(one, other)


def test_two_runs_are_equal_and_another_seed_changes_the_spread_alone() -> None:
    windows, asker = noise_windows(12), random_asker()
    one = think(asker, windows, None, ())
    _assert_equal(one, think(asker, windows, None, ()))
    other = think(replace(asker, seed=1), windows, None, ())
    np.testing.assert_array_equal(other.forecast, one.forecast)
    assert one.gate.any()
    changed = (other.deciles != one.deciles).any(axis=(1, 2))
    np.testing.assert_array_equal(changed, one.gate)


def test_without_a_backtest_the_draft_stands() -> None:
    windows = noise_windows(40, past=LOOK_BACK + 2)
    short = replace(windows, past=windows.past[:, 1:])  # one value short of an earlier look-back
    assert think(random_asker(), windows, None, ()).gate.any()
    thought = think(random_asker(), short, None, ())
    assert not thought.kept.any()
    assert np.isnan(thought.errors[0]).all()
    assert np.isfinite(thought.refined[0]).all()
    np.testing.assert_array_equal(thought.forecast, thought.draft)
    assert all("has no backtest, so the draft stands." in reason for reason in thought.reasons)


def test_a_policy_that_knows_nothing_costs_no_more_than_the_mistakes_of_the_gate() -> None:
    windows = wave_windows(24, horizon=8)
    thought = think(random_asker(max_iterations=1), windows, None, ())
    errors = {
        name: float(np.abs(forecast - windows.truth).mean())
        for name, forecast in {
            "draft": thought.draft,
            "refined": thought.refined[0],
            "gated": thought.forecast,
        }.items()
    }
    harm = errors["refined"] - errors["draft"]
    assert harm > 0.3 * errors["draft"]
    assert errors["gated"] - errors["draft"] < 0.05 * harm


def test_answers_that_cannot_be_read_are_counted_and_the_draft_takes_their_place() -> None:
    asker, windows = random_asker(constrained=False), wave_windows(3)
    thought = think(asker, windows, None, ())
    assert thought.answers.tolist() == [1 + GATE_ORIGINS] * 3
    np.testing.assert_array_equal(thought.failures, thought.answers)
    assert sum(thought.problems.values()) == thought.answers.sum()
    np.testing.assert_array_equal(thought.refined[0], thought.draft)
    assert not thought.gate.any(), "no correction is nothing to keep"
    assert np.isfinite(thought.forecast).all()


def test_what_the_output_filter_objects_to_does_not_reach_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asker, windows = random_asker(max_iterations=1), noise_windows(2)
    plain = think(asker, windows, None, ()).reasons
    assert all(reason.startswith("The draft is ") for reason in plain)
    monkeypatch.setattr(slow_thinking, "sentence", lambda _: "A shit forecast.")
    assert think(asker, windows, None, ()).reasons == (WITHHELD, WITHHELD)


def test_a_policy_may_write_its_own_reasons() -> None:
    asker, windows = random_asker(max_iterations=1), wave_windows(2)
    given = think(asker, windows, None, ())
    own = think(replace(asker, own_reasons=True), windows, None, ())
    assert (own.tokens > given.tokens).all()
    assert own.failures.tolist() == [0, 0]
    assert own.own_words == given.own_words


def test_deciles_are_of_the_answers_where_they_are_kept_and_never_decrease(
    noisy: SlowThought,
) -> None:
    assert (np.diff(noisy.deciles, axis=-1) >= 0).all()
    np.testing.assert_allclose(noisy.deciles[..., 4], noisy.forecast)
    spread = noisy.deciles[..., 8] - noisy.deciles[..., 0]
    assert (spread[noisy.gate] > 0).all()
    assert (spread[~noisy.gate] == 0).all(), "a simple draft has no spread of its own"


def test_everything_lies_within_the_limits() -> None:
    windows = noise_windows(12)
    limits = Limits.of([(0.25, 0.375)] * len(windows))
    thought = think(random_asker(), windows, None, (), limits)
    for values in (thought.forecast, thought.deciles, thought.draft, thought.refined[0]):
        assert values.min() >= 0.25
        assert values.max() <= 0.375
    free = think(random_asker(), windows, None, ())
    assert free.draft.min() < 0.25
    assert free.refined[0].max() > 0.375


def test_when_time_is_over_the_draft_stands_and_the_reason_says_so() -> None:
    windows = noise_windows(4)
    late = think(replace(random_asker(), until=0.0), windows, None, ())
    assert late.late
    assert not late.kept.any()
    assert np.isnan(late.refined).all()
    np.testing.assert_array_equal(late.forecast, think(random_asker(), windows, None, ()).draft)
    assert all("There was no time for the policy's answers" in reason for reason in late.reasons)


def test_without_time_for_the_spread_of_a_kept_answer_the_draft_stands_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows, asker = noise_windows(4), random_asker()
    assert think(asker, windows, None, ()).gate.any()
    honest = slow_thinking.answer

    def out_of_time_for_samples(*asked: Any, greedy: bool, **options: Any) -> Answers:
        if not greedy:
            raise OutOfTime
        return honest(*asked, greedy=greedy, **options)

    monkeypatch.setattr(slow_thinking, "answer", out_of_time_for_samples)
    late = think(asker, windows, None, ())
    assert late.late
    assert not late.kept.any()
    np.testing.assert_array_equal(late.forecast, late.draft)
    assert all("There was no time for the policy's answers" in reason for reason in late.reasons)


def test_only_the_last_kept_answer_is_followed_by_sampled_ones(noisy: SlowThought) -> None:
    assert set(noisy.iterations) == {0, 1, 2}
    n_asked = 1 + noisy.kept[0].astype(int)
    expected = (1 + GATE_ORIGINS) * n_asked + LEAST_SAMPLES * noisy.gate
    np.testing.assert_array_equal(noisy.answers, expected)
    refused = ~noisy.gate
    assert refused.any()
    assert (noisy.answers[refused] == 1 + GATE_ORIGINS).all()


def test_one_earlier_origin_costs_a_third_less_and_decides_alone() -> None:
    windows = noise_windows(12)
    thought = think(random_asker(gate_origins=1, max_iterations=1), windows, None, ())
    np.testing.assert_array_equal(thought.answers, 2 + LEAST_SAMPLES * thought.gate)
    before = windows.past[:, -windows.horizon :]
    two = think(random_asker(max_iterations=1), windows, None, ())
    np.testing.assert_allclose(thought.refined, two.refined)
    error = np.abs(think(random_asker(), windows.earlier(), None, ()).draft - before).mean(axis=1)
    np.testing.assert_allclose(thought.errors[0], error)


def test_many_windows_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = noise_windows(5)
    together = think(random_asker(), windows, None, ())
    monkeypatch.setattr(slow_thinking, "MOST_WINDOWS", 2)
    in_turns = think(random_asker(), windows, None, ())
    np.testing.assert_allclose(in_turns.forecast, together.forecast)
    assert in_turns.reasons == together.reasons
    assert in_turns.problems == together.problems


def test_the_reason_of_a_second_pass_speaks_of_the_refined_forecast(noisy: SlowThought) -> None:
    for times, words, reason in zip(noisy.iterations, noisy.own_words, noisy.reasons, strict=True):
        begin = "draft other error" if times == 2 else "draft mean four error"
        assert words.startswith(begin) or times < 2
        assert ("The draft is the refined forecast;" in reason) == (times == 2)
        assert reason.endswith("so it is used." if times else "so the draft stands.")


@pytest.mark.parametrize(
    ("error", "moved", "kept", "said"),
    [
        (0.48, 0.1, True, "were off by 0.48 standard deviations, and drafts by 0.50, so it is"),
        (0.52, 0.1, True, "by 0.52 standard deviations, and drafts by 0.50: more, but by less"),
        (0.60, 0.1, False, "by 0.60 standard deviations, and drafts by 0.50: more by 5 % or above"),
        (0.50, 0.0, False, "The policy's answer is the draft itself, so the draft stands."),
        (np.nan, 0.1, False, "has no backtest, so the draft stands."),
    ],
)
def test_the_words_of_the_verdict_follow_the_errors(
    noisy: SlowThought, error: float, moved: float, kept: bool, said: str
) -> None:
    draft = np.zeros_like(noisy.draft)
    thought = replace(
        noisy,
        draft=draft,
        forecast=draft + moved * kept,
        refined=np.stack([draft + moved, np.full_like(draft, np.nan)]),
        kept=np.stack([np.full(len(draft), kept), np.zeros(len(draft), bool)]),
        errors=np.stack([np.full(len(draft), each) for each in (0.5, error, np.nan)]),
    )
    told = verdicts(thought, np.ones(len(draft)), 48, GATE_TOLERANCE)
    assert len(told) == len(draft)
    for words in told:
        assert said in words
        assert words.endswith("so it is used." if kept else "so the draft stands.")
        assert ("more" in words) == (error > 0.5)


def test_gaps_and_few_samples_are_refused() -> None:
    windows = wave_windows(2)
    past = windows.past.copy()
    past[1, -3] = np.nan
    with pytest.raises(ValueError, match="1 of 2 look-backs have unknown values, the first is"):
        think(random_asker(), replace(windows, past=past), None, ())
    with pytest.raises(ValueError, match="15 samples; allowed: at least 16"):
        think(random_asker(samples=15), windows, None, ())


def _assert_equal(one: SlowThought, other: SlowThought) -> None:
    for field in fields(SlowThought):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
