"""Whether another process runs the same release: the code of this package, and the libraries that
tables are computed and written with.

What belongs here: what identifies a release, and the refusal of another one. What does not: the
fingerprint of a table, which holds only a version of its code (`registry`), and what the last
digits depend on besides (`shards.numerics`).
"""

import hashlib
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from tsfm_pipeline import __version__
from tsfm_pipeline.files import LakeError

Release = Mapping[str, str]
"""The version of each package by name; of this one also the start of its code's digest."""

LIBRARIES = (
    *("faiss-cpu", "llvmlite", "numba", "numpy", "polars", "pyarrow", "scikit-learn"),
    *("scipy", "statsmodels", "torch"),
)
"""Libraries whose other versions may give other values, or other bytes of a part."""


@cache
def release() -> dict[str, str]:
    """Return what this process runs. The package's files are read once per process."""
    package = Path(str(files("tsfm_pipeline")))
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode())
        code.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "tsfm_pipeline": f"{__version__} (code {code.hexdigest()[:12]})",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def refuse_another(wanted: Release) -> None:
    """Raise `LakeError` unless this process runs the wanted release; the message names the host and
    each difference.
    """
    own = release()
    differences = [
        f"{name} {own.get(name, 'missing')} instead of {wanted.get(name, 'none')}"
        for name in sorted(own.keys() | wanted.keys())
        if own.get(name) != wanted.get(name)
    ]
    if differences:
        raise LakeError(
            f"worker {socket.gethostname()} runs another release than the run: "
            f"{'; '.join(differences)}; give every worker the image of the run"
        )
