"""Test that coefficients are learned from what several fleets teach together, each fleet alike."""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.calibration import Outcomes
from tsfm_pipeline.autoresearch.teaching import Lesson, learned_coefficients

K, H, ALPHA = 3, 4, 0.75
NAMES = ("posterior", "spread")


def lesson(seed: int, told_by: str, rows: int = 400, scale: float = 1.0) -> Lesson:
    """Rows at which one configuration is right, and the trait `told_by` is low for that one."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, K, rows)
    actual = scale * rng.normal(10.0, 1.0, (rows, H))
    offset = np.where(np.arange(K) == right[:, None], 0.1, 3.0)
    decisions = actual[:, None] + scale * (offset * rng.choice([-1, 1], (rows, K)))[..., None]
    noise = {name: rng.normal(size=(rows, K)).astype(np.float32) for name in NAMES}
    told = np.where(np.arange(K) == right[:, None], -1.0, 1.0) + 0.5 * noise[told_by]
    return Lesson(
        traits={**noise, told_by: told.astype(np.float32)},
        start=np.zeros(K),
        decisions=decisions.astype(np.float32),
        available=np.ones((rows, K), dtype=bool),
        outcomes=Outcomes(
            actual.astype(np.float32), np.full(rows, scale, np.float32), np.arange(rows) // 20
        ),
        alpha=ALPHA,
        fixed_loss=1.0,
    )


def test_the_trait_that_tells_is_heard_and_the_other_is_not() -> None:
    learned = learned_coefficients([[lesson(0, "posterior")], [lesson(1, "posterior")]], NAMES)
    assert learned["posterior"] < -1.0
    assert abs(learned["spread"]) < 0.3
    stranger = lesson(2, "posterior")
    assert stranger.ratio_and_slope(learned)[0] < 0.5 * stranger.ratio_and_slope({})[0]


def test_every_fleet_counts_alike_whatever_its_rows_lessons_and_units() -> None:
    few, many = lesson(3, "posterior", rows=100), lesson(4, "spread", rows=1600, scale=1e6)
    learned = learned_coefficients([[few], [many, many, many]], NAMES)
    ratio = learned["posterior"] / learned["spread"]
    assert 0.6 < ratio < 1.7


def test_the_slope_is_that_of_the_ratio() -> None:
    own, at = lesson(5, "spread", rows=2000), {"posterior": -0.7, "spread": 0.4}
    _, slopes = own.ratio_and_slope(at)
    for name in NAMES:
        ratios = [own.ratio_and_slope({**at, name: at[name] + step})[0] for step in (-3e-3, 3e-3)]
        assert slopes[name] == pytest.approx((ratios[1] - ratios[0]) / 6e-3, rel=0.02, abs=1e-4)


def test_a_trait_that_a_fleet_lacks_is_not_heard_there_and_no_lesson_is_refused() -> None:
    learned = learned_coefficients([[lesson(6, "posterior")]], (*NAMES, "seasons_ago_7"))
    assert learned["seasons_ago_7"] == 0.0
    with pytest.raises(ValueError, match="no fleet has a lesson"):
        learned_coefficients([[]], NAMES)
