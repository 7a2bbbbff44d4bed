"""Test automation: the nightly schedule, and the sensors that explain, warn and request runs."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.defs.alerts import AlertSettings
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.sensors import CRITERIA, build_sensors
from tsfm_pipeline.evaluation.served import FOLDER
from tsfm_pipeline.files import append_file
from tsfm_pipeline.lake import SCHEMA_VERSION
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.webhook import SECRET, Webhook, listening

pytestmark = pytest.mark.heavy

ROWS = "tenant_id,timestamp,cpu\n" + "".join(
    f"a,2024-01-{day:02d}T00:00:00Z,{day}\n" for day in range(1, 9)
)
SHOP = "kind: table\ntitle: Shop\nsource: a test\npath: ${TSFM_FLEETS_DIR}/shop.csv\n"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with listening() as webhook:
        yield webhook


def spec(folder: Path, name: str, nightly: str) -> None:
    (folder / f"{name}.yaml").write_text(
        f"kind: synthetic\ntitle: T\ntenants: 2\ndays: 3\n{nightly}\n"
    )


# -- the nightly schedule


def requested(
    specs_dir: Path, repository: dg.RepositoryDefinition | None = None
) -> list[dg.RunRequest] | dg.SkipReason:
    """What the nightly schedule asks for in one night."""
    repository = repository or build_definitions(Settings(specs_dir=specs_dir)).get_repository_def()
    return asked_by("nightly_schedule", repository)


def asked_by(name: str, repository: dg.RepositoryDefinition) -> list[dg.RunRequest] | dg.SkipReason:
    """What a schedule asks for in one night."""
    schedule = repository.get_schedule_def(name)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime(2024, 3, 1, 2, 30),
            repository_def=repository,
        )
        answer = schedule.evaluate_tick(context)
    return list(answer.run_requests) if answer.run_requests else dg.SkipReason(answer.skip_message)


def test_the_schedule_requests_exactly_the_fleets_that_say_so(tmp_path: Path) -> None:
    spec(tmp_path, "yes", "nightly: true")
    spec(tmp_path, "also", "nightly: true")
    spec(tmp_path, "no", "nightly: false")
    spec(tmp_path, "silent", "")
    requests = requested(tmp_path)
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["also", "yes"]
    assert [request.run_key for request in requests] == ["2024-03-01-also", "2024-03-01-yes"]
    assert all(request.tags["fleet"] == request.partition_key for request in requests)


def test_real_fleets_are_not_run_nightly_by_default() -> None:
    requests = requested(PROJECT_ROOT / "data" / "fleets")
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["demo", "synthetic"]


def test_the_night_leaves_the_fleets_that_came_with_the_program_alone_where_there_is_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TSFM_SPECS_DIR", raising=False)
    (tmp_path / "fleets").mkdir()
    spec(tmp_path / "fleets", "mine", "nightly: true")
    repository = build_definitions(Settings(data_dir=tmp_path)).get_repository_def()
    partitions = repository.get_job("nightly").partitions_def
    assert partitions is not None
    assert {"demo", "mine", "synthetic"} <= set(partitions.get_partition_keys())
    requests = requested(tmp_path / "fleets", repository)
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["mine"]


def test_without_nightly_fleets_the_schedule_says_why_it_skips(tmp_path: Path) -> None:
    spec(tmp_path, "no", "nightly: false")
    reason = requested(tmp_path)
    assert isinstance(reason, dg.SkipReason)
    assert "says `nightly: true`" in str(reason.skip_message)


def test_a_bad_or_a_new_file_keeps_no_other_fleet_from_its_night(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec(tmp_path, "yes", "nightly: true")
    repository = build_definitions(Settings(specs_dir=tmp_path)).get_repository_def()
    spec(tmp_path, "new", "nightly: true")
    (tmp_path / "bad.yaml").write_text("kind: synthetic\ntitle: T\ntenants: many\ndays: 3\n")
    requests = requested(tmp_path, repository)
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["yes"]
    said = capfd.readouterr().err
    assert "bad.yaml: field 'tenants': got 'many'" in said
    assert "left out: new.yaml: reload the code location first" in said


# -- the nightly calibration


def calibrated(settings: Settings) -> list[dg.RunRequest] | dg.SkipReason:
    """What the nightly calibration asks for in one night."""
    return asked_by("nightly_calibration", build_definitions(settings).get_repository_def())


def test_the_fleets_that_were_served_are_calibrated_whether_they_run_nightly_or_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "fleets").mkdir()
    for name in ("served", "idle"):
        spec(tmp_path / "fleets", name, "nightly: false")
    settings = Settings(data_dir=tmp_path, specs_dir=tmp_path / "fleets")
    reason = calibrated(settings)
    assert isinstance(reason, dg.SkipReason)
    assert str(settings.records_dir) in str(reason.skip_message)
    for name in ("served", "forgotten"):
        folder = settings.records_dir / name / FOLDER
        append_file(folder, lambda path: path.write_bytes(b""), suffix=".parquet")
    requests = calibrated(settings)
    assert isinstance(requests, list)
    (request,) = requests
    assert (request.partition_key, request.run_key) == ("served", "serving-2024-03-01-served")
    assert request.tags["fleet"] == "served"


def test_what_starts_runs_is_off_until_someone_switches_it_on() -> None:
    definitions = build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets"))
    schedule = definitions.resolve_schedule_def("nightly_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.cron_schedule == "30 2 * * *"
    calibration = definitions.resolve_schedule_def("nightly_calibration")
    assert calibration.default_status == dg.DefaultScheduleStatus.STOPPED
    assert calibration.cron_schedule == "30 5 * * *", "after the nightly runs"
    on = {
        sensor.name
        for sensor in definitions.sensors or ()
        if sensor.default_status == dg.DefaultSensorStatus.RUNNING
    }
    assert on == {"explain_failures", "failing_criteria"}
    for automation in (*definitions.sensors, *definitions.schedules):
        assert automation.description, automation.name


# -- failed runs


def alerts(webhook: Webhook | None = None) -> AlertSettings:
    return AlertSettings(webhook_url=webhook.url if webhook else None)  # type: ignore[arg-type]


def sensor(name: str, settings: Settings | None = None, to: AlertSettings | None = None) -> Any:
    """One sensor of a code location."""
    settings = settings or Settings(specs_dir=PROJECT_ROOT / "data" / "fleets")
    return {sensor.name: sensor for sensor in build_sensors(settings, to or alerts())}[name]


@dg.op
def tenant_telemetry() -> None:
    raise dg.Failure("fleet 'smd': no file smd.parquet", allow_retries=False)


@dg.op
def forecast_grid() -> None:
    raise MemoryError("137 GiB")


@dg.job
def failing() -> None:
    tenant_telemetry()
    forecast_grid()


def explained(
    instance: dg.DagsterInstance, to: AlertSettings, capfd: pytest.CaptureFixture[str]
) -> str:
    """What `explain_failures` logs about a run of `failing` on the fleet smd, which really
    fails.
    """
    result = failing.execute_in_process(
        instance=instance, raise_on_error=False, tags={"dagster/partition": "smd"}
    )
    assert not result.success
    context = dg.build_run_status_sensor_context(
        sensor_name="explain_failures",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    ).for_run_failure()
    capfd.readouterr()
    sensor("explain_failures", to=to)(context)
    return capfd.readouterr().err


def test_a_failed_run_is_explained_in_the_log_and_to_the_webhook(
    instance: dg.DagsterInstance, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    text = explained(instance, alerts(webhook), capfd)
    assert "step tenant_telemetry of run" in text
    assert "on fleet smd failed: fleet 'smd': no file smd.parquet" in text
    assert "step forecast_grid of run" in text
    assert "137 GiB" in text
    assert "Fix the cause, then re-execute the run from failure: finished shards are kept." in text
    (body,) = webhook.bodies
    assert (body["kind"], body["fleet"]) == ("run_failed", "smd")
    assert {failed["step"]: failed["reason"].split(":")[0] for failed in body["details"]} == {
        "tenant_telemetry": "fleet 'smd'",
        "forecast_grid": "MemoryError",
    }
    assert body["text"].count("Fix the cause") == 2


def test_a_webhook_that_fails_is_said_in_the_log_and_nothing_else_is_lost(
    instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening([403]) as webhook:
        text = explained(instance, alerts(webhook), capfd)
    assert "the webhook at 127.0.0.1 refused the alert: status 403" in text
    assert "step forecast_grid of run" in text
    assert SECRET not in text


# -- criteria that fail


def judge(
    instance: dg.DagsterInstance, fleet: str, c1: str, c2: str, profile: str = "full"
) -> None:
    """Record that the criteria of a fleet were judged so."""
    rows = [
        {"id": name, "verdict": verdict, "figure": 0.5, "target": ">= 0.55"}
        for name, verdict in (("C1", c1), ("C2", c2))
    ]
    metadata = {"criteria": dg.MetadataValue.json(rows), "profile": profile}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(CRITERIA, partition=fleet, metadata=metadata)
    )


def warned(instance: dg.DagsterInstance, cursor: str | None, webhook: Webhook) -> str:
    """One tick of `failing_criteria`; its new cursor."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    tick = sensor("failing_criteria", to=alerts(webhook)).evaluate_tick(context)
    assert not tick.run_requests
    assert tick.cursor is not None
    return tick.cursor


