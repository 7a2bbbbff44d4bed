"""Test docs/scaling.md: its figures follow from those that are measured or counted, and its commands
name files, versions and options that there are.

What belongs here: that page, and the parts of `benchmarks/two_machines.py` that it names. What does
not: the deployment files themselves (`deploy`).
"""

import json
import os
import re
import subprocess
import sys

import pytest

from tsfm_pipeline.autoresearch.portfolio import request_tokens
from tsfm_pipeline.catalogue.fleet import validation_offsets
from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.cost import pass_flops
from tsfm_pipeline.forecaster.registry import REGISTRY
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands

PAGE = DOCS / "scaling.md"
TEXT = PAGE.read_text(encoding="utf-8")
PERFORMANCE = (DOCS / "performance.md").read_text(encoding="utf-8")
COMMANDS = commands(PAGE)
TENANTS = 1_000_000
METRICS = 4
REQUESTS = 12
COHORT = 10_000
GPU_FLOPS_PER_S = 300e12
RUN_ELSEWHERE = {
    "ray start --head --block --port=6379 --include-dashboard=false --num-cpus=2": "ray",
    "ray start --block --address=10.0.0.1:6379": "ray",
    "dagster-webserver -w workspace.yaml -h 127.0.0.1 -p 3000": "test_operating.py",
    "dagster-daemon run -w workspace.yaml": "test_operating.py",
    "pip install 'tsfm-pipeline[object-store]'": "test_distribution.py",
    "export TSFM_LAKE_URL=s3://bucket/folder": "test_object_store.py",
    "tsfm-pipeline run demo": "test_commands.py",
    "python benchmarks/two_machines.py --quick": "two_machines",
    "docker build -f deploy/pipeline/Dockerfile -t tsfm-pipeline .": "files",
    "kubectl -n dagster apply -f deploy/kubernetes/settings.yaml "
    "-f deploy/kubernetes/ray-cluster.yaml": "files",
    "helm install dagster dagster/dagster --version 1.13.27 --namespace dagster "
    "--values deploy/kubernetes/dagster-values.yaml": "files",
}
"""Commands of the page, and what is tested of them. There is no Docker engine and no cluster: of
those commands (`files`) only the files are tested, here and in `deploy`.
"""


def _row(start: str) -> list[str]:
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def _numbers(cells: list[str]) -> list[float]:
    """The first number of every cell that has one."""
    found = (re.search(r"\d[\d,]*\.?\d*", cell) for cell in cells)
    return [float(match[0].replace(",", "")) for match in found if match]


def test_the_page_names_no_command_that_nobody_knows() -> None:
    assert set(COMMANDS) == set(RUN_ELSEWHERE)
    for command in COMMANDS:
        for name in re.findall(r"(?:deploy|benchmarks)/[\w./-]+", command):
            assert (PROJECT_ROOT / name).exists(), name
    for name in re.findall(r"`((?:deploy|benchmarks)/[\w./-]+)`", TEXT):
        assert (PROJECT_ROOT / name).exists(), name
    (helm,) = [command for command in COMMANDS if command.startswith("helm")]
    assert helm.split("--namespace")[0].split("install ")[1].strip() in (
        PROJECT_ROOT / "deploy" / "kubernetes" / "dagster-values.yaml"
    ).read_text().replace("\\\n", "")


def test_the_environment_of_two_machines_has_what_dagster_yaml_reads() -> None:
    (shown,) = blocks(PAGE, "ini")
    stated = dict(line.split("=", 1) for line in shown.text.splitlines())
    (instance,) = [
        block for block in blocks(DOCS / "operating.md", "yaml") if block.title == "dagster.yaml"
    ]
    assert set(re.findall(r"env: (\w+)", instance.text)) <= set(stated)
    assert stated["RAY_AUTH_MODE"] == "token"
    by_hand = re.search(r'^RAY_worker_niceness: "(\d+)"', TEXT, re.MULTILINE)
    assert by_hand is not None
    assert stated["RAY_worker_niceness"] == by_hand[1]


