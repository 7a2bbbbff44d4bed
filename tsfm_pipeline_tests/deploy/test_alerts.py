"""Test the alert rules: each fires on what it is for and on nothing else, and reads metrics that
exist.

What belongs here: `deploy/alerts` and its runbook. What does not: the metrics (`serving/metrics`).
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.deploy.exported import exported

RULES = PROJECT_ROOT / "deploy" / "alerts" / "service.yaml"
RUNBOOK = PROJECT_ROOT / "docs" / "runbook.md"
HEALTHY = {
    'up{job="tsfm-service"}': "1",
    'tsfm_request_latency_ms_bucket{route="model", le="100"}': "0+100",
    'tsfm_request_latency_ms_bucket{route="model", le="+Inf"}': "0+100",
    'tsfm_request_total{rollout_stage="off", status="answered"}': "0+100",
    'tsfm_request_total{rollout_stage="off", status="error"}': "0",
    'tsfm_route_selected_total{route="model"}': "0+100",
    'tsfm_route_selected_total{route="baseline"}': "0",
    'tsfm_fallback_total{reason="runtime_error"}': "0",
    'tsfm_fallback_total{reason="rollout_baseline"}': "0",
    'tsfm_breaker_state{runtime="local", state="open"}': "0",
    'tsfm_invalid_output_total{runtime="local"}': "0",
    'tsfm_target_coverage{bucket="0.8"}': "0.8",
    'tsfm_interval_width{bucket="0.9"}': "0.2",
    "tsfm_calibration_age_seconds": "3600",
    'tsfm_recorded_total{result="written"}': "0+100",
    'tsfm_recorded_total{result="failed"}': "0",
    'tsfm_rollout_stage_info{stage="10"}': "0",
    'tsfm_reasoning_answers_total{result="read"}': "0+320",
    'tsfm_reasoning_answers_total{result="unreadable"}': "0",
    'tsfm_reasoning_forecasts_total{verdict="refined"}': "0+5",
    'tsfm_reasoning_forecasts_total{verdict="draft"}': "0+5",
    'tsfm_reasoning_forecasts_total{verdict="late"}': "0",
    'tsfm_reasoning_latency_ms_bucket{le="500"}': "0+10",
    'tsfm_reasoning_latency_ms_bucket{le="2500"}': "0+10",
    'tsfm_reasoning_latency_ms_bucket{le="+Inf"}': "0+10",
    "tsfm_policy_validation_reward": "0.4",
    "tsfm_policy_kl_nats_per_token": "0.05",
}
"""Every series that the rules read, with a value (or a start and a step) that none fires on."""
ROLLOUT = {'tsfm_rollout_stage_info{stage="10"}': "1"}
SLOW = {'tsfm_request_latency_ms_bucket{route="model", le="100"}': "0"}


@dataclass(frozen=True)
class Case:
    """What makes an alert fire: series other than healthy, after how many minutes, and the alerts
    that rightly fire beside it.
    """

    bad: dict[str, str]
    minutes: int
    beside: frozenset[str] = frozenset()


CASES = {
    "TsfmServiceDown": Case({'up{job="tsfm-service"}': "0"}, 3),
    "TsfmServiceSlow": Case(
        {
            **SLOW,
            'tsfm_request_latency_ms_bucket{route="model", le="300"}': "0+90",
            'tsfm_request_latency_ms_bucket{route="model", le="400"}': "0+100",
        },
        14,
    ),
    "TsfmServiceErrors": Case(
        {'tsfm_request_total{rollout_stage="off", status="error"}': "0+6"}, 14
    ),
    "TsfmFallbackShare": Case({'tsfm_fallback_total{reason="runtime_error"}': "0+16"}, 34),
    "TsfmBaselineShare": Case({'tsfm_route_selected_total{route="baseline"}': "0+70"}, 34),
    "TsfmBreakerOpen": Case({'tsfm_breaker_state{runtime="local", state="open"}': "1"}, 6),
    "TsfmInvalidOutput": Case({'tsfm_invalid_output_total{runtime="local"}': "0+1"}, 3),
    "TsfmCoverageLow": Case({'tsfm_target_coverage{bucket="0.8"}': "0.74"}, 62),
    "TsfmCoverageVeryLow": Case({'tsfm_target_coverage{bucket="0.8"}': "0.64"}, 32),
    "TsfmIntervalsWide": Case({'tsfm_interval_width{bucket="0.9"}': "0.51"}, 32),
    "TsfmCalibrationOld": Case({"tsfm_calibration_age_seconds": "200000"}, 12),
    "TsfmRecordsLost": Case({'tsfm_recorded_total{result="failed"}': "0+1"}, 3),
    "TsfmReasoningUnreadable": Case(
        {'tsfm_reasoning_answers_total{result="unreadable"}': "0+2"}, 34
    ),
    "TsfmReasoningNeverUsed": Case({'tsfm_reasoning_forecasts_total{verdict="refined"}': "0"}, 75),
    "TsfmReasoningSlow": Case({'tsfm_reasoning_latency_ms_bucket{le="500"}': "0"}, 34),
    "TsfmReasoningLate": Case({'tsfm_reasoning_forecasts_total{verdict="late"}': "0+1"}, 34),
    "TsfmPolicyReward": Case({"tsfm_policy_validation_reward": "-0.1"}, 12),
    "TsfmPolicyKl": Case({"tsfm_policy_kl_nats_per_token": "0.11"}, 12),
    "TsfmRolloutSlow": Case(
        {
            **ROLLOUT,
            **SLOW,
            'tsfm_request_latency_ms_bucket{route="model", le="400"}': "0+90",
            'tsfm_request_latency_ms_bucket{route="model", le="600"}': "0+100",
        },
        8,
    ),
    "TsfmRolloutErrors": Case(
        {**ROLLOUT, 'tsfm_request_total{rollout_stage="off", status="error"}': "0+3"}, 8
    ),
    "TsfmRolloutInvalidOutput": Case(
        {**ROLLOUT, 'tsfm_invalid_output_total{runtime="local"}': "0+1"},
        3,
        frozenset({"TsfmInvalidOutput"}),
    ),
    "TsfmRolloutFallback": Case(
        {**ROLLOUT, 'tsfm_fallback_total{reason="runtime_error"}': "0+21"}, 22
    ),
    "TsfmRolloutBreaker": Case(
        {**ROLLOUT, 'tsfm_breaker_state{runtime="local", state="open"}': "1"},
        16,
        frozenset({"TsfmBreakerOpen"}),
    ),
}
NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _values(value: str) -> str:
    return f"{value}x80" if "+" in value else f"{value}+0x80"


def _test(series: dict[str, str], minute: int, firing: frozenset[str]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": s, "values": _values(v)} for s, v in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count by (alertname) (ALERTS{{alertstate="firing", alertname="{name}"}})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}]
                if name in firing
                else [],
            }
            for name in CASES
        ],
    }


def _run(tests: list[dict[str, Any]], folder: Path) -> None:
    file = folder / "tests.yaml"
    content = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    ran = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_has_a_case_and_a_section_in_the_runbook() -> None:
    names = [rule["alert"] for rule in _rules()]
    assert sorted(names) == sorted(CASES)
    sections = re.findall(r"^### (Tsfm\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == names
    for rule in _rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_every_expression_reads_metrics_that_the_service_exports() -> None:
    known = exported() | {"up"}
    for rule in _rules():
        read = set(re.findall(r"\b(tsfm_\w+|up)\b", rule["expr"]))
        assert read, rule["alert"]
        assert {re.sub(r"_bucket$", "", name) for name in read} <= known


@NEEDS_PROMTOOL
@pytest.mark.parametrize("name", CASES)
def test_each_alert_fires_alone_on_what_it_is_for(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert case.bad.keys() - HEALTHY.keys() <= {
        f'tsfm_request_latency_ms_bucket{{route="model", le="{le}"}}'
        for le in ("300", "400", "600")
    }
    _run([_test({**HEALTHY, **case.bad}, case.minutes, case.beside | {name})], tmp_path)


@NEEDS_PROMTOOL
def test_nothing_fires_on_a_healthy_service(tmp_path: Path) -> None:
    _run([_test(HEALTHY, minute, frozenset()) for minute in (5, 35, 70)], tmp_path)


@NEEDS_PROMTOOL
def test_the_stricter_limits_hold_only_during_a_rollout(tmp_path: Path) -> None:
    only = [name for name in CASES if name.startswith("TsfmRollout")]
    for name in only:
        case = CASES[name]
        calm = {s: v for s, v in case.bad.items() if s not in ROLLOUT}
        _run([_test({**HEALTHY, **calm}, case.minutes, case.beside)], tmp_path)
