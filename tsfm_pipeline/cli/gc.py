"""`tsfm-pipeline gc`: free what nothing needs any more.

What belongs here: the command's options and its output. What does not: what is garbage
(`catalogue.garbage`, `defs.old_runs`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsfm_pipeline.cli.screen import Status, alarm, plain_errors, say, show

if TYPE_CHECKING:
    from tsfm_pipeline.settings import Settings

MIB = 2**20
DAYS = 365


def gc(
    reports: Annotated[
        float, typer.Option(min=0, help="days after which a fleet's reports are old")
    ] = DAYS,
    runs: Annotated[
        float, typer.Option(min=0, help="days after which a run that Dagster has kept is old")
    ] = DAYS,
    delete: Annotated[
        bool, typer.Option("--delete", help="delete it (default: only show it)")
    ] = False,
) -> None:
    """Show what nothing needs any more, with its bytes: parts that no record names, temporary
    files, old reports and old runs. Records (data/records) are never touched. Exit status: 1 if
    something could not be deleted.
    """
    with plain_errors():
        from tsfm_pipeline.catalogue.garbage import find_garbage
        from tsfm_pipeline.lock import FleetLockedError
        from tsfm_pipeline.settings import Settings

        profiles = [Settings(profile=profile) for profile in ("full", "cheap")]
        found = [item for settings in profiles for item in find_garbage(settings, reports)]
        old = _old_runs(profiles[0], runs)
        start = f"{profiles[0].data_dir}/"
        rows: list[tuple[str, str, int, str, str]] = [
            (
                item.kind,
                item.where.removeprefix(start),
                item.n_files,
                _size(item.n_bytes),
                item.why_not,
            )
            for item in found
        ]
        if old["n_runs"]:
            kind = f"{old['n_runs']} runs of Dagster"
            rows.append((kind, old["home"], old["n_files"], _size(old["n_bytes"]), ""))
        if not rows:
            say("there is nothing to free")
            return
        show(
            f"garbage (paths in {profiles[0].data_dir})",
            ("what", "where", "files", "size", "kept because"),
            rows,
        )
        deletable = [item for item in found if not item.why_not]
        n_bytes = sum(item.n_bytes for item in deletable) + old["n_bytes"]
        if not delete:
            say(f"{_size(n_bytes)} can be freed; nothing was deleted: --delete deletes it")
            return
        freed, refused = 0, len(found) - len(deletable)
        for item in deletable:
            try:
                freed += item.delete()
            except FleetLockedError as error:
                alarm(str(error))
                refused += 1
        if old["n_runs"]:
            freed += _old_runs(profiles[0], runs, "--delete")["n_bytes"]
        say(f"{_size(freed)} were freed", "green")
    if refused:
        raise typer.Exit(Status.PROBLEMS)


def _old_runs(settings: "Settings", days: float, *options: str) -> dict[str, Any]:
    """Find, or delete, Dagster's old runs in a process of their own."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.dagster_home)
    if not home.is_dir():
        return {"n_runs": 0, "n_files": 0, "n_bytes": 0, "home": str(home)}
    command = [sys.executable, "-m", "tsfm_pipeline.defs.old_runs", "--days", str(days), *options]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"Dagster's runs in {home} cannot be listed: {done.stderr.strip().splitlines()[-1]}"
        )
    return {**json.loads(done.stdout.splitlines()[-1]), "home": str(home)}


def _size(n_bytes: int) -> str:
    return f"{n_bytes / MIB:,.2f} MiB"
