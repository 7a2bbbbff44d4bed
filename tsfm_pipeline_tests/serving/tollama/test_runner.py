"""Test our model as a tollama runner: in this process, and over pipes as a daemon starts it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tsfm_pipeline.cli.app import app
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.forecaster.registry import CheckpointError, checkpoint_digest
from tsfm_pipeline.serving.tollama_runner import Runner, serve
from tsfm_pipeline.serving.tollama_wire import Kind, read_answers, request_body
from tsfm_pipeline_tests.serving.tollama.queries import query
from tsfm_pipeline_tests.serving.tollama.recorded import times

pytestmark = pytest.mark.heavy

COMMAND = (sys.executable, "-u", "-m", "tsfm_pipeline.cli", "tollama-runner")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner("bundled")


def series(target: list[Any], name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"id": name, "freq": "5m", "timestamps": times(len(target)), "target": target, **fields}


def params(*given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "model": "tsfm-bundled",
        "horizon": 3,
        "quantiles": [0.1, 0.5, 0.9],
        "series": list(given),
        "model_name": "tsfm-bundled",
        "model_family": "tsfm",
        **fields,
    }


def line(method: str, **given: Any) -> bytes:
    return json.dumps({"id": "7", "method": method, "params": given}).encode() + b"\n"


def result(runner: Runner, **given: Any) -> dict[str, Any]:
    answer = json.loads(runner.answer(line("forecast", **given)))
    assert "error" not in answer, answer
    return answer["result"]


def error(runner: Runner, text: bytes) -> tuple[Any, str]:
    answer = json.loads(runner.answer(text))
    return answer["error"]["code"], answer["error"]["message"]


def wave(n: int, level: float = 0.0) -> list[float]:
    return (level + np.sin(np.arange(n) / 7.0)).tolist()


def test_hello_says_what_it_can() -> None:
    answer = json.loads(Runner("bundled").answer(line("hello")))
    assert answer["id"] == "7"
    assert answer["result"]["capabilities"] == ["hello", "forecast", "unload"]


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (b"{", -32600, "not JSON"),
        (b"[]", -32600, "text as id"),
        (b'{"id": 7, "method": "hello"}', -32600, "text as id"),
        (b'{"id": "7", "method": "load"}', -32601, "allowed: hello, forecast, unload"),
        (b'{"id": "7", "method": "forecast", "params": []}', "BAD_REQUEST", "allowed: an object"),
    ],
)
def test_a_line_that_is_no_request_is_answered_with_an_error(
    text: bytes, code: Any, told: str
) -> None:
    given, message = error(Runner("bundled"), text)
    assert given == code
    assert told in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"horizon": "3"}, "horizon: '3'; allowed: a valid integer"),
        ({"horizon": 0}, "horizon: 0; allowed: greater than or equal to 1"),
        ({"horizon": 100_000}, "horizon: 100000; allowed: less than or equal to 1024"),
        ({"quantiles": [0.5, 0.999]}, "quantiles.1: 0.999; allowed: less than or equal to 0.99"),
        ({"series": []}, "series: []; allowed:"),
        ({"series": [series([1.0]), series(["1"])]}, "series.1.target.0: '1'; allowed: a valid"),
        ({"series": [series([None, float("nan")])]}, "series.0.target: no value; allowed: one"),
        ({"series": [series([1.0, float("inf")])]}, "series.0.target.1: inf; allowed: finite"),
        ({"series": [series([1.0, -1e101])]}, "series.0.target.1: -1e+101; allowed: finite"),
        ({"series": [series([1.0]) | {"timestamps": []}]}, "series.0.timestamps: []; allowed:"),
        (
            {"series": [series([1.0]) | {"timestamps": ["a", "b"]}]},
            "series.0.timestamps: 2 times; allowed: one per value of target, 1",
        ),
    ],
)
def test_a_bad_request_is_told_what_where_and_what_is_allowed(
    changes: dict[str, Any], told: str
) -> None:
    code, message = error(Runner("bundled"), line("forecast", **params(series([1.0])) | changes))
    assert code == "BAD_REQUEST"
    assert message.startswith(told)


def test_a_missing_parameter_is_named() -> None:
    code, message = error(Runner("bundled"), line("forecast", horizon=3))
    assert code == "BAD_REQUEST"
    assert message.startswith("model: nothing; allowed:")


def test_a_checkpoint_that_is_not_there_is_no_fault_of_the_request() -> None:
    code, message = error(Runner("absent"), line("forecast", **params(series([1.0]))))
    assert code == "MODEL_UNSUPPORTED"
    assert "'absent' is neither" in message
    with pytest.raises(CheckpointError):
        serve("absent", [], io.BytesIO())


def test_a_failure_of_the_model_is_reported_and_the_runner_goes_on(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.load()
    with monkeypatch.context() as broken:
        broken.setattr(
            "tsfm_pipeline.serving.tollama_runner.forecast_batch",
            lambda *_, **__: np.full((1, 3, 10), np.nan),
        )
        code, message = error(runner, line("forecast", **params(series(wave(64)))))
    assert code == "INTERNAL"
    assert "RuntimeError" in message
    assert result(runner, **params(series(wave(64))))["forecasts"]


def test_forecasts_are_those_of_the_frozen_model(runner: Runner) -> None:
    values = wave(64)
    (forecast,) = result(runner, **params(series(values), quantiles=list(DECILES)))["forecasts"]
    grid = load_forecaster("bundled").forecast_grid(
        Panel(np.array([values], np.float32)), [63], [ForecastConfig(context_len=64)], 3
    )[0, 0, 0]
    assert np.allclose(forecast["mean"], grid[:, 0], atol=1e-4)
    columns = np.array(list(forecast["quantiles"].values())).T
    assert np.allclose(columns, grid[:, 1:], atol=1e-4)
    assert list(forecast["quantiles"]) == [format(level, "g") for level in DECILES]


def test_series_of_different_lengths_are_answered_together_and_as_if_alone(runner: Runner) -> None:
    many = [series(wave(n, level=n), f"s{n}") for n in (3, 40, 64, 70, 300)]
    together = result(runner, **params(*many))["forecasts"]
    alone = [result(runner, **params(one))["forecasts"][0] for one in many]
    assert [one["id"] for one in together] == [one["id"] for one in many]
    for one, other in zip(together, alone, strict=True):
        assert np.allclose(one["mean"], other["mean"], atol=1e-4)


def test_quantiles_beyond_the_deciles_ascend(runner: Runner) -> None:
    levels = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
    (forecast,) = result(runner, **params(series(wave(64)), quantiles=levels))["forecasts"]
    columns = np.array([forecast["quantiles"][format(level, "g")] for level in levels])
    assert (np.diff(columns, axis=0) > 0).all()


def test_missing_values_are_filled_and_a_missing_start_is_left_out(runner: Runner) -> None:
    known = wave(64)
    gap = known[:50] + [known[49]] * 4 + known[54:]
    holed = [None, float("nan"), *known[:50], None, None, float("nan"), None, *known[54:]]
    plain, other = (
        result(runner, **params(series(target)))["forecasts"][0]["mean"] for target in (gap, holed)
    )
    assert np.allclose(plain, other)


def test_a_missing_end_is_filled_with_the_last_value(runner: Runner) -> None:
    known = wave(64)
    plain, open_ended = (
        result(runner, **params(series([*known, *end])))["forecasts"][0]["mean"]
        for end in ([known[-1]] * 2, [None, float("nan")])
    )
    assert plain == open_ended


def test_a_large_offset_costs_no_precision(runner: Runner) -> None:
    near, far = (
        np.array(result(runner, **params(series(wave(64, level))))["forecasts"][0]["mean"])
        for level in (0.0, 1e9)
    )
    assert np.allclose(far - 1e9, near, atol=1e-2)


def test_without_quantiles_there_is_a_mean_alone(runner: Runner) -> None:
    (forecast,) = result(runner, **params(series(wave(40)), quantiles=[]))["forecasts"]
    assert forecast["quantiles"] is None
    assert len(forecast["mean"]) == 3


def test_the_first_step_has_the_time_after_the_last_value(runner: Runner) -> None:
    good = series(wave(40))
    odd = series(wave(40), "b") | {"timestamps": ["yesterday"] * 40}
    first, second = result(runner, **params(good, odd))["forecasts"]
    assert first["start_timestamp"] == "2026-02-20T03:20:00Z"
    assert second["start_timestamp"] == "yesterday"


def test_what_is_not_used_is_said(runner: Runner) -> None:
    given = params(
        series(wave(40), past_covariates={"load": [1.0] * 40}), options={"temperature": 0.0}
    )
    assert result(runner, **given)["warnings"] == [
        "ignoring unsupported covariate: 'load'",
        "ignoring unknown option: 'temperature'",
    ]


def test_an_unloaded_model_is_loaded_again(runner: Runner) -> None:
    before = result(runner, **params(series(wave(40))))["forecasts"]
    assert json.loads(runner.answer(line("unload", model="tsfm-bundled")))["result"]["unloaded"]
    assert result(runner, **params(series(wave(40))))["forecasts"] == before


def test_the_adapter_reads_what_the_runner_answers(runner: Runner) -> None:
    queries = [query(0.2), query(0.4, n=288)]
    kind = Kind.of(queries[0], retry=True)
    body = request_body("tsfm-bundled", queries, kind, timeout_s=16.0, stream=None)
    content = json.dumps(result(runner, **json.loads(body))).encode()
    answers = read_answers(content, "application/json", queries, kind)
    assert [answer.values.shape for answer in answers] == [(3, 11), (3, 11)]  # type: ignore[union-attr]


def test_the_manifest_names_the_checkpoint() -> None:
    given = CliRunner().invoke(app, ["tollama-runner", "--manifest", "capacity"])
    manifest = json.loads(given.output)
    assert given.exit_code == 0
    assert manifest["name"] == "capacity"
    assert manifest["family"] == "tsfm"
    assert manifest["resolved"]["commit_sha"] == checkpoint_digest("bundled")[:12]
    assert manifest["license"]["type"] == "mit"


def test_the_manifest_of_an_absent_checkpoint_is_an_error() -> None:
    given = CliRunner().invoke(app, ["tollama-runner", "--manifest", "x", "--checkpoint", "absent"])
    assert given.exit_code == 2


def test_over_pipes_standard_output_is_the_protocol_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins\n"
        "original = builtins.__import__\n"
        "def noisy(name, *args, **kwargs):\n"
        "    if name == 'torch':\n"
        "        print('torch says hello')\n"
        "    return original(name, *args, **kwargs)\n"
        "builtins.__import__ = noisy\n"
    )
    lines = [line("hello"), b"\n", line("forecast", **params(series(wave(40)))), line("fly")]
    done = subprocess.run(
        COMMAND,
        input=b"".join(lines),
        capture_output=True,
        timeout=300,
        check=True,
        env={**_environment(), "PYTHONPATH": f"{tmp_path}:{_environment()['PYTHONPATH']}"},
    )
    hello, forecast, unknown = (json.loads(text) for text in done.stdout.splitlines())
    assert hello["result"]["name"] == "tsfm-pipeline"
    assert len(forecast["result"]["forecasts"][0]["mean"]) == 3
    assert unknown["error"]["code"] == -32601
    assert b"torch says hello" in done.stderr


def test_a_runner_without_its_checkpoint_ends_and_says_why() -> None:
    done = subprocess.run(
        (*COMMAND, "--checkpoint", "absent"),
        input=line("hello"),
        capture_output=True,
        timeout=300,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"'absent' is neither a registered checkpoint" in done.stderr


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(filter(None, sys.path)), **os.environ}
