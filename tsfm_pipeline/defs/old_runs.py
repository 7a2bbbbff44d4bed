"""The command that finds, and deletes, the runs that Dagster has kept for long.

What belongs here: which runs those are, with the bytes that they take up in DAGSTER_HOME. What does
not: other garbage (`catalogue.garbage`), and showing it (`cli.gc`, which starts this command,
because commands import no Dagster).
"""

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg


def old_runs(instance: dg.DagsterInstance, days: float) -> list[str]:
    """Return the ids of the runs that ended and were made more than this many days ago."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    before = datetime.now(UTC) - timedelta(days=days)
    found = instance.get_run_records(dg.RunsFilter(statuses=ended, created_before=before))
    return [record.dagster_run.run_id for record in found]


def files_of(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """Return a run's files in DAGSTER_HOME: logs of its steps, and its events if they lie in
    SQLite.
    """
    home = Path(instance.root_directory)
    logs = [path for path in (home / "storage" / run_id).rglob("*") if path.is_file()]
    return [*logs, *(home / "history" / "runs").glob(f"{run_id}.db*")]


def delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run, its events and its files."""
    instance.delete_run(run_id)
    for path in files_of(instance, run_id):
        path.unlink(missing_ok=True)


def main() -> None:
    """Print how many runs and files are old, and their bytes, as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--days", type=float, required=True)
    parser.add_argument("--delete", action="store_true")
    arguments = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        runs = old_runs(instance, arguments.days)
        files = [path for run_id in runs for path in files_of(instance, run_id)]
        n_bytes = sum(path.stat().st_size for path in files)
        if arguments.delete:
            for run_id in runs:
                delete(instance, run_id)
    print(json.dumps({"n_runs": len(runs), "n_files": len(files), "n_bytes": n_bytes}))


if __name__ == "__main__":
    main()
