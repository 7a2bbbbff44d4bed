"""Test docs/serving.md: every command is run against services that it starts, and every table lists
what the code has.

What belongs here: the page, its client, and the commands of the runbook. What does not: the rows of
the earlier services (`test_conformance_rows`), and the routes (`serving`).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
import yaml
from pydantic import BaseModel

from tsfm_pipeline.serving.config_file import read_settings
from tsfm_pipeline.serving.contract import (
    ErrorCode,
    ForecastRequest,
    ForecastResponse,
    Meta,
)
from tsfm_pipeline.serving.metrics import Reason
from tsfm_pipeline.serving.postprocess import Correction, OutputFault
from tsfm_pipeline.serving.preparation import COVARIATES_IGNORED, GAPS_FILLED, PARAMS_IGNORED
from tsfm_pipeline.serving.runtimes import Failure
from tsfm_pipeline.serving.search_contract import SearchRequest, SearchResponse
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.serving.tollama_wire import RUNTIME_WARNING
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands
from tsfm_pipeline_tests.serving import bundles

PAGE = DOCS / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = commands(PAGE)
RUNBOOK = commands(DOCS / "runbook.md")
BIN = Path(sys.executable).parent
PATIENCE_S = 120
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
RUN_ELSEWHERE = {
    "make demo": "conftest.py::mini_project",
    'tsfm-pipeline rollout rollback --fleet shop --reason "p95 above 400 ms since the new '
    'checkpoint"': "cli/test_rollout.py",
}
FIRST, *OTHERS = [command for command in COMMANDS if " serve " in command]
SECURED = "tsfm-pipeline serve --fleet demo"
EXPORT, *_ = [command for command in COMMANDS if command.startswith("export ")]
COPIES, *_ = [command for command in COMMANDS if " index export " in command]
WITH_TOKEN = [command for command in (*COMMANDS, *RUNBOOK) if "$TSFM_SERVING_TOKEN" in command]
ASKED = [
    command
    for command in dict.fromkeys((*COMMANDS, *RUNBOOK))
    if command.startswith(("curl ", "python ")) and command not in WITH_TOKEN
]
METRICS = ("cpu_util", "mem_util", "net_bytes", "disk_iops")


@dataclass(frozen=True)
class Reader:
    """Somebody who types the page's commands in one folder, on a port of the test's own."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        own = {"TSFM_SERVING_PORT": "0", "TSFM_DATA_DIR": str(self.root / "data"), "PATH": path}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TSFM_SERVING")}
        return inherited | own | {"PYTHONPATH": str(PROJECT_ROOT)} | self.variables

    def shell(self, command: str, url: str = "") -> str:
        """What a command prints."""
        said = re.sub(r"http://127\.0\.0\.1:8000", url, command) if url else command
        done = subprocess.run(
            ["bash", "-ec", said],
            cwd=self.root,
            env=self.environment | {"TSFM_SERVING_URL": url},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """The address of the service that a command starts; it is stopped as a system would."""
        log = self.root / "serve.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-ec", f"exec env {command}"],
                cwd=self.root,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            end = time.monotonic() + PATIENCE_S
            while not (found := re.search(r"(http://127\.0\.0\.1:\d+) answers", log.read_text())):
                assert process.poll() is None, f"{command}\n{log.read_text()}"
                assert time.monotonic() < end, f"{command}\n{log.read_text()}"
                time.sleep(0.05)
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
        assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A folder as `make demo` leaves it, as far as the service looks at it."""
    root = tmp_path_factory.mktemp("reader")
    reports = root / "data" / "reports" / "demo"
    reports.mkdir(parents=True)
    (root / ".venv").mkdir()
    (root / ".venv" / "bin").symlink_to(BIN)
    (root / "docs").symlink_to(DOCS)
    (config,) = blocks(PAGE, "yaml")
    (root / config.title).write_text(config.text)
    bounds = {metric: (0.0, 1.0 if metric.endswith("util") else None) for metric in METRICS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "METRICS", METRICS)
        bundles.small_bundle(fleet="demo", bounds=bounds).write(reports / "search.bundle")
    pl.DataFrame(
        {"tenant_id": ["d"], "metric": ["cpu_util"], "tier": ["premium"], "reservation": [0.7]}
    ).write_parquet(reports / "recommendations.parquet")
    return Reader(root)


def test_the_page_names_no_command_that_nobody_runs() -> None:
    run = {*RUN_ELSEWHERE, FIRST, *OTHERS, EXPORT, COPIES, *WITH_TOKEN, *ASKED}
    assert run == {*COMMANDS, *RUNBOOK}
    assert SECURED in OTHERS
    assert len(OTHERS) == 4


@needs_curl
@pytest.mark.heavy
def test_every_command_of_the_page_is_answered_as_it_says(reader: Reader) -> None:
    with reader.serving(FIRST) as url:
        reader.shell(f"until curl -sf {url}/ready; do sleep .1; done")
        said = [reader.shell(command, url) for command in ASKED]
    first, ready, client, batch, search, metrics, recommended = said
    answer = ForecastResponse.model_validate_json(first)
    assert (answer.meta.runtime, answer.meta.fallback_used) == ("local", False)
    assert len(answer.yhat_q["0.5"]) == 12
    assert json.loads(ready)["ready"]
    assert client.split()[-1] == "bundled"
    items = json.loads(batch)["items"]
    assert [item["status"] for item in items] == [200, 422]
    assert items[0]["response"]["meta"]["fallback_reason"] == "too_few_points"
    found = SearchResponse.model_validate_json(search)
    assert found.fallback_used
    assert len(found.decision) == 3
    assert all(metric in (found.fallback_reason or "") for metric in METRICS)
    assert 'tsfm_request_total{rollout_stage="off",status="answered"}' in metrics
    assert 'tsfm_recommended{metric="cpu_util",tenant="d",tier="premium"} 0.7' in recommended
    records = reader.root / "data" / "records" / "full" / "demo" / "served_forecasts"
    rows = pl.concat([pl.read_parquet(file) for file in records.glob("*.parquet")])
    assert set(rows["market_id"]) >= {answer.market_id, "a"}


@needs_curl
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.heavy if command == SECURED else pytest.mark.slow)
        for command in OTHERS
    ],
)
def test_the_other_services_of_the_page_start(reader: Reader, command: str) -> None:
    token = reader.shell(f"{EXPORT}; printenv TSFM_SERVING_TOKEN").strip()
    assert len(token) >= 32
    called = Reader(reader.root, {"TSFM_SERVING_TOKEN": token})
    if "ARCHETYPES" in command:
        reader.shell(COPIES)
    with called.serving(command) as url:
        for asked in WITH_TOKEN:
            assert called.shell(asked, url)
        status = f"curl -s -o /dev/null -w '%{{http_code}}' -X POST {url}/tsfm/forecast"
        refused = called.shell(status)
    assert refused == ("422" if "--no-auth" in command else "401")


def test_the_configuration_of_the_page_is_read(tmp_path: Path) -> None:
    (config,) = blocks(PAGE, "yaml")
    (tmp_path / config.title).write_text(config.text)
    settings = read_settings(tmp_path / config.title, {})
    for key, value in yaml.safe_load(config.text).items():
        stated = getattr(settings, key)
        assert (stated.model_dump(exclude_unset=True) if isinstance(value, dict) else stated) == (
            value
        )


def test_the_client_of_the_page_is_the_example_and_has_ten_lines() -> None:
    (shown,) = blocks(PAGE, "python")
    code = (PROJECT_ROOT / shown.title).read_text().split('"""')[2]
    assert shown.text == code.lstrip()
    assert len([line for line in code.splitlines() if line.strip()]) == 10


