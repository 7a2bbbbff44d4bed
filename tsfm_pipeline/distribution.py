"""What came with the program: its commit, and the tracked files that are not code.

What belongs here: finding them, in a checkout and in an installed wheel. What does not: what is in
them, and where a user's own files lie (`settings`).

A wheel carries the tracked files in `tsfm_pipeline/packaged/`, under their paths in the repository
(`hatch_build.py` puts them there). A checkout, and an editable install of one, has no such folder
and reads them where they are tracked.
"""

import subprocess
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("tsfm_pipeline")))
_PACKAGED = _PACKAGE / "packaged"

CHECKOUT: Path | None = None if _PACKAGED.is_dir() else _PACKAGE.parent
"""The root of the checkout that this code runs from; None in an installed wheel."""

UNKNOWN = "unknown"
"""What `hatch_build.py` writes where it cannot tell the commit."""


def packaged(path: str) -> Path:
    """Return where a tracked file or folder lies, such as `data/fleets` or `dagster.yaml`."""
    return (CHECKOUT or _PACKAGED) / path


def commit() -> str | None:
    """Return the commit of this code, with `+` where tracked files differ from it.

    A wheel has it from its build. None where nobody can tell: in a checkout without git, and in a
    wheel that was built from one.
    """
    if CHECKOUT is None:
        built_from = (_PACKAGED / "COMMIT").read_text(encoding="utf-8").strip()
        return None if built_from == UNKNOWN else built_from
    if not (CHECKOUT / ".git").exists():  # git would answer for a repository around it
        return None
    try:
        changed = _git(CHECKOUT, "status", "--porcelain", "--untracked-files=no")
        return _git(CHECKOUT, "rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
