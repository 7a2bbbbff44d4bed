"""Test that names of frequencies in old and new spellings of pandas are read as the same step and
season.
"""

from datetime import timedelta

import pytest

from tsfm_pipeline.evaluation.frequencies import Frequency, frequency_of


@pytest.mark.parametrize(
    ("names", "frequency"),
    [
        (("S", "s", "1S"), Frequency(1, "S")),
        (("10S", "10s"), Frequency(10, "S")),
        (("T", "min"), Frequency(1, "T")),
        (("15T", "15min"), Frequency(15, "T")),
        (("H", "h"), Frequency(1, "H")),
        (("D",), Frequency(1, "D")),
        (("W", "W-SUN", "W-WED"), Frequency(1, "W")),
        (("M", "ME", "MS"), Frequency(1, "M")),
        (("Q", "QE", "QS", "Q-DEC", "QE-MAR"), Frequency(1, "Q")),
        (("A", "A-DEC", "AS", "Y", "YE", "YS-JAN"), Frequency(1, "A")),
        (("B",), Frequency(1, "B")),
    ],
)
def test_every_spelling_of_a_frequency_is_the_same_frequency(
    names: tuple[str, ...], frequency: Frequency
) -> None:
    assert {frequency_of(name) for name in names} == {frequency}


@pytest.mark.parametrize("name", ["", "15", "0T", "X", "T15", "-1h", "ms", "15 min", "1.5h"])
def test_another_name_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=r"the frequency is .*; allowed: .*as in 15T or W-SUN"):
        frequency_of(name)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("10S", timedelta(seconds=10)),
        ("30T", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("W-SUN", timedelta(days=7)),
        ("B", None),
        ("MS", None),
        ("Q", None),
        ("A", None),
    ],
)
def test_steps_have_a_length_up_to_a_week(name: str, step: timedelta | None) -> None:
    assert frequency_of(name).step == step


@pytest.mark.parametrize(
    ("name", "season"),
    # From gluonts.time_feature.get_seasonality, gluonts 0.15.1.
    [
        *(("S", 3600), ("10S", 360), ("T", 1440), ("5T", 288), ("15min", 96), ("H", 24)),
        *(("2h", 12), ("7H", 1), ("D", 1), ("7D", 1), ("W", 1), ("B", 5), ("MS", 12)),
        *(("Q", 4), ("A-DEC", 1)),
    ],
)
def test_the_season_is_that_of_gluonts(name: str, season: int) -> None:
    assert frequency_of(name).season == season


def test_a_frequency_has_a_name_for_people() -> None:
    assert [frequency_of(name).called for name in ("15T", "D", "Q")] == [
        "15 minutes",
        "1 day",
        "1 quarter",
    ]
