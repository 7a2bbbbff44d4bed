"""Test docs/operating.md: its commands are run, its tables equal those of the code, and its
configuration is loaded.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml
from click.testing import CliRunner
from dagster._cli import create_dagster_cli

from tsfm_pipeline.defs.alerts import Alert
from tsfm_pipeline.evaluation.rollout import RolloutLimits
from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline.settings import CHEAP, PROJECT_ROOT, Settings
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands
from tsfm_pipeline_tests.project import Project, environment

PAGE = DOCS / "operating.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = commands(PAGE)
BIN = Path(sys.executable).parent
PATIENCE_S = 90
RUN_ELSEWHERE = {
    "make ui": "docs/test_commands.py",
    "TSFM_PROFILE=cheap make fleet FLEET=demo": ".github/workflows/fleet.yml",
    "TSFM_PROFILE=cheap tsfm-pipeline report open demo": "cli/test_own_fleet_docs.py",
    "tsfm-pipeline doctor": "cli/test_doctor.py",
    "tsfm-pipeline gc": "cli/test_gc.py",
    "tsfm-pipeline gc --reports 365 --runs 365 --delete": "cli/test_gc.py",
    "tsfm-pipeline doctor shop --json": "cli/test_doctor.py",
    **dict.fromkeys(
        (
            "tsfm-pipeline rollout show --fleet shop",
            'tsfm-pipeline rollout pin 30 --fleet shop --reason "load test"',
            'tsfm-pipeline rollout rollback --fleet shop --reason "bands too narrow since noon"',
            "tsfm-pipeline rollout resume --fleet shop",
        ),
        "cli/test_rollout.py",
    ),
    "dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition demo": "the "
    "shared "
    "run "
    "of "
    "conftest.py",
    "nice -n 19 chrt -i 0 python -m tsfm_pipeline.pretraining.continue_training --state FOLDER": (
        "pretraining/test_continue_training.py"
    ),
    "python -m tsfm_pipeline.pretraining.continue_training --state FOLDER --cool-down 3000 "
    "--into FOLDER/cooled": "pretraining/test_continue_training.py",
    "python benchmarks/earlier_rows.py bundled FOLDER/cooled/state.pt": (
        "pretraining/test_release.py"
    ),
    "python -m tsfm_pipeline.pretraining.release FOLDER/cooled/state.pt "
    "data/lake/.pretraining/candidate": "pretraining/test_release.py",
    "pip install dagster-postgres==0.29.27": "the set-up of the environment, by constraints.txt",
}
"""Commands of the page that something else runs, or that would need a browser or a package
registry.
"""


@pytest.fixture(scope="module")
def instance_home(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the page's fleet and a DAGSTER_HOME of its own."""
    project = Project(tmp_path_factory.mktemp("operating"))
    project.add_fleet("demo", kind="synthetic", tenants=2, days=3)
    return project


def words(command: str) -> list[str]:
    """A command of the page with the programs of this environment."""
    program, *arguments = shlex.split(command)
    return [str(BIN / program), *arguments]


def test_the_page_names_no_command_that_nobody_runs() -> None:
    started = {command for command in COMMANDS if command.startswith(("dagster ", "dagster-"))}
    assert set(COMMANDS) - started <= set(RUN_ELSEWHERE)
    assert set(RUN_ELSEWHERE) <= set(COMMANDS)
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    assert "dagster dev -w workspace.yaml" in makefile
    assert "TSFM_PROFILE" in (PROJECT_ROOT / ".github" / "workflows" / "fleet.yml").read_text()
    for file in ("constraints.txt", "pyproject.toml"):
        assert "dagster-postgres==0.29.27" in (PROJECT_ROOT / file).read_text()


@pytest.mark.heavy
def test_automations_are_switched_on_and_runs_listed_and_deleted_as_the_page_says(
    instance_home: Project,
) -> None:
    @dg.job
    def finished() -> None: ...

    home = instance_home.root / "dagster_home"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_id = finished.execute_in_process(instance=instance).run_id
    stated = [
        command
        for command in COMMANDS
        if re.match(r"dagster (schedule|sensor|run|instance) ", command)
    ]
    assert len(stated) == 5
    # In this process, which has imported what each of them would: the program `dagster` is this
    # function.
    (program,) = entry_points(group="console_scripts", name="dagster")
    assert program.value == "dagster._cli:main"
    with environment(instance_home.environment):
        for command in stated:
            done = CliRunner().invoke(
                create_dagster_cli(), shlex.split(command.replace("RUN_ID", run_id))[1:]
            )
            assert done.exit_code == 0, f"{command}\n{done.output[-2000:]}"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        running = {
            state.instigator_name for state in instance.all_instigator_state() if state.is_running
        }
        assert running == {"nightly_schedule", "changed_fleets"}
        assert instance.get_run_by_id(run_id) is None


