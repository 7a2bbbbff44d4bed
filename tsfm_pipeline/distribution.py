"""What the distribution contains besides code: its commit, and the tracked files.

What belongs here: finding them in a checkout and in an installed wheel. What does not: their
content, and the location of a user's own files (`settings`).

A wheel contains the tracked files in `tsfm_pipeline/packaged/`, under their paths in the repository
(`hatch_build.py` puts them there). A checkout, also when installed as editable, has no such folder;
its files are read where they are tracked.
"""

import subprocess
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("tsfm_pipeline")))
_PACKAGED = _PACKAGE / "packaged"

CHECKOUT: Path | None = None if _PACKAGED.is_dir() else _PACKAGE.parent
"""The root of the checkout from which this code runs; None in an installed wheel."""

UNKNOWN = "unknown"
"""What `hatch_build.py` writes if it cannot find out the commit."""


def packaged(path: str) -> Path:
    """Return the path of a tracked file or folder, such as `data/fleets` or `dagster.yaml`."""
    return (CHECKOUT or _PACKAGED) / path


def commit() -> str | None:
    """Return the commit of this code, followed by `+` if tracked files differ from it.

    A wheel stores the commit of its build. Returns None if the commit is unknown: in a checkout
    without git, and in a wheel that was built from one.
    """
    if CHECKOUT is None:
        built_from = (_PACKAGED / "COMMIT").read_text(encoding="utf-8").strip()
        return None if built_from == UNKNOWN else built_from
    if not (CHECKOUT / ".git").exists():  # git would use an enclosing repository
        return None
    try:
        changed = _git(CHECKOUT, "status", "--porcelain", "--untracked-files=no")
        return _git(CHECKOUT, "rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
