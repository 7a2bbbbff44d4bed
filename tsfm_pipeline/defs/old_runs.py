"""The command that finds, and deletes, the runs that Dagster has kept for long.

What belongs here: which runs those are, with the bytes that they take up in DAGSTER_HOME and where
their logs are kept. What does not: other garbage (`catalogue.garbage`), and showing it (`cli.gc`,
which starts this command, because commands import no Dagster).
"""

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager


def old_runs(instance: dg.DagsterInstance, days: float) -> list[str]:
    """Return the ids of the runs that ended and were made more than this many days ago."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    before = datetime.now(UTC) - timedelta(days=days)
    found = instance.get_run_records(dg.RunsFilter(statuses=ended, created_before=before))
    return [record.dagster_run.run_id for record in found]


def files_of(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """Return a run's files that this machine reaches: what its steps printed, in the folder that
    `compute_logs` of dagster.yaml names, and its files in DAGSTER_HOME, with its events if they lie
    in SQLite.
    """
    home = Path(instance.root_directory)
    folders = {home / "storage" / run_id}
    logs = instance.compute_log_manager
    local = logs.local_manager if isinstance(logs, CloudStorageComputeLogManager) else logs
    if isinstance(local, LocalComputeLogManager):
        folders.add(Path(local.get_captured_local_path([run_id, "step"], "out")).parent)
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return sorted({*found, *(home / "history" / "runs").glob(f"{run_id}.db*")})


def object_sizes(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    """Return the bytes of each object in S3 with what a run's steps printed. Those in another
    object store are not counted.
    """
    logs: Any = instance.compute_log_manager  # its package is an extra
    if type(logs).__name__ != "S3ComputeLogManager":
        return []
    bucket, prefix = (logs.inst_data.config_dict[name] for name in ("bucket", "prefix"))
    prefix = "/".join([*filter(None, prefix.split("/")), "storage", run_id, ""])
    pages = logs._s3_session.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [one["Size"] for page in pages for one in page.get("Contents", [])]


def delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run, its events, what its steps printed, and its files. The run goes last, so that
    it is found again if the logs cannot be deleted.
    """
    instance.compute_log_manager.delete_logs(prefix=[run_id])
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
        sizes = [
            size
            for run_id in runs
            for size in (
                *(path.stat().st_size for path in files_of(instance, run_id)),
                *object_sizes(instance, run_id),
            )
        ]
        if arguments.delete:
            for run_id in runs:
                delete(instance, run_id)
    print(json.dumps({"n_runs": len(runs), "n_files": len(sizes), "n_bytes": sum(sizes)}))


if __name__ == "__main__":
    main()