@pytest.fixture
def services(instance_home: Project) -> Iterator[str]:
    """The two services of the page, started as it says, but on a free port; the address of the
    first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    stated = [
        words(command.replace("3000", port))
        for command in COMMANDS
        if command.startswith("dagster-")
    ]
    assert len(stated) == 2
    (instance_home.root / "workspace.yaml").write_text(
        "load_from:\n  - python_module: tsfm_pipeline.definitions\n"
    )
    with (instance_home.root / "services.log").open("w") as log:
        processes = [
            subprocess.Popen(
                command,
                env=instance_home.environment,
                cwd=instance_home.root,
                stdout=log,
                stderr=log,
            )
            for command in stated
        ]
        yield f"http://127.0.0.1:{port}"
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=PATIENCE_S)


@pytest.mark.slow
def test_both_services_start_and_show_the_fleets(instance_home: Project, services: str) -> None:
    query = (
        '{ daemons: instance { daemonHealth { daemonStatus(daemonType: "SENSOR") { healthy } '
        "} } workspaceOrError { ... on Workspace "
    )
    query += (
        "{ locationEntries { loadStatus locationOrLoadError { ... on RepositoryLocation { "
        "repositories { sensors { name } } } } } } } }"
    )
    deadline, answer = time.monotonic() + PATIENCE_S, None
    while not (answer and answer["daemons"]["daemonHealth"]["daemonStatus"]["healthy"]):
        assert time.monotonic() < deadline, (
            f"{answer}\n{(instance_home.root / 'services.log').read_text()[-3000:]}"
        )
        time.sleep(0.5)
        try:
            answer = httpx.post(f"{services}/graphql", json={"query": query}, timeout=10).json()[
                "data"
            ]
        except httpx.TransportError:
            answer = None
    (location,) = answer["workspaceOrError"]["locationEntries"]
    (repository,) = location["locationOrLoadError"]["repositories"]
    assert {sensor["name"] for sensor in repository["sensors"]} == {
        "changed_fleets",
        "explain_failures",
        "failing_criteria",
    }


def test_the_automations_of_the_page_are_those_that_there_are() -> None:
    from tsfm_pipeline.defs.build import build_definitions

    definitions = build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets"))
    states = {
        automation.name: "on" if automation.default_status.value == "RUNNING" else "off"
        for automation in (*(definitions.sensors or ()), *(definitions.schedules or ()))
    }
    assert dict(re.findall(r"^\| `(\w+)` \| (on|off) \|", TEXT, re.MULTILINE)) == states


def test_the_table_of_profiles_says_what_the_settings_say() -> None:
    full = Settings(profile="full", specs_dir=PROJECT_ROOT / "data" / "fleets")
    found: dict[str, tuple[int, int]] = {}
    for names, cheap, whole in re.findall(
        r"^\|[^|]*\((`[^|]*`)\) \| ([\d, ]+) \| ([\d, ]+) \|$", TEXT, re.MULTILINE
    ):
        found |= dict(
            zip(
                re.findall(r"`(\w+)`", names),
                zip(map(int, cheap.split(",")), map(int, whole.split(",")), strict=True),
                strict=True,
            )
        )
    expected = {
        name: (limit, getattr(getattr(full, section), name))
        for section, limits in CHEAP.items()
        for name, limit in limits.items()
    }
    assert found == expected


def test_the_limits_of_the_rollout_are_those_of_the_page() -> None:
    for name, field in RolloutLimits.model_fields.items():
        value = getattr(RolloutLimits(), name)
        shown = (
            ", ".join(f"{stage}: {minutes:,}" for stage, minutes in value.items())
            if isinstance(value, dict)
            else f"{value:,}"
        )
        assert f"| `{name}` | {field.description} | {shown} |\n" in TEXT


def test_the_alert_of_the_page_is_one() -> None:
    (example,) = blocks(PAGE, "json")
    alert = Alert.model_validate_json(example.text)
    assert json.loads(alert.model_dump_json()) == json.loads(example.text)


def test_what_the_page_says_about_a_lock_is_what_is_said(tmp_path: Path) -> None:
    from tsfm_pipeline.lake import Lake

    fleet = Lake(tmp_path).fleet("shop")
    with (
        fleet.lock("one"),
        pytest.raises(
            FleetLockedError,
            match=r"fleet 'shop' is being written by process \d+ of run one since ",
        ),
        fleet.lock("two"),
    ):
        pass
    assert "`fleet 'shop' is being written by process 4711 of run ... since ...`" in TEXT


def test_the_instance_settings_load(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 86400
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 2
        assert not instance.telemetry_enabled
        retention = instance.get_tick_retention_settings(
            dg._core.definitions.run_request.InstigatorType.SENSOR
        )
        assert retention


def test_the_workflow_runs_what_the_makefile_has(tmp_path: Path) -> None:
    workflow = yaml.safe_load((PROJECT_ROOT / ".github" / "workflows" / "fleet.yml").read_text())
    steps = workflow["jobs"]["report"]["steps"]
    make, summary = (step["run"] for step in steps if "run" in step)
    environment = {
        **os.environ,
        "FLEET": "demo",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    dry = subprocess.run(
        ["bash", "-ec", f"{make} --dry-run"],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tsfm-pipeline run demo" in dry.stdout
    report = tmp_path / "data" / "cheap" / "reports" / "evidence_report.md"
    report.parent.mkdir(parents=True)
    report.write_text("# Evidence\n![figure](evidence_report.png)\nThe search pays.\n")
    subprocess.run(["bash", "-ec", summary], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "summary.md").read_text() == "# Evidence\nThe search pays.\n"
    assert all(
        re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step
    )
    (profiles,) = (workflow[True]["workflow_dispatch"]["inputs"]["profile"]["options"],)
    assert set(profiles) == {"cheap", "full"}