# -- the tables


def listed(heading: str, column: int = 0, *, number: int = 0) -> list[str]:
    """The names in code in a column of the `number`-th table below a heading."""
    section = TEXT.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    rows = [row.split("|")[1:-1] for row in tables[number].splitlines()[2:]]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[column])]


def names(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


@pytest.mark.parametrize(
    ("heading", "number", "expected"),
    [
        ("## What a request says", 0, names(ForecastRequest)),
        ("## What an answer says", 0, names(ForecastResponse)),
        ("## What an answer says", 1, names(Meta)),
        ("### Reasons", 0, [reason.value for reason in Reason]),
        ("### Reasons", 1, [failure.value for failure in Failure]),
        ("### Errors", 0, [code.value for code in ErrorCode]),
        ("## The search: POST /forecast", 0, names(SearchRequest)),
        (
            "### Warnings",
            0,
            [
                "fallback_reason=<reason>",
                "baseline_error:<name>",
                COVARIATES_IGNORED,
                GAPS_FILLED,
                PARAMS_IGNORED,
                RUNTIME_WARNING,
                *Correction,
                *OutputFault,
            ],
        ),
    ],
)
def test_a_table_lists_exactly_what_there_is(
    heading: str, number: int, expected: Sequence[str]
) -> None:
    found = listed(heading, number=number)
    assert sorted(found) == sorted(map(str, expected))


def test_the_defaults_of_a_request_are_those_of_the_contract() -> None:
    section = TEXT.split("## What a request says")[1]
    stated = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section, re.MULTILINE))
    defaults = ForecastRequest.model_construct(market_id="", as_of_ts=None).model_dump()
    assert stated["freq"] == defaults["freq"]
    assert int(stated["horizon_steps"]) == defaults["horizon_steps"]
    assert json.loads(stated["quantiles"]) == defaults["quantiles"]
    assert json.loads(stated["transform"]) == defaults["transform"]