def test_a_criterion_that_turned_from_pass_to_fail_is_told_once(
    instance: dg.DagsterInstance, webhook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    cursor = warned(instance, None, webhook)
    judge(instance, "smd", "PASS", "PASS")
    judge(instance, "asd", "FAIL", "PASS")
    cursor = warned(instance, cursor, webhook)
    assert webhook.bodies == [], "there is nothing to compare the first verdicts with"
    judge(instance, "asd", "FAIL", "FAIL")
    judge(instance, "smd", "FAIL", "NULL")
    cursor = warned(instance, cursor, webhook)
    assert [(body["kind"], body["fleet"], body["text"]) for body in webhook.bodies] == [
        ("criterion_failed", "asd", "fleet asd: C2 turned from PASS to FAIL"),
        ("criterion_failed", "smd", "fleet smd: C1 turned from PASS to FAIL"),
    ]
    assert webhook.bodies[1]["details"] == [
        {"criterion": "C1", "now": "FAIL at 0.5", "before": "PASS at 0.5", "target": ">= 0.55"}
    ]
    assert (
        "fleet smd: C1 turned from PASS to FAIL: FAIL at 0.5; before: PASS at 0.5"
        in capfd.readouterr().err
    )
    judge(instance, "smd", "FAIL", "PASS")
    warned(instance, warned(instance, cursor, webhook), webhook)
    assert len(webhook.bodies) == 2, "it was told already"


def test_a_cheap_run_is_compared_with_cheap_runs_only(
    instance: dg.DagsterInstance, webhook: Webhook
) -> None:
    cursor = warned(instance, None, webhook)
    judge(instance, "smd", "PASS", "PASS")
    judge(instance, "smd", "FAIL", "PASS", profile="cheap")
    cursor = warned(instance, cursor, webhook)
    assert webhook.bodies == []
    judge(instance, "smd", "PASS", "FAIL")
    warned(instance, cursor, webhook)
    assert [body["text"] for body in webhook.bodies] == ["fleet smd: C2 turned from PASS to FAIL"]


# -- fleets that changed


class Shop:
    """A code location with the table fleet `shop` and the sensor over it."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.specs, self.tables, self.instance = root / "specs", root / "tables", instance
        for folder in (self.specs, self.tables):
            folder.mkdir()
        self.write(ROWS)
        (self.specs / "shop.yaml").write_text(SHOP)
        spec(self.specs, "made", "")
        self.settings = Settings(
            specs_dir=self.specs, fleets_dir=self.tables, data_dir=root / "data"
        )
        self.sensor = sensor("changed_fleets", self.settings)
        self.repository = build_definitions(self.settings).get_repository_def()
        self.cursor: str | None = None

    def write(self, text: str) -> None:
        (self.tables / "shop.csv").write_text(text)

    def tick(self) -> Any:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        )
        answer = self.sensor.evaluate_tick(context)
        self.cursor = answer.cursor
        return answer

    def requests(self, n_ticks: int) -> list[str]:
        """Run keys that so many ticks ask for."""
        return [
            str(request.run_key) for _ in range(n_ticks) for request in self.tick().run_requests
        ]


@pytest.fixture
def shop(tmp_path: Path, instance: dg.DagsterInstance) -> Shop:
    return Shop(tmp_path, instance)


def test_one_change_is_one_run_of_that_fleet(shop: Shop) -> None:
    assert shop.requests(3) == [], "a fleet that nobody ran is left alone"
    shop.write(ROWS + "b,2024-01-01T00:00:00Z,1\n")
    assert shop.requests(1) == [], "it may still be being written"
    (request,) = shop.tick().run_requests
    assert request.partition_key == "shop"
    assert request.tags["fleet"] == "shop"
    assert request.tags["purpose"] == "changed"
    assert request.run_config["resources"]["workspace"]["config"] == {"profile": "full"}
    assert shop.requests(3) == []


def test_a_table_that_changes_back_is_run_again(shop: Shop) -> None:
    shop.requests(2)
    keys = []
    for text in (ROWS + "b,2024-01-01T00:00:00Z,1\n", ROWS, ROWS + "b,2024-01-01T00:00:00Z,1\n"):
        shop.write(text)
        keys += shop.requests(3)
    assert len(set(keys)) == 3, "a run key that was used before asks for nothing"
    os.utime(shop.tables / "shop.csv")
    assert shop.requests(3) == []


def test_nothing_is_requested_while_a_run_of_the_fleet_has_not_ended(shop: Shop) -> None:
    shop.requests(2)
    shop.write(ROWS + "b,2024-01-01T00:00:00Z,1\n")
    job = shop.repository.get_job("nightly")
    run = shop.instance.create_run_for_job(
        job, tags={"dagster/partition": "shop"}, status=dg.DagsterRunStatus.STARTED
    )
    assert shop.requests(1) == []
    assert f"fleet shop has changed, but run {run.run_id} of it is queued or running" in str(
        shop.tick().skip_message
    )
    shop.instance.report_run_failed(run)
    assert len(shop.requests(3)) == 1


def test_a_change_that_was_made_while_nobody_looked_is_noticed_by_the_stored_telemetry(
    shop: Shop,
) -> None:
    fleet = open_workspace_fleet(shop.settings, "shop")
    telemetry = fleet.tables.path / "tenant_telemetry"
    telemetry.mkdir(parents=True)
    (telemetry / "_table.json").write_text(
        f'{{"schema_version": {SCHEMA_VERSION}, "source_fingerprint": "of another table"}}'
    )
    assert len(shop.requests(3)) == 1


def test_a_bad_file_and_a_missing_table_are_said_and_keep_no_other_fleet_from_its_run(
    shop: Shop,
) -> None:
    shop.requests(2)
    (shop.specs / "bad.yaml").write_text("kind: table\npath: [\n")
    (shop.specs / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (shop.specs / "misnamed.yml").write_text(SHOP)
    (shop.specs / "made.yaml").write_text(
        (shop.specs / "made.yaml").read_text().replace("days: 3", "days: 4")
    )
    (shop.tables / "shop.csv").unlink()
    assert shop.requests(1) == []
    (request,) = shop.tick().run_requests
    assert request.partition_key == "made"
    reason = str(shop.tick().skip_message)
    assert "bad.yaml: not valid YAML" in reason
    assert "binary.yaml: not readable" in reason
    assert "misnamed.yml: the ending must be .yaml" in reason
    assert "fleet 'shop': no table at" in reason
    shop.write(ROWS + "b,2024-01-01T00:00:00Z,1\n")
    assert len(shop.requests(3)) == 1, "once it is back it is compared with what it was"


def test_a_fleet_file_that_became_wrong_is_said_and_keeps_no_other_fleet_from_its_run(
    shop: Shop,
) -> None:
    shop.requests(2)
    (shop.specs / "shop.yaml").write_text(SHOP.replace("TSFM_FLEETS_DIR", "NO_SUCH_VARIABLE"))
    spec(shop.specs, "made", "seed: 1")
    assert shop.requests(1) == []
    (request,) = shop.tick().run_requests
    assert request.partition_key == "made"
    assert "variable NO_SUCH_VARIABLE" in str(shop.tick().skip_message)
    (shop.specs / "shop.yaml").write_text("kind: table\n")
    reason = str(shop.tick().skip_message)
    assert "shop.yaml: field 'title': missing" in reason
    assert "vanished" not in reason


def test_files_that_the_code_location_does_not_know_ask_for_a_reload(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    spec(shop.specs, "new", "")
    (shop.specs / "shop.yaml").write_text(SHOP.replace("title: Shop", "title: Another"))
    (shop.specs / "made.yaml").unlink()
    reason = str(shop.tick().skip_message)
    for said in (
        "new.yaml has appeared: reload the code location",
        "shop.yaml has changed: runs already",
        "made.yaml has vanished: reload",
    ):
        assert said in reason
        assert said in capfd.readouterr().err or said in reason


@pytest.mark.parametrize(
    "text",
    [
        "kind: prometheus\ntitle: P\nurl: http://127.0.0.1:9\ntenant_label: job\nqueries: {up: "
        "sum by (job) (up)}\nstep: 5\n",
        "kind: sql\ntitle: S\ndatabase: s.db\nquery: SELECT * FROM load WHERE timestamp >= :since "
        "AND timestamp < :until\n",
    ],
)
def test_fetched_fleets_are_left_to_the_night(shop: Shop, text: str) -> None:
    (shop.specs / "shop.yaml").write_text(text)
    reason = str(Shop.tick(shop).skip_message)
    assert "none of 1 fleets is to be run" in reason


def test_a_cursor_of_another_release_is_forgotten_with_a_word(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    shop.cursor = '{"shop": 3}'
    assert shop.requests(2) == []
    assert "the cursor was written by another release" in capfd.readouterr().err
