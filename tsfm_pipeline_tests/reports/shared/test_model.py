"""Test a report's model: its conversion to the flat JSON of its figures, and back."""

import math

import pytest
from pydantic import ValidationError

from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, Report, group, item, table


class Row(Figures):
    tier: str = item("", "SLA tier")
    ratio: Estimate = item("ratio", "of losses")
    accuracy: Estimate = item(
        "share", "found", key="top1_accuracy", limits=("top1_low", "top1_high")
    )


class OfTier(Figures):
    mean_loss: Number = item("units of the scale", "mean scaled loss")
    ratio: Estimate = item("ratio", "of losses")
    n_cheaper: int | None = item("count", "tenants that cost less", left_out=True)


class Example(Report):
    n_requests: int = item("count", "test requests")
    tiers: dict[str, OfTier] = group("<tier>")
    table_rows: tuple[Row, ...] = table()
    table_more: tuple[Row, ...] = table(left_out=True)


EXAMPLE = Example(
    fleet="demo",
    n_requests=3,
    tiers={
        "standard": OfTier(mean_loss=1.5, ratio=Estimate(0.9, 0.8, 1.0), n_cheaper=2),
        "gold": OfTier(mean_loss=1.0, ratio=Estimate(1.0, 1.0, 1.0)),
        "gold_plus": OfTier(mean_loss=math.inf, ratio=Estimate(1.1)),
    },
    table_rows=(
        Row(tier="standard", ratio=Estimate(0.9, 0.8, 1.0), accuracy=Estimate(0.5, 0.4, 0.6)),
    ),
)
FLAT = {
    "fleet": "demo",
    "n_requests": 3,
    "standard_mean_loss": 1.5,
    "standard_ratio": 0.9,
    "standard_ratio_low": 0.8,
    "standard_ratio_high": 1.0,
    "standard_n_cheaper": 2,
    "gold_mean_loss": 1.0,
    "gold_ratio": 1.0,
    "gold_ratio_low": 1.0,
    "gold_ratio_high": 1.0,
    "gold_plus_mean_loss": math.inf,
    "gold_plus_ratio": 1.1,
    "gold_plus_ratio_low": math.nan,
    "gold_plus_ratio_high": math.nan,
    "table_rows": [
        {
            "tier": "standard",
            "ratio": 0.9,
            "ratio_low": 0.8,
            "ratio_high": 1.0,
            "top1_accuracy": 0.5,
            "top1_low": 0.4,
            "top1_high": 0.6,
        }
    ],
}


def test_a_model_is_flat_keys_in_the_order_of_its_fields() -> None:
    flat = EXAMPLE.flat()
    assert list(flat) == list(FLAT)
    assert str(flat) == str(FLAT)


def test_the_flat_keys_give_the_model_back() -> None:
    read = Example.from_flat(FLAT)
    assert str(read) == str(EXAMPLE)
    assert read.tiers["gold_plus"].n_cheaper is None


def test_null_is_a_missing_figure() -> None:
    read = Example.from_flat({**FLAT, "standard_mean_loss": None, "standard_ratio_low": None})
    assert math.isnan(read.tiers["standard"].mean_loss)
    assert math.isnan(read.tiers["standard"].ratio.low)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_request": 3}, "n_request"),
        ({"n_requests": "many"}, "n_requests"),
        ({"standard_ration": 1.0}, "ration"),
        ({"table_rows": [{"tier": "standard"}]}, "ratio"),
        ({"table_row": []}, "table_row"),
    ],
)
def test_a_key_that_is_unknown_missing_or_of_another_type_is_refused_by_name(
    change: dict[str, object], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        Example.from_flat({**FLAT, **change})


def test_a_table_without_rows_is_an_empty_list_or_is_left_out() -> None:
    flat = EXAMPLE.model_copy(update={"table_rows": ()}).flat()
    assert flat["table_rows"] == []
    assert "table_more" not in flat
    with pytest.raises(ValidationError, match="table_rows"):
        Example.from_flat({key: value for key, value in FLAT.items() if key != "table_rows"})


def test_what_the_json_says_of_the_run_is_read() -> None:
    assert Example.from_flat({**FLAT, "profile": "cheap"}).profile == "cheap"
    assert "profile" not in EXAMPLE.flat()


def test_the_codebook_lists_every_key_and_limits_whose_names_are_their_own() -> None:
    assert [key.name for key in Example.codebook_keys()] == [
        "fleet",
        "profile",
        "scores_fingerprint",
        "cohort_tenants",
        "fleet_tenants",
        "n_requests",
        "<tier>_mean_loss",
        "<tier>_ratio",
        "<tier>_n_cheaper",
    ]
    assert Example.tables() == {"table_rows": Row, "table_more": Row}
    assert [key.name for key in Row.codebook_keys()] == [
        "tier",
        "ratio",
        "top1_accuracy",
        "top1_low",
        "top1_high",
    ]
