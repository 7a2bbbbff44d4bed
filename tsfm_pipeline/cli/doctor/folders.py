"""Findings about folders: write access, free space, clock and hard links.

What belongs here: what concerns the data of all fleets. What does not: one fleet's tables
(`fleets`).
"""

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from tsfm_pipeline.cli.doctor.findings import Finding, Section
from tsfm_pipeline.settings import Settings

SKEW_S = 2.0
"""Tolerated difference between two clocks, in seconds."""
MIB = 2**20


def folder_section(settings: Settings) -> Section:
    """Return findings about write access to the folders, the disk, the clock and hard links."""
    folders = {
        "data": settings.data_dir,
        "lake": settings.lake_dir,
        "reports": settings.reports_dir,
        "records": settings.records_dir,
    }
    findings = [_folder(name, path) for name, path in folders.items()]
    if settings.lake_url:
        findings.append(object_store(settings.lake_url, settings.lake_dir))
    findings.append(_dagster_home(settings))
    findings.append(_disk(settings.data_dir))
    if refusal(settings.records_dir) is None:
        findings += [_hard_links(settings.records_dir), _clock(settings.records_dir)]
    return Section("folders", "folders", findings)


def nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(nearest(folder)).free


def refusal(folder: Path) -> str | None:
    """Return why no file can be created in a folder, or None if it can. A folder that does not
    exist is judged by its nearest parent. Creates a file and removes it.
    """
    there = nearest(folder)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{there}: not writable: {error.strerror}"
    return None


def _folder(name: str, folder: Path) -> Finding:
    if reason := refusal(folder):
        remedy = f"let this user write {nearest(folder)}, or set TSFM_DATA_DIR to another folder"
        return Finding(f"{name} folder", reason, "problem", remedy)
    state = "writable" if folder.is_dir() else "not there yet, can be made"
    return Finding(f"{name} folder", f"{folder}: {state}")


def object_store(url: str, lake_dir: Path) -> Finding:
    """Say whether objects can be written at a URL, and whether a put that depends on what is there
    is refused: without that, two runs could overwrite each other. Writes an object and deletes it.
    """
    from tsfm_pipeline.files import StorageError
    from tsfm_pipeline.object_store import ObjectStore
    from tsfm_pipeline.store import ABSENT, SwapError

    store, key, refused = ObjectStore(url, ".doctor", lake_dir), secrets.token_hex(8), 0
    try:
        first = store.swap(key, b"1", ABSENT)
        store.swap(key, b"2", first)
        for tag in (ABSENT, first):
            try:
                store.swap(key, b"3", tag)
            except SwapError:
                refused += 1
        store.remove([key])
    except StorageError as error:
        return Finding("object store", str(error), "problem", "see docs/scaling.md")
    if refused < 2:
        said = (
            f"{url}: ignores the conditions of a put, so that two runs could overwrite each other"
        )
        return Finding("object store", said, "problem", "use a store that honours If-Match")
    return Finding("object store", f"{url}: writable, and honours the conditions of a put")


def _dagster_home(settings: Settings) -> Finding:
    from tsfm_pipeline.distribution import packaged

    named = os.environ.get("DAGSTER_HOME")
    home = Path(named) if named else settings.dagster_home
    if named and not (home.is_absolute() and home.is_dir()):
        said = f"{home}: no absolute path of a folder that is there"
        return Finding("DAGSTER_HOME", said, "problem", "make the folder, or unset DAGSTER_HOME")
    if reason := refusal(home):
        remedy = "let this user write it, or set DAGSTER_HOME to another folder"
        return Finding("DAGSTER_HOME", reason, "problem", remedy)
    if named and not (home / "dagster.yaml").is_file():
        said = f"{home}: writable, without dagster.yaml: Dagster's own defaults apply"
        return Finding("DAGSTER_HOME", said, "warning", f"copy {packaged('dagster.yaml')} into it")
    state = "writable" if home.is_dir() else "not there yet, can be made"
    return Finding("DAGSTER_HOME", f"{home}: {state}")


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(nearest(folder))
    said = f"{usage.free / MIB:,.0f} MiB free of {usage.total / MIB:,.0f} MiB at {nearest(folder)}"
    return Finding("disk", f"{said}; what each fleet needs is said with the fleet")


def _hard_links(folder: Path) -> Finding:
    from tsfm_pipeline.files import StorageError, put_if_absent

    probe = nearest(folder) / f".doctor-{os.getpid()}"
    try:
        put_if_absent(probe, Path.touch)
    except (StorageError, OSError) as error:
        remedy = "keep the data folder on a file system with hard links"
        return Finding("hard links", str(error), "problem", remedy)
    finally:
        probe.unlink(missing_ok=True)
    return Finding("hard links", "supported where records lie")


def _clock(folder: Path) -> Finding:
    with tempfile.TemporaryFile(dir=nearest(folder)) as file:
        file.write(b"x")
        file.flush()
        skew = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(skew) > SKEW_S:
        said = f"the file system's clock is {skew:+.1f} s off this process's"
        return Finding("clock", said, "warning", "set both by one time service (NTP)")
    return Finding("clock", f"the file system's differs from this process's by {abs(skew):.1f} s")
