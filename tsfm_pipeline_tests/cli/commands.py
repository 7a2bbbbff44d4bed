"""Run `tsfm-pipeline` below a folder of the test's own, in the test's process or in one that
reports its imports.

What belongs here: the runner and the folders. What does not: what any test expects.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from click.testing import Result
from typer.testing import CliRunner

from tsfm_pipeline.cli.app import app
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.cli.conftest import telemetry

PROGRAM = """
import sys
from tsfm_pipeline.cli.app import app
try:
    app(sys.argv[1:])
finally:
    print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def modules_after(*arguments: str, environment: Mapping[str, str] | None = None) -> set[str]:
    """The top-level modules that one command has imported by its end, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split("MODULES", 1)[1].split())


@dataclass(frozen=True)
class Desk:
    """A data folder, a folder of tables, and the command line between them."""

    root: Path
    options: Mapping[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def specs(self) -> Path:
        return self.data / "fleets"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def variables(self) -> dict[str, str]:
        folders = {
            "TSFM_DATA_DIR": str(self.data),
            "TSFM_FLEETS_DIR": str(self.tables),
            "TSFM_DEVICE": "cpu",
        }
        return {**folders, **{f"TSFM_{key}": value for key, value in self.options.items()}}

    def run(self, *arguments: str | Path) -> Result:
        """One command; `output` holds both streams."""
        return CliRunner().invoke(
            app,
            [str(argument) for argument in arguments],
            env={**self.variables, "NO_COLOR": "1", "TERM": "dumb"},
        )

    def table(self, name: str = "shop.csv", frame: pl.DataFrame | None = None) -> Path:
        """Write a table (by default half-hourly rows of four tenants over ten days) and return
        where it is.
        """
        frame = telemetry() if frame is None else frame
        path = self.tables / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
        return path

    def files(self) -> set[Path]:
        return {path for path in self.root.parent.rglob("*") if path.is_file()}