def statuses() -> Mapping[str, set[str]]:
    """By code, the statuses with which the service's code refuses."""
    found: dict[str, set[str]] = {}
    for module in (PROJECT_ROOT / "tsfm_pipeline" / "serving").glob("*.py"):
        for status, code in re.findall(
            r"refusal\(\s*(\d{3}),\s*ErrorCode\.(\w+)", module.read_text()
        ):
            found.setdefault(ErrorCode[code].value, set()).add(status)
    return found


def test_each_code_has_the_statuses_of_the_table() -> None:
    section = TEXT.split("### Errors")[1]
    stated = {
        code: set(re.findall(r"\d{3}", status))
        for codes, status in re.findall(r"^\|([^|]*`[^|]*)\|([^|]*)\|", section, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    refusing = statuses()
    assert len(refusing) >= 9
    for code, found in refusing.items():
        assert found <= stated[code], code


def test_the_numbers_of_the_page_are_the_defaults() -> None:
    text, settings = " ".join(TEXT.split()), ServingSettings()
    given, limit, breaker = settings.input, settings.rate_limit, settings.breaker
    degradation, cache = settings.degradation, settings.cache
    for said in (
        f"`too_few_points` | fewer than {given.min_points} values",
        f"may only lower the server's {given.max_gap_minutes:g} minutes",
        f"a last trade of at most {given.last_trade_minutes:g} minutes",
        f"a volume below {given.min_volume_24h:,.0f}",
        f"{limit.per_minute:g} per minute, {limit.burst} at once",
        f"One deadline, {settings.deadline_s:g} s",
        f"fresh for {cache.ttl_s:g} s",
        f"for {cache.stale_s:g} s more",
        "five failures in a row" if breaker.failures_in_a_row == 5 else "",
        f"failed within {breaker.window_s:g} s",
        f"more than {degradation.degraded_above:g}".replace("0.", "."),
        f"above {degradation.baseline_above:g}".replace("0.", "."),
        f"{1e3 * degradation.degraded_deadline_s:g} ms",
        "have eight seconds" if settings.drain_s == 8 else "",
    ):
        assert said
        assert said in text, said


def test_what_is_said_of_the_search_s_answer_is_in_it() -> None:
    section = TEXT.split("## The search: POST /forecast")[1].split("\n## ")[0]
    told = section.split("The answer has")[1].split("\n\n")[0]
    assert {*re.findall(r"`(\w+)`", told)} <= {*names(SearchResponse)}


def test_other_pages_start_the_service_as_this_one_does() -> None:
    for page in (PROJECT_ROOT / "README.md", DOCS / "quick-start.md"):
        started = [command for command in commands(page) if " serve " in command]
        assert started == [FIRST.removeprefix(".venv/bin/")], page.name


def test_every_file_that_the_page_names_exists() -> None:
    for name in re.findall(r"`((?:deploy|docs)/[\w./-]+)`", TEXT):
        assert (PROJECT_ROOT / name).exists(), name
