"""What happens without anyone asking: the nightly schedule and the sensor that explains failures."""

from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.sensors import explain_failures
from tsfm_pipeline.settings import PROJECT_ROOT, Settings


def requested(specs_dir: Path) -> list[dg.RunRequest] | dg.SkipReason:
    """What the nightly schedule asks for in one night."""
    repository = build_definitions(Settings(specs_dir=specs_dir)).get_repository_def()
    schedule = repository.get_schedule_def("nightly_schedule")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance, scheduled_execution_time=datetime(2024, 3, 1, 2, 30), repository_def=repository)
        answer = schedule.evaluate_tick(context)
    return list(answer.run_requests) if answer.run_requests else dg.SkipReason(answer.skip_message)


def spec(folder: Path, name: str, nightly: str) -> None:
    (folder / f"{name}.yaml").write_text(f"kind: synthetic\ntitle: T\ntenants: 2\ndays: 3\n{nightly}\n")


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


def test_without_nightly_fleets_the_schedule_says_why_it_skips(tmp_path: Path) -> None:
    spec(tmp_path, "no", "nightly: false")
    reason = requested(tmp_path)
    assert isinstance(reason, dg.SkipReason)
    assert "says `nightly: true`" in str(reason.skip_message)


def test_the_schedule_is_off_until_someone_switches_it_on() -> None:
    schedule = build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets")).resolve_schedule_def("nightly_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.cron_schedule == "30 2 * * *"


def explained(job: dg.JobDefinition, tags: dict[str, str], capfd: pytest.CaptureFixture[str]) -> str:
    """What the sensor logs about a run of that job, which really fails."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
        assert not result.success
        context = dg.build_run_status_sensor_context(
            sensor_name="explain_failures",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=result.dagster_run,
        ).for_run_failure()
        capfd.readouterr()
        explain_failures(context)
    return capfd.readouterr().err


def test_the_sensor_names_step_fleet_reason_and_what_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    @dg.op
    def tenant_telemetry() -> None:
        raise dg.Failure("fleet 'smd': no file smd.parquet", allow_retries=False)

    @dg.op
    def forecast_grid() -> None:
        raise MemoryError("137 GiB")

    @dg.job
    def nightly() -> None:
        tenant_telemetry()
        forecast_grid()

    text = explained(nightly, {"dagster/partition": "smd"}, capfd)
    assert "step tenant_telemetry of run" in text
    assert "on fleet smd failed: fleet 'smd': no file smd.parquet" in text
    assert "step forecast_grid of run" in text
    assert "137 GiB" in text
    assert "Mend the cause, then re-execute the run from failure: finished shards are kept." in text
