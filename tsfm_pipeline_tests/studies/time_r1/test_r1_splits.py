"""Test which rows become windows, and that none shows a target of a later part.

What belongs here: parts, windows and batches. What does not: the figures on them
(`test_r1_measures`).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.time_r1.sources import Series
from tsfm_pipeline.studies.time_r1.splits import (
    Part,
    WindowBatches,
    first_targets,
    own_windows,
    paper_windows,
    part_rows,
    scales_of,
    seasonal_scales,
    windows_of,
)
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.real_sets import ett, made_up

PARTS: tuple[Part, ...] = ("train", "validation", "test")


def numbered(n_rows: int = 60, n_channels: int = 2, **fields: object) -> Series:
    """A series whose value is its row, plus 1,000 for each channel before."""
    values = np.arange(n_rows)[:, None] + 1000 * np.arange(n_channels)
    borders = (n_rows // 2, 3 * n_rows // 4, n_rows)
    return made_up(values.astype(float), borders, **fields)  # type: ignore[arg-type]


def same(first: Windows, second: Windows) -> bool:
    return first.channels == second.channels and all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True)
        for name in ("origins", "past", "truth")
    )


def test_a_window_is_the_rows_before_and_after_its_origin() -> None:
    windows = windows_of(numbered(), "validation", 8, 3, past=10)
    assert windows.channels == ("c0",) * 5 + ("c1",) * 5
    assert windows.origins.tolist() == [29, 32, 35, 38, 41] * 2
    np.testing.assert_array_equal(windows.past[1], np.arange(23, 33))
    np.testing.assert_array_equal(windows.history[1], np.arange(25, 33))
    np.testing.assert_array_equal(windows.truth[6], 1000 + np.arange(33, 36))
    assert windows.times is not None
    assert windows.times[1, -1] == np.datetime64("2024-01-02T08:00:00")
    assert (windows.step, windows.season, windows.look_back) == ("1 hour", 4, 8)


def test_what_lies_before_the_series_is_unknown_and_its_times_go_on() -> None:
    windows = windows_of(numbered(), "train", 8, 3, past=10, count=1)
    np.testing.assert_array_equal(windows.past[0], [np.nan, np.nan, *range(8)])
    assert windows.times is not None
    assert windows.times[0, 0] == np.datetime64("2023-12-31T22:00:00")
    assert windows_of(numbered(clock=False), "train", 8, 3).times is None


def test_a_backtest_sees_what_was_known_one_horizon_earlier() -> None:
    windows = windows_of(numbered(), "test", 8, 3, past=11, count=1).earlier()
    np.testing.assert_array_equal(windows.truth[0], [42, 43, 44])
    np.testing.assert_array_equal(windows.history[0], np.arange(34, 42))


@settings(max_examples=40)
@given(st.data())
def test_no_window_has_a_target_after_its_part_or_before_its_begin(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(40, 200))
    look_back, horizon = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    stride = data.draw(st.none() | st.integers(1, 7))
    series = numbered(n_rows)
    for part in PARTS:
        begin, end = part_rows(series, part)
        firsts = first_targets(series, part, look_back, horizon, stride)
        assert firsts.min() >= max(begin, look_back)
        assert firsts.max() + horizon <= end
        assert firsts.max() + horizon + (stride or horizon) > end, "the last window is there"
        windows = windows_of(series, part, look_back, horizon, stride=stride)
        assert (len(windows), windows.left_out) == (2 * len(firsts), 0)
        assert windows.past.max() < end + 1000
        assert (windows.truth[:, 0] == windows.past[:, -1] + 1).all()


@pytest.mark.parametrize(("part", "end"), [("train", 30), ("validation", 45)])
def test_windows_do_not_change_when_the_later_parts_are_replaced_by_noise(
    part: Part, end: int
) -> None:
    series = numbered()
    changed = series.values.copy()
    changed[end:] = np.random.default_rng(0).normal(size=changed[end:].shape)
    noisy = made_up(changed, (30, 45, 60))
    assert same(windows_of(series, part, 8, 3, stride=1), windows_of(noisy, part, 8, 3, stride=1))
    np.testing.assert_array_equal(seasonal_scales(series), seasonal_scales(noisy))
    changed[end - 1] += 1
    assert not same(
        windows_of(series, part, 8, 3, stride=1),
        windows_of(made_up(changed, (30, 45, 60)), part, 8, 3, stride=1),
    ), "the last row of the part is a target"


def test_rows_after_the_test_part_are_never_used() -> None:
    values = np.arange(80.0)[:, None]
    assert same(
        windows_of(made_up(values, (30, 45, 60)), "test", 8, 3),
        windows_of(made_up(values[:60], (30, 45, 60)), "test", 8, 3),
    )


def test_a_part_that_is_too_short_for_one_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the validation rows 30 to 44 hold no window of 8 \+ 16"):
        windows_of(numbered(), "validation", 8, 16)


def test_windows_with_unobserved_values_are_left_out_and_counted() -> None:
    series = numbered()
    series.values[40, 0] = np.nan
    windows = windows_of(series, "validation", 8, 3)
    assert windows.origins[:-5].tolist() == [29, 32, 35]  # 38 has it as a target, 41 shows it
    assert windows.left_out == 2
    drawn = windows_of(series, "validation", 8, 3, most=3, seed=1)
    assert (len(drawn), drawn.left_out) == (3, 2), "what is not drawn is not left out"
    assert drawn.at([0]).left_out == 2
    series.values[:] = np.nan
    with pytest.raises(ValueError, match=r"every validation window of 8 .* unobserved"):
        windows_of(series, "validation", 8, 3)


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(0, 5))
def test_a_draw_of_windows_is_seeded_and_keeps_their_order(most: int, seed: int) -> None:
    series = numbered()
    every = windows_of(series, "train", 8, 3, stride=1)
    drawn = windows_of(series, "train", 8, 3, stride=1, most=most, seed=seed)
    assert len(drawn) == min(most, len(every))
    assert same(drawn, windows_of(series, "train", 8, 3, stride=1, most=most, seed=seed))
    keys = list(zip(every.channels, every.origins.tolist(), strict=True))
    places = [keys.index(key) for key in zip(drawn.channels, drawn.origins.tolist(), strict=True)]
    assert places == sorted(set(places))


def test_another_seed_draws_other_windows() -> None:
    first, second = (
        windows_of(numbered(), "train", 8, 3, stride=1, most=10, seed=seed) for seed in (0, 1)
    )
    assert not same(first, second)


def test_the_papers_windows_are_ten_look_backs_that_follow_one_another() -> None:
    series = numbered(400)
    windows = paper_windows(series, 8, 12)
    assert len(windows) == 20
    assert windows.origins[:10].tolist() == [299 + 8 * i for i in range(10)]
    apart = Series(**{**vars(series), "paper_stride": 1})
    assert paper_windows(apart, 8, 12).origins[:10].tolist() == list(range(299, 309))


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_test_windows_of_ett_lie_where_the_literature_puts_them(name: str) -> None:
    series = ett(name)
    paper, own = paper_windows(series, 96, 96), own_windows(series, past=512)
    assert (len(paper), len(own)) == (70, 203)
    assert (paper.origins[[0, 9]] + 1).tolist() == [11_520, 12_384]
    assert (own.origins[[0, 28]] + 1).tolist() == [11_520, 14_208]
    assert own.times is not None
    assert np.unique(
        (own.times[:, -1] - own.times[:, -1].astype("M8[D]")).astype(int)
    ).tolist() == [23 * 3600]
    assert first_targets(series, "train", 96, 24, 1)[[0, -1]].tolist() == [96, 8616]
    assert first_targets(series, "validation", 96, 24, 1)[[0, -1]].tolist() == [8640, 11_496]


def test_the_scale_is_the_seasonal_difference_of_the_training_rows() -> None:
    values = np.zeros((60, 2))
    values[2:30:4, 0] = np.arange(7)  # from season to season 1 in one of four rows
    series = made_up(values, (30, 45, 60))
    np.testing.assert_allclose(seasonal_scales(series), [6 / 26, np.nan])
    windows = windows_of(series, "test", 8, 3, count=2)
    np.testing.assert_allclose(scales_of(series, windows), [6 / 26, 6 / 26, np.nan, np.nan])


def test_batches_hold_every_window_of_their_part_once() -> None:
    batches = WindowBatches(numbered(), look_back=8, horizon=3, batch=4, past=11, seed=5)
    for part, found in (
        ("train", list(batches.train())),
        ("validation", list(batches.validation())),
        ("test", list(batches.test())),
    ):
        whole = windows_of(numbered(), part, 8, 3, past=11)  # type: ignore[arg-type]
        assert {len(batch) for batch in found[:-1]} == {4}
        seen = [
            key
            for batch in found
            for key in zip(batch.channels, batch.origins.tolist(), strict=True)
        ]
        expected = list(zip(whole.channels, whole.origins.tolist(), strict=True))
        assert sorted(seen) == sorted(expected)
        assert (seen == expected) == (part != "train"), "only training is shuffled"


def test_the_order_of_training_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = WindowBatches(numbered(), 8, 3, batch=4, stride=1, seed=seed)
        return [origin for batch in batches.train(epoch) for origin in batch.origins.tolist()]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
