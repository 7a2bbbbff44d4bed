"""The environment in which tables are made: what else decides their bytes besides their inputs.

What belongs here: versions of packages, number of threads, and what several tables say together.
What does not: what their fingerprints cover (`scope`), and records of runs (`run_records`).
"""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "jinja2",
    "numba",
    "numpy",
    "peft",
    "polars",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages that compute or write what a run is compared by."""
THREADS, ABSENT, UNKNOWN = "threads", "not installed", "unknown"
_JOINED = " and "


def environment() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`, and torch's number of threads."""
    import torch

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        THREADS: str(torch.get_num_threads()),
    }


def together(environments: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the environment of several tables. Where two of them differ, an entry names both
    values; a table that does not say (of an earlier release) counts as unknown.
    """
    found = list(environments)
    names = dict.fromkeys(name for each in found for name in each)
    return {
        name: _JOINED.join(sorted({each.get(name, UNKNOWN) for each in found})) for name in names
    }


def packages(of: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the number of threads."""
    return {name: value for name, value in of.items() if name != THREADS}


def threads(of: Mapping[str, str]) -> int | None:
    """Return the number of threads of an environment; None if it is unknown or not one number."""
    value = of.get(THREADS, UNKNOWN)
    return int(value) if value.isdecimal() else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT
