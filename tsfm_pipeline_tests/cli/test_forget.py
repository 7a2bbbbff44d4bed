"""Test `fleet forget` and `make clean`: only `fleet forget` deletes what cannot be made again, and
it asks first.
"""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue.records import HISTORY, LEDGER, RecordTable
from tsfm_pipeline.lake import Lake
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.conftest import FAST


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Records of two fleets, and a table and a report of the first."""
    desk = Desk(tmp_path / "desk", FAST)
    for profile, fleet in (("full", "shop"), ("cheap", "shop"), ("full", "other")):
        for i in range(3):
            RecordTable(desk.data / "records" / profile / fleet / LEDGER).append(
                pl.DataFrame({"row": [i]})
            )
        RecordTable(desk.data / "records" / profile / fleet / HISTORY).append(
            pl.DataFrame({"row": range(1000)}), "000001-x-y"
        )
    for path in (
        desk.data / "lake" / "shop" / "numbers" / "part.parquet",
        desk.data / "reports" / "shop" / "report.html",
    ):
        path.parent.mkdir(parents=True)
        path.write_text("stays")
    return desk


def records(desk: Desk) -> set[str]:
    root = desk.data / "records"
    return {str(path.relative_to(root).parent) for path in root.rglob("*.parquet")}


EVERYTHING = {
    f"{place}/{table}"
    for place in ("full/shop", "cheap/shop", "full/other")
    for table in (LEDGER, HISTORY)
}


def test_without_anybody_to_ask_nothing_is_deleted(desk: Desk) -> None:
    done = desk.run("fleet", "forget", "shop")
    assert done.exit_code == 2
    assert "nothing was deleted; run `tsfm-pipeline fleet forget shop --yes`" in done.output
    assert records(desk) == EVERYTHING


def test_it_says_what_it_deletes_and_leaves_everything_else(desk: Desk) -> None:
    done = desk.run("fleet", "forget", "shop", "--yes")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert f"full/shop/{LEDGER} 3 3 0." in shown
    assert f"cheap/shop/{HISTORY} 1 1,000 0." in shown
    assert records(desk) == {f"full/other/{table}" for table in (LEDGER, HISTORY)}
    assert (desk.data / "lake" / "shop" / "numbers" / "part.parquet").read_text() == "stays"
    assert (desk.data / "reports" / "shop" / "report.html").read_text() == "stays"
    again = desk.run("fleet", "forget", "shop", "--yes")
    assert again.exit_code == 0
    assert "fleet shop has no records" in again.output


@pytest.mark.parametrize(
    ("answer", "left"),
    [("n", EVERYTHING), ("y", {f"full/other/{table}" for table in (LEDGER, HISTORY)})],
)
def test_at_a_terminal_it_asks(desk: Desk, answer: str, left: set[str]) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [sys.executable, "-m", "tsfm_pipeline.cli", "fleet", "forget", "shop"]
    environment = {**os.environ, **desk.variables, "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        command,
        env=environment,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert "Delete all of them?" in done.stdout
    assert (done.returncode == 0) == (answer == "y"), done.stderr
    assert records(desk) == left


def test_what_an_earlier_release_left_is_forgotten_too(desk: Desk) -> None:
    old = desk.data / "reports" / "shop" / "experiment_ledger.parquet"
    pl.DataFrame({"row": [0]}).write_parquet(old)
    done = desk.run("fleet", "forget", "shop", "--yes")
    assert f"{old} were moved to {desk.data}/records/full/shop" in done.output
    assert not old.exists()
    assert records(desk) == {f"full/other/{table}" for table in (LEDGER, HISTORY)}


def test_a_file_that_cannot_be_read_is_counted_and_deleted(desk: Desk) -> None:
    RecordTable(desk.data / "records" / "full" / "shop" / LEDGER).paths()[0].write_bytes(b"noise")
    done = desk.run("fleet", "forget", "shop", "--yes")
    assert f"{LEDGER} 3 2 0.00 MiB 1" in " ".join(done.output.split())
    assert done.exit_code == 0


def test_a_fleet_that_is_being_run_is_not_forgotten(desk: Desk) -> None:
    with Lake(desk.data / "lake").fleet("shop").lock("a run"):
        done = desk.run("fleet", "forget", "shop", "--yes")
    assert done.exit_code == 2
    assert "is being written by process" in done.output
    assert records(desk) == EVERYTHING


def test_a_name_that_is_no_fleets_deletes_nothing(desk: Desk) -> None:
    for name in ("..", "../full", "", "Shop"):
        assert desk.run("fleet", "forget", name, "--yes").exit_code == 2
    assert records(desk) == EVERYTHING


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(PROJECT_ROOT / "Makefile", folder)
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def test_make_clean_keeps_records_also_those_that_were_not_moved_yet(desk: Desk) -> None:
    old = (
        *(
            "reports/shop/experiment_ledger.parquet",
            "reports/shop/recommendation_history/000001-x-y.parquet",
        ),
        *("lake/shop/raw/prometheus-0/2026-01-31.parquet", "lake/.pretraining/run/state.pt"),
        "cheap/reports/shop/experiment_ledger.parquet",
    )
    for name in (
        *old,
        "cheap/lake/shop/numbers/_table.json",
        "lake/shop/.lock",
        "lake/.pretraining/candidate/model.safetensors",
    ):
        path = desk.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert make(desk.root, "clean").returncode == 0
    assert records(desk) == EVERYTHING
    left = {
        str(path.relative_to(desk.data))
        for path in desk.data.rglob("*")
        if path.is_file() and "records" not in path.parts
    }
    assert left == set(old)
    for name in old:
        (desk.data / name).unlink()
    assert make(desk.root, "clean").returncode == 0
    assert [path.name for path in desk.data.iterdir()] == ["records"]


def test_make_forget_wants_to_be_told_which_fleet() -> None:
    dry = subprocess.run(
        ["make", "-n", "forget", "FLEET=smd"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tsfm-pipeline fleet forget smd" in dry.stdout
    nobody = subprocess.run(
        ["make", "-o", ".venv/.installed-serving", "forget"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert nobody.returncode == 2
    assert "name the fleet: make forget FLEET=" in nobody.stderr
