"""Run the pipeline in a project folder of the test's own: specs, data, DAGSTER_HOME, and the
commands that a user would type.

What belongs here: running Dagster, in a subprocess or in the test's own process, and looking at
what it left. What does not: what any test expects of it.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.events import StepFailureData

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.cli.materialise import materialise_command
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.settings import PROJECT_ROOT, Settings

CHECKPOINT = os.environ.get("TSFM_CHECKPOINT", "bundled")
"""The model of the integration tests; any registered name or checkpoint folder will do."""
TIMEOUT_S = 900
"""No command may hang: this is many times what the slowest takes."""
may_materialise = True
"""Whether the current test is marked `run`; `conftest` sets it before every test."""


def require_mark() -> None:
    """Fail unless the current test is marked as one that needs a materialised run.

    Without the mark, `make check` would run the test, which must not take that long.
    """
    assert may_materialise, "this test materialises a fleet: mark it with pytest.mark.run"


@dataclass(frozen=True)
class Project:
    """Folders below `root`, and `options`: settings as `TSFM_*` variables without the prefix."""

    root: Path
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def specs_dir(self) -> Path:
        return self.root / "specs"

    @property
    def fleets_dir(self) -> Path:
        return self.root / "tables"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def environment(self) -> dict[str, str]:
        """What a subprocess sees: nothing of the caller's settings, one thread (two steps and two
        test workers share the cores).
        """
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("TSFM_", "DAGSTER_"))
        }
        folders = {
            "SPECS_DIR": self.specs_dir,
            "FLEETS_DIR": self.fleets_dir,
            "DATA_DIR": self.data_dir,
        }
        settings = {
            "CHECKPOINT": CHECKPOINT,
            **{key: str(path) for key, path in folders.items()},
            **self.options,
        }
        return {
            **inherited,
            **{f"TSFM_{key}": value for key, value in settings.items()},
            "DAGSTER_HOME": str(self.root / "dagster_home"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(PROJECT_ROOT),
        }

    @property
    def settings(self) -> Settings:
        """The settings that the subprocess has."""
        with environment(self.environment):
            return Settings()

    def add_fleet(self, name: str, **fields: Any) -> None:
        """Write `<specs>/<name>.yaml`, and prepare the folders that a first run needs."""
        for folder in (self.specs_dir, self.fleets_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self._prepare_dagster_home()
        (self.specs_dir / f"{name}.yaml").write_text(
            yaml.safe_dump({"title": f"Fleet {name}", **fields})
        )

    def _prepare_dagster_home(self) -> None:
        home = self.root / "dagster_home"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / "dagster.yaml", home)

    def copy_to(self, root: Path) -> "Project":
        """The same fleets, tables and settings below another root, with a DAGSTER_HOME that knows
        no runs.
        """
        copy = Project(root, self.options)
        for source, target in (
            (self.specs_dir, copy.specs_dir),
            (self.fleets_dir, copy.fleets_dir),
            (self.data_dir, copy.data_dir),
        ):
            shutil.copytree(source, target)
        copy._prepare_dagster_home()
        return copy

    def fleet(self, name: str) -> Fleet:
        return open_workspace_fleet(self.settings, name)

    def command(self, fleet: str, select: Iterable[str] = ("*",)) -> list[str]:
        """`dagster asset materialize` of the selected assets of one fleet."""
        return materialise_command(fleet, select)

    def materialise(
        self, fleet: str, select: Iterable[str] = ("*",)
    ) -> subprocess.CompletedProcess[str]:
        """Run that command to its end; stdout and stderr together in `stdout`."""
        return self.run(self.command(fleet, select))

    def materialise_here(self, fleet: str, select: Iterable[str]) -> tuple[bool, str]:
        """Materialise assets in this process: whether all of them succeeded, and the run's log with
        its errors, in which white space is one blank.

        For what is expected of the assets and not of the command, whose start takes seconds.
        """
        require_mark()
        with environment(self.environment), dg.DagsterInstance.ephemeral() as instance:
            definitions = build_definitions(self.settings)
            result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                partition_key=fleet,
                asset_selection=[dg.AssetKey(name) for name in select],
                raise_on_error=False,
            )
            lines = []
            for entry in instance.all_logs(result.run_id):
                kind = entry.dagster_event.event_type_value if entry.dagster_event else "LOG"
                lines.append(f"{entry.step_key} - {kind} - {entry.user_message}")
                data = entry.dagster_event and entry.dagster_event.event_specific_data
                if isinstance(data, StepFailureData) and data.error:
                    lines.append(data.error.to_string())
        return result.success, " ".join(" ".join(lines).split())

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in this project to its end; stdout and stderr together in `stdout`."""
        require_mark()
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def start(
        self, fleet: str, select: Iterable[str], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start that command as the leader of a process group of its own, its output in
        `<root>/killed.log`.

        `variables` of the environment come on top of the project's.
        """
        require_mark()
        environment = self.environment | variables
        with (self.root / "killed.log").open("ab") as log:
            return subprocess.Popen(
                self.command(fleet, select),
                env=environment,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def table_dir(self, fleet: str, table: str) -> Path:
        return self.data_dir / "lake" / fleet / table

    def parts(self, fleet: str, table: str) -> list[Path]:
        """The finished Parquet parts of a table, also of one that is not finished as a whole."""
        return sorted(self.table_dir(fleet, table).glob("part-*.parquet"))

    def digests(self, fleet: str, tables: Iterable[str] = tuple(TABLES)) -> dict[str, str]:
        """SHA-256 of every Parquet part by `<table>/<part>`."""
        return {
            f"{table}/{part.name}": hashlib.sha256(part.read_bytes()).hexdigest()
            for table in tables
            for part in self.parts(fleet, table)
        }


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The process environment replaced for the duration of a block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
