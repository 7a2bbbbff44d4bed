"""Test that the names of columns mean the same whichever way they are written."""

from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.fleets.columns import find_columns
from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline_tests.cli.commands import telemetry


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("MetricName", "metric_name"),
        ("metricName", "metric_name"),
        ("Metric Name", "metric_name"),
        ("metric-name", "metric_name"),
        ("InstanceId", "instance_id"),
        ("k8s.pod.name", "k8s_pod_name"),
        ("CPUUtilization", "cpuutilization"),
        ("_value", "_value"),
        ("__name__", "__name__"),
        ("", ""),
    ],
)
def test_one_spelling_stands_for_all(written: str, usual: str) -> None:
    assert usual_name(written) == usual


def test_the_columns_of_a_cloud_s_export_have_their_roles(tmp_path: Path) -> None:
    long = telemetry().unpivot(["cpu", "mem"], index=["tenant_id", "timestamp"])
    path = tmp_path / "export.csv"
    long.select(
        pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("Timestamp"),
        pl.col("tenant_id").alias("InstanceId"),
        pl.col("variable").alias("MetricName"),
        pl.col("value").alias("Average"),
        pl.lit("Percent").alias("Unit"),
    ).write_csv(path)
    found = find_columns([path])
    assert (found.layout, found.tenant, found.metric) == ("long", ("InstanceId",), "MetricName")
    assert (found.value, found.timestamp) == ("Average", "Timestamp")
