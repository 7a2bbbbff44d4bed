"""Test the Grafana dashboard: every query reads metrics that the service exports, and every metric
is shown.

What belongs here: `deploy/grafana`. What does not: alerts (`test_alerts`).
"""

import json
import re
from typing import Any

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.deploy.exported import exported

DASHBOARD: dict[str, Any] = json.loads(
    (PROJECT_ROOT / "deploy" / "grafana" / "service.json").read_text()
)


def _read() -> set[str]:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    names = {name for query in queries for name in re.findall(r"\btsfm_\w+", query)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_every_query_reads_exported_metrics_and_every_metric_is_shown() -> None:
    assert _read() == exported()


def test_panels_lie_side_by_side_and_name_their_unit() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in DASHBOARD["panels"])
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in DASHBOARD["panels"])
