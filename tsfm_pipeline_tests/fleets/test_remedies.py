"""Test the words that correct a fault, in each kind of fleet."""

from pathlib import Path

import pytest

from tsfm_pipeline.fleets import PrometheusFleet, SyntheticFleet
from tsfm_pipeline.fleets.remedies import bounded, converted, digits, marked_missing, rate_of
from tsfm_pipeline.fleets.spec import parse_spec
from tsfm_pipeline_tests.fleets.tables import spec

CLUSTER = parse_spec(
    "kind: prometheus\ntitle: C\nurl: http://h\ntenant_label: pod\nstep: 1\n"
    "queries: {cpu: 'cpu_seconds_total{job=\"a\"}', net: sum by (pod) (bytes_total)}\n",
    Path("c.yaml"),
)
SYNTHETIC = parse_spec("kind: synthetic\ntitle: S\ntenants: 2\ndays: 3\n", Path("s.yaml"))


def test_numbers_have_the_digits_that_they_were_read_with() -> None:
    assert [digits(value) for value in (-999.0, 65535.0, 0.25, 6.5065e6, 2.0**63)] == [
        "-999",
        "65535",
        "0.25",
        "6506500",
        "9.223e+18",
    ]


def test_a_rate_is_written_in_promql() -> None:
    assert rate_of(CLUSTER, "cpu", 60) == (
        'write `rate(cpu_seconds_total{job="a"}[5m])` as its query'
    )
    assert rate_of(CLUSTER, "net", 300) == (
        "put `rate(...[20m])` around each counter in its query, inside of any sum"
    )


def test_a_rate_is_written_in_pandas_by_the_columns_of_the_table() -> None:
    assert "`df['y'] = df.groupby(['unique_id'])['y'].diff()" in rate_of(
        spec(layout="long"), "y", 60
    )
    per_file = spec(tenant_column=None)
    assert "`df['cpu'] = df['cpu'].diff().clip(lower=0) / 60`" in rate_of(per_file, "cpu", 60)


@pytest.mark.heavy
def test_the_line_of_pandas_gives_the_rate() -> None:
    pd = pytest.importorskip("pandas")
    df = pd.DataFrame({"tenant_id": ["a"] * 4 + ["b"] * 2, "cpu": [0.0, 60, 180, 30, 600, 660]})
    line = rate_of(spec(), "cpu", 60).split("`")[1]
    exec(line, {"df": df})
    assert df["cpu"].fillna(-1).tolist() == [-1, 1, 2, 0, -1, 1]


@pytest.mark.heavy
def test_the_line_of_pandas_leaves_the_other_metrics_of_a_long_table_as_they_are() -> None:
    pd = pytest.importorskip("pandas")
    df = pd.DataFrame(
        {
            "unique_id": ["a"] * 6 + ["b"] * 2,
            "metric": ["requests", "cpu"] * 3 + ["requests"] * 2,
            "y": [0.0, 0.9, 60, 0.1, 180, 0.4, 600, 660],
        }
    )
    line = rate_of(spec(layout="long", metric_column="metric"), "requests", 60).split("`")[1]
    exec(line, {"df": df})
    assert df["y"].fillna(-1).tolist() == [-1, 0.9, 1, 0.1, 2, 0.4, -1, 1]


def test_a_marker_is_left_out_by_yaml_or_promql() -> None:
    assert "add `missing: [-1]`" in marked_missing(spec(), "cpu", -1.0)
    assert "as the table writes it" in marked_missing(spec(), "cpu", 2.0**63)
    assert marked_missing(CLUSTER, "net", -1.0) == (
        "write `(sum by (pod) (bytes_total)) != -1` as its query"
    )
    assert "< 4.612e+18` as its query" in marked_missing(CLUSTER, "net", 2.0**63)


def test_a_bound_lies_above_all_other_values() -> None:
    assert "`bounds: {cpu: {upper: 20}}`" in bounded(spec(), "cpu", 6.5e6, 7.1)
    assert "`bounds: {cpu: {lower: -20}}`" in bounded(spec(), "cpu", -6.5e6, 7.1)
    assert bounded(CLUSTER, "net", 6.5e6, 7.1) == (
        "write `(sum by (pod) (bytes_total)) < 20` as its query"
    )


def test_other_kinds_are_told_in_general_words() -> None:
    assert isinstance(CLUSTER, PrometheusFleet)
    assert isinstance(SYNTHETIC, SyntheticFleet)
    assert "divided by the seconds" in rate_of(SYNTHETIC, "cpu_util", 60)
    assert marked_missing(SYNTHETIC, "cpu_util", -1.0) == "leave these values empty"
    assert bounded(SYNTHETIC, "cpu_util", 1e6, 2.0) == "leave the value empty"


def test_a_unit_is_converted_before_its_break() -> None:
    assert converted(spec(), "noon", "1,024", larger=False) == (
        "divide the values before noon by 1,024, or leave them out"
    )
    assert "`lookback_days`" in converted(CLUSTER, "noon", "1,024", larger=True)
