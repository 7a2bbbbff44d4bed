"""Make distributions as pip would install them, so that tests can check how plugins of other
packages are found.

What belongs here: writing one, and letting this process see it. What does not: what a test expects.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import invalidate_caches
from pathlib import Path

from tsfm_pipeline import plugins


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions, which a process sees when it is on its path."""

    folder: Path

    def install(
        self,
        distribution: str,
        source: str,
        entry_points: Mapping[str, Mapping[str, str]],
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> None:
        """Install a module with the distribution's name and this source, and its entry points.

        entry_points: group -> name -> object within the module, with an extra in brackets, if any.
        """
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        metadata = self.folder / f"{module}-{version}.dist-info"
        metadata.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}"]
        (metadata / "METADATA").write_text(
            "\n".join([*lines, *(f"Requires-Dist: {requirement}" for requirement in requires)])
        )
        declared = [
            f"[{group}]\n"
            + "".join(f"{name} = {module}:{value}\n" for name, value in names.items())
            for group, names in entry_points.items()
        ]
        (metadata / "entry_points.txt").write_text("\n".join(declared))
        look_again()


@contextmanager
def installed_in(folder: Path) -> Iterator[Site]:
    """Let this process see what is installed in a folder, to the end of the block."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    look_again()
    try:
        yield Site(folder)
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        look_again()


def look_again() -> None:
    """Let the process find what is installed now; otherwise it looks once."""
    invalidate_caches()
    plugins.forget()
