"""Hatchling's build hook: the files beside the code that a wheel and an sdist carry.

What belongs here: the tracked data and the commit, which only git knows. What does not: anything
that pyproject.toml can say. `tsfm_pipeline.distribution` finds the files again.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMIT_FILE = "COMMIT"
"""Lies in the root of an sdist, which has no git to ask, and in the data of a wheel."""
UNKNOWN = "unknown"


class PackagedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the tracked files below the paths that pyproject.toml names, and the commit."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to a wheel or an sdist; an editable install reads the checkout itself."""
        if version == "editable":
            return
        root = Path(self.root)
        folder = "tsfm_pipeline/packaged/" if self.target_name == "wheel" else ""
        self._made = tempfile.TemporaryDirectory()
        stamp = Path(self._made.name) / COMMIT_FILE
        stamp.write_text(f"{_commit(root)}\n", encoding="utf-8")
        for path in _tracked(root, self.config["tracked"]):
            build_data["force_include"][str(root / path)] = folder + path
        build_data["force_include"][str(stamp)] = folder + COMMIT_FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file once it has been packed."""
        if version != "editable":
            self._made.cleanup()


def _commit(root: Path) -> str:
    """The commit, with `+` where tracked files differ from it; in an sdist what it was made
    from.
    """
    if (stamp := root / COMMIT_FILE).is_file():
        return stamp.read_text(encoding="utf-8").strip()
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return UNKNOWN
    return head.strip() + (
        "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    )


def _tracked(root: Path, paths: list[str]) -> list[str]:
    """The tracked files below these paths. A fleet of the user's own is never packed.

    Without git (an sdist, an archive of the repository) every file there counts as tracked.
    """
    listed = _git(root, "ls-files", "-z", "--", *paths)
    if listed is not None:
        return sorted(filter(None, listed.split("\0")))
    below = [file for path in paths for file in (root / path, *(root / path).rglob("*"))]
    return sorted(file.relative_to(root).as_posix() for file in below if file.is_file())


def _git(root: Path, *arguments: str) -> str | None:
    """Git's answer about this folder; None where it is no checkout of its own, or git is absent."""
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
