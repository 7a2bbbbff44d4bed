import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.reports.shared.wording import (
    METHOD_LABELS,
    count,
    duration,
    interval,
    method_label,
    number,
    p_value,
    percent,
    percent_interval,
    ratio_interval,
    ratio_texts,
    tier_label,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9694, "0.969"),
        (1.0, "1.00"),
        (0, "0"),
        (288, "288"),
        (12345.6, "12,346"),
        (0.00212, "0.00212"),
        (-0.0313, "−0.0313"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize("form", [number, percent, p_value])
def test_a_missing_figure_is_a_dash(form):
    assert form(NAN) == "–"


def test_an_interval_has_one_precision_and_is_left_out_where_there_is_none():
    assert interval(0.031, 0.002, 0.059) == "0.0310 (0.0020 to 0.0590)"
    assert interval(167.5, 160.8, 176.9) == "168 (161 to 177)"
    assert interval(0.94, NAN, NAN) == "0.940"
    assert interval(0.0, 0.0, 0.0) == "0 (0 to 0)"
    assert interval(NAN, 0.1, 0.2) == "–"
    assert percent_interval(0.562, 0.501, 0.619) == "56.2 % (50.1 to 61.9)"


def test_a_ratio_below_one_is_never_rounded_to_one():
    assert ratio_interval(0.969, 0.941, 0.998) == "0.969 (0.941 to 0.998)"
    assert ratio_interval(0.98, 0.96, 0.99991) == "0.9800 (0.9600 to 0.9999)"


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=3))
def test_printed_ratios_lie_on_the_side_of_one_where_they_are(ratios):
    for ratio, text in zip(ratios, ratio_texts(*ratios), strict=True):
        if abs(ratio - 1) > 1e-6:
            assert (float(text) > 1) == (ratio > 1)
            assert (float(text) < 1) == (ratio < 1)


def test_small_percentages_keep_two_digits():
    assert percent(0.031) == "3.1 %"
    assert percent(0.00042) == "0.042 %"
    assert percent(0.0) == "0.0 %"


def test_counts_and_durations_read_naturally():
    assert count(1, "tenant") == "1 tenant"
    assert count(6000, "request") == "6,000 requests"
    assert count(NAN, "request") == "an unknown number of requests"
    assert duration(120) == "2 hours"
    assert duration(30) == "30 minutes"
    assert p_value(0.0005) == "< 0.001"


def test_every_name_has_words():
    assert method_label("config:ctx512") == "always ctx512"
    assert method_label("some_new_rival") == "some new rival"
    assert all("_" not in label for label in METHOD_LABELS.values())
    assert tier_label("standard", 0.75) == "standard (3 : 1)"