def test_tokens_and_operations_are_those_of_the_code() -> None:
    row = next(line for line in PERFORMANCE.splitlines() if "TSFM_SEARCH__CANDIDATES=" in line)
    eight = json.loads(re.search(r"CANDIDATES='(\[.*?\])'", row)[1])  # type: ignore[index]
    settings = Settings(policy_file="none")
    offsets = validation_offsets(settings.search, 60, 1440)

    def tokens(names: list[str], steps: tuple[int, ...]) -> int:
        configs = [ForecastConfig.from_name(name) for name in names]
        return int(request_tokens(configs, steps).sum())

    (cell, _) = _row("tokens of one series and request")
    assert _numbers(re.split(r"[(,] ?", cell, maxsplit=1)[:1]) == [tokens(eight, offsets)]
    assert f"({tokens(eight, ())} without" in cell
    assert f"{tokens(list(settings.search.candidates), offsets):,} with all 36" in cell
    large = Architecture(**REGISTRY["timesfm-2.5-200m"].dims)
    (operations, _) = _row("200M model")
    assert _numbers([operations])[0] == pytest.approx(
        pass_flops(large, 16, 1, 60) / 16 / 1e9, rel=0.02
    )


def test_measured_rates_are_those_of_the_page_on_performance() -> None:
    both = re.search(r"reaches (\d+),000 and (\d+),000 on two cores", PERFORMANCE)
    assert both is not None
    (cell, _) = _row("bundled model, one core")
    stated = [int(number.replace(",", "")) for number in re.findall(r"\d+,\d+", cell)]
    assert stated == [500 * int(one) for one in both.groups()]
    (cell, _) = _row("one core's products")
    assert f"float32 matrices at {int(_numbers([cell])[0])} to" in PERFORMANCE.replace("\n", " ")
    (cell, _) = _row("the whole chain, 1,000 tenants")
    assert f"({int(_numbers([cell])[0])} min of processor time)" in PERFORMANCE


def test_the_costs_of_a_million_tenants_follow_from_the_known_figures() -> None:
    tokens = _numbers(_row("tokens of one series and request"))[0] * METRICS * TENANTS
    float32, bfloat16 = (
        int(number.replace(",", ""))
        for number in re.findall(r"\d+,\d+", _row("bundled model, one core")[0])
    )
    operations = _numbers(_row("200M model"))[0] * 1e9
    products = _numbers(_row("one core's products"))[0] * 1e9
    once = [
        tokens / 1e9,
        tokens / float32 / 3600,
        tokens / bfloat16 / 3600,
        tokens * operations / products / 3600,
        tokens * operations / GPU_FLOPS_PER_S / 3600,
    ]
    for start, times in (
        ("recommendations, once", 1),
        ("every hour, for a day", 24),
        ("the model's share of a backtest", REQUESTS),
    ):
        stated = _numbers(_row(start))
        assert stated == pytest.approx([times * value for value in once], rel=0.07), start
    minutes = _numbers(_row("the whole chain, 1,000 tenants"))[0]
    whole = minutes * TENANTS / 1000 / 60
    assert _numbers(_row("the whole chain, no cohort")) == pytest.approx([whole], rel=0.01)
    assert _numbers(_row("the whole chain on a cohort")[1:]) == pytest.approx(
        [whole * COHORT / TENANTS], rel=0.01
    )
    each_ms = _numbers(_row("telemetry, features and recommendations"))[0]
    rest = each_ms * TENANTS / 3.6e6
    night = re.search(
        r"(\d+) core hours\): about (\d+) core hours, (\d+) minutes on 64 cores",
        " ".join(TEXT.split()),
    )
    assert night is not None
    total = whole * COHORT / TENANTS + once[1] + rest
    assert [int(one) for one in night.groups()] == [
        round(rest),
        round(total),
        round(total / 64 * 60),
    ]


def test_the_bytes_of_a_million_tenants_follow_from_those_of_one() -> None:
    for known, row, every_tenant in (
        ("telemetry of one tenant", "telemetry, 30 days", True),
        ("forecasts of one tenant", "`forecast_grid`, 12 requests", False),
    ):
        of_one = _numbers(_row(known))[0]
        stated = _numbers(_row(row))
        of_all = of_one * TENANTS / 1024
        of_cohort = of_all if every_tenant else of_all * COHORT / TENANTS
        assert stated == pytest.approx([of_all, of_cohort], rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("network", {"first_is_reached": True, "nothing_else_is": True}),
        ("postgres", {"answer": "42"}),
        ("storage", {"answer": "stored"}),
        ("ray", {"answer": "10.77.22.1 10.77.22.2", "another_token_is_refused": True}),
        ("join", {"answer": "10.77.22.1"}),
    ],
)
def test_each_part_of_the_two_machines_comes_up_answers_and_goes(
    part: str, answer: dict[str, object]
) -> None:
    before = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        [sys.executable, "benchmarks/two_machines.py", "--part", part],
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    assert json.loads(done.stdout) == answer
    after = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert "tsfm-a-" not in after or "tsfm-a-" in before
