"""`tsfm-pipeline doctor`: what is wrong is named with a remedy, and decides the exit status."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numba
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.records import LEDGER, RecordTable
from tsfm_pipeline.catalogue.registry import made_from
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.cli.doctor.findings import Finding, Section, worst
from tsfm_pipeline.cli.doctor.folders import refusal
from tsfm_pipeline.settings import Settings
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.project import environment

pytestmark = pytest.mark.heavy

SMALL = "kind: synthetic\ntitle: Small\ntenants: 2\ndays: 3\n"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A data folder with the file of one small fleet, which nobody has run."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    desk = Desk(tmp_path / "desk", {"SPECS_DIR": str(tmp_path / "desk" / "data" / "fleets")})
    desk.specs.mkdir(parents=True)
    (desk.specs / "small.yaml").write_text(SMALL)
    return desk


def opened(desk: Desk) -> Fleet:
    with environment(desk.variables):
        return open_workspace_fleet(Settings(), "small")


def made(desk: Desk, *names: str) -> Fleet:
    """The fleet with these tables (all, where none is named) as if a run had made them: one row
    each, and a record that says what they were made from.
    """
    fleet = opened(desk)
    for name in names or TABLES:
        said = {"made_from": made_from(TABLES[name], fleet.context, fleet.tables.expected)}
        fleet.tables.write(name, pl.DataFrame({"row": [1]}), provenance=said)
    return fleet


def asked(desk: Desk, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """The findings of `doctor --json`, by section and name."""
    before = desk.files()
    done = desk.run("doctor", "--json", *arguments)
    assert done.exit_code == status, done.output
    assert desk.files() == before, "nothing is left, nothing moved"
    content = json.loads(done.stdout)
    assert (content["status"] == "problem") == (status == 1)
    return {key: section["findings"] for key, section in content["sections"].items()}


def test_all_is_well_with_a_fleet_that_nobody_has_run(desk: Desk) -> None:
    found = asked(desk)
    assert list(found) == [
        "program",
        "numerics",
        "model",
        "folders",
        "policy",
        "fleets",
        "fleet small",
    ]
    assert found["program"]["numba"]["finding"] == numba.__version__
    assert found["numerics"].keys() == {"BLAS kernel", "processor", "threads"}
    assert {"checkpoint", "CUDA", "decoder"} <= found["model"].keys()
    if found["model"]["decoder"]["finding"].startswith("compiled"):
        product = found["model"]["matrix product"]["finding"]
        assert product.startswith("float32: loops (as set); bfloat16: ")
    assert "licence MIT" in found["model"]["checkpoint"]["finding"]
    names = ("data", "lake", "reports", "records")
    folders = {*(f"{name} folder" for name in names), "DAGSTER_HOME"}
    assert found["folders"].keys() == folders | {"disk", "hard links", "clock"}
    small = found["fleet small"]
    assert {f"table {name}" for name in TABLES} < small.keys()
    assert all(small[f"table {name}"]["finding"] == "missing: not made yet" for name in TABLES)
    assert "an estimate of 15 bytes per tenant, step and metric" in small["room"]["finding"]
    assert all(
        finding.keys() == {"finding", "status", "remedy"}
        for section in found.values()
        for finding in section.values()
    )


def test_the_screen_says_the_same_and_folds_tables(desk: Desk) -> None:
    done = desk.run("doctor", "small")
    assert done.exit_code == 0, done.output
    assert f"{len(TABLES)} tables" in done.stdout
    for words in ("BLAS kernel", "hard links", "fleet small", "no run holds the fleet"):
        assert words in done.stdout


def test_what_is_current_says_so_and_its_size_is_that_of_the_last_run(desk: Desk) -> None:
    made(desk)
    small = asked(desk)["fleet small"]
    assert {small[f"table {name}"]["finding"] for name in TABLES} == {"current"}
    assert "of tables as the last run left them" in small["room"]["finding"]


def test_a_stale_table_says_which_value_changed_and_those_below_which_input(desk: Desk) -> None:
    made(desk)
    (desk.specs / "small.yaml").write_text(SMALL + "max_gap: 7\n")
    small = asked(desk)["fleet small"]
    requests = small["table forecast_requests"]
    assert requests["status"] == "warning"
    assert "max_gap" in requests["finding"]
    assert "-> 7" in requests["finding"]
    assert "tsfm-pipeline run small" in requests["remedy"]
    assert small["table request_targets"]["finding"] == "stale: input forecast_requests changed"
    assert small["table tenant_telemetry"]["finding"] == "current"


def test_a_table_of_an_earlier_release_has_no_recorded_reason(desk: Desk) -> None:
    fleet = made(desk, "tenant_telemetry")
    record = fleet.tables.path / "tenant_telemetry" / "_table.json"
    content = json.loads(record.read_text())
    del content["made_from"]
    record.write_text(json.dumps(content | {"fingerprint": "0" * 16}))
    finding = asked(desk)["fleet small"]["table tenant_telemetry"]["finding"]
    assert finding.startswith("stale: why is not recorded")


def test_interrupted_and_damaged_tables_are_told_apart(desk: Desk) -> None:
    tables = made(desk).tables
    (tables.path / "tenant_manifest" / "_table.json").unlink()
    part = tables.path / "tenant_features" / tables.parts("tenant_features")[0].name
    part.write_bytes(part.read_bytes()[:-1])
    small = asked(desk, status=1)["fleet small"]
    assert small["table tenant_manifest"]["finding"].startswith("interrupted")
    assert small["table tenant_features"]["finding"].startswith("damaged")
    assert small["table tenant_features"]["status"] == "problem"


def test_a_report_of_other_scores_is_named(desk: Desk) -> None:
    fleet = made(desk)
    fleet.reports_dir.mkdir(parents=True)
    scores = fleet.tables.expected["headline_scores"]
    for name, content in (
        ("headline_report", json.dumps({"scores_fingerprint": scores})),
        ("latency_report", json.dumps({"scores_fingerprint": "other"})),
        ("cold_start_report", "{"),
        ("recommendations.vpa", json.dumps({"recommendations": []})),
    ):
        (fleet.reports_dir / f"{name}.json").write_text(content)
    report = asked(desk)["fleet small"]["reports"]
    assert report["status"] == "warning"
    assert report["finding"] == (
        "made from other scores: latency_report; not readable: cold_start_report"
    )


def test_who_holds_the_fleet_is_said_and_the_lock_stays_free_for_a_run(desk: Desk) -> None:
    tables = made(desk, "tenant_telemetry").tables
    with tables.lock("a-run"):
        lock = asked(desk)["fleet small"]["lock"]
    assert "of run a-run since" in lock["finding"]
    assert lock["status"] == "warning"
    assert asked(desk)["fleet small"]["lock"]["finding"] == "no run holds the fleet"
    with tables.lock("another-run"):
        assert tables.holder() is not None


def test_rows_and_files_of_the_future_are_noticed(desk: Desk) -> None:
    folder = desk.data / "records" / "full" / "small" / LEDGER
    later = datetime.now(UTC) + timedelta(days=2)
    path = RecordTable(folder).append(pl.DataFrame({"time": [datetime.now(UTC), later]}))
    small = asked(desk)["fleet small"]
    assert small["ledger"]["status"] == "warning"
    assert "2 rows, 1 of them later than now" in small["ledger"]["finding"]
    assert small["records"]["status"] == "ok"
    day = f"{datetime.now(UTC):%Y%m%d}"
    path.rename(path.with_name(path.name.replace(day, f"{later:%Y%m%d}")))
    small = asked(desk)["fleet small"]
    assert small["records"]["status"] == "warning"
    next(folder.iterdir()).write_bytes(b"noise")
    assert asked(desk, status=1)["fleet small"]["ledger"]["status"] == "problem"


def test_what_an_earlier_release_left_is_said_and_not_moved(desk: Desk) -> None:
    old = desk.data / "reports" / "small" / "experiment_ledger.parquet"
    old.parent.mkdir(parents=True)
    pl.DataFrame({"row": [0]}).write_parquet(old)
    assert str(old) in asked(desk)["fleet small"]["earlier records"]["finding"]
    assert old.is_file()


def test_a_wrong_fleet_file_is_named_and_the_others_are_looked_at(desk: Desk) -> None:
    (desk.specs / "wrong.yaml").write_text("kind: synthetic\ntitle: W\ntenantz: 2\n")
    found = asked(desk, status=1)
    assert "1 of 2 fleet files" in found["fleets"]["fleet files"]["finding"]
    assert "'tenantz': unknown" in found["fleets"]["wrong.yaml"]["finding"]
    assert found["fleets"]["wrong.yaml"]["status"] == "problem"
    assert found["fleet small"]["telemetry"]["status"] == "ok"
    assert asked(desk, "small")["fleets"]["wrong.yaml"]["status"] == "warning"
    assert asked(desk, "wrong", status=1)["fleets"]["wrong.yaml"]["status"] == "problem"


def test_a_path_with_an_unknown_variable_is_named_and_the_others_are_looked_at(desk: Desk) -> None:
    (desk.specs / "shop.yaml").write_text(
        "kind: table\ntitle: Shop\npath: $NO_SUCH_VARIABLE/shop.csv\nsource: none\n"
    )
    found = asked(desk)
    assert "NO_SUCH_VARIABLE" in found["fleet shop"]["telemetry"]["finding"]
    assert found["fleet small"]["telemetry"]["status"] == "ok"


def test_telemetry_that_is_missing_is_a_problem_of_a_fleet_that_somebody_named(desk: Desk) -> None:
    spec = "kind: table\ntitle: Shop\npath: ${TSFM_FLEETS_DIR}/shop.csv\nsource: none\n"
    (desk.specs / "shop.yaml").write_text(spec)
    telemetry = asked(desk)["fleet shop"]["telemetry"]
    assert telemetry["status"] == "warning"
    assert "no table at" in telemetry["finding"]
    found = asked(desk, "shop", status=1)
    assert found["fleet shop"]["telemetry"]["status"] == "problem"
    assert "fleet small" not in found


def test_an_unknown_fleet_or_setting_cannot_be_answered(desk: Desk) -> None:
    done = desk.run("doctor", "nobody")
    assert done.exit_code == 2
    assert "no fleet 'nobody'" in done.output
    assert "there are: small" in done.output
    wrong = Desk(desk.root, {**desk.options, "DEVICE": "abacus"})
    assert wrong.run("doctor").exit_code == 2


def test_a_folder_that_cannot_be_written_is_a_problem(desk: Desk) -> None:
    (desk.data / "lake").write_text("a file in the folder's place")
    (desk.data / "records").write_text("another")
    found = asked(desk, status=1)["folders"]
    assert found["lake folder"]["status"] == "problem"
    assert "TSFM_DATA_DIR" in found["lake folder"]["remedy"]
    assert found["records folder"]["status"] == "problem"
    assert found["data folder"]["status"] == found["reports folder"]["status"] == "ok"


def test_a_file_is_really_made_where_a_folder_is_tried(tmp_path: Path) -> None:
    assert refusal(tmp_path / "not" / "there") is None
    assert list(tmp_path.iterdir()) == []
    reason = refusal(Path("/proc"))  # nobody makes a file there, not even root
    assert reason is not None
    assert reason.startswith("/proc: not writable: ")


def test_a_dagster_home_that_dagster_would_refuse_is_a_problem(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for home in ("relative", str(tmp_path / "missing")):
        monkeypatch.setenv("DAGSTER_HOME", home)
        assert asked(desk, status=1)["folders"]["DAGSTER_HOME"]["status"] == "problem"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    home = asked(desk)["folders"]["DAGSTER_HOME"]
    assert "without dagster.yaml" in home["finding"]
    (tmp_path / "dagster.yaml").touch()
    assert asked(desk)["folders"]["DAGSTER_HOME"]["status"] == "ok"


def test_a_checkpoint_that_is_not_there_is_a_problem_of_the_model_and_of_the_tables(
    desk: Desk,
) -> None:
    wrong = Desk(desk.root, {**desk.options, "CHECKPOINT": str(desk.root / "nowhere")})
    found = asked(wrong, status=1)
    assert found["model"]["checkpoint"]["status"] == "problem"
    assert found["fleet small"]["tables"]["finding"].startswith("cannot be judged: ")


def test_the_worst_finding_decides() -> None:
    def of(*statuses: str) -> list[Section]:
        return [Section("a", "a", [Finding("x", "y", status) for status in statuses])]  # type: ignore[arg-type]

    assert worst([]) == "ok"
    assert worst(of("ok", "warning", "ok")) == "warning"
    assert worst(of("problem", "warning")) == "problem"


def test_the_policy_in_force_is_named_with_its_time_and_what_outweighs_it(desk: Desk) -> None:
    assert asked(desk)["policy"]["policy"]["finding"].startswith("none: the defaults")
    file = desk.data / "policies" / "search.yaml"
    file.parent.mkdir()
    file.write_text(
        "search: {neighbours: 9, top_ms: [2, 3, 4]}\n"
        "provenance: {time: 2026-11-28T22:00:00Z, experiments: 120}\n"
    )
    found = asked(desk)["policy"]
    assert f"of {file}, since 2026-11-28T22:00:00+00:00" in found["policy"]["finding"]
    assert found["changes"]["finding"] == "neighbours"
    assert '"experiments": 120' in found["provenance"]["finding"]
    assert "outweighed" not in found
    variables = {**desk.options, "SEARCH__NEIGHBOURS": "3"}
    found = asked(Desk(desk.root, variables))["policy"]
    assert found["outweighed"]["status"] == "warning"
    assert found["outweighed"]["finding"].startswith("neighbours: a TSFM_* variable")


def test_a_policy_file_that_cannot_be_used_is_named(desk: Desk) -> None:
    file = desk.data / "policies" / "search.yaml"
    file.parent.mkdir()
    file.write_text("search: {neighbors: 9}\n")
    done = desk.run("doctor")
    assert done.exit_code != 0
    for words in (str(file), "search.neighbors", "allowed: candidates"):
        assert words in " ".join(done.output.split())
