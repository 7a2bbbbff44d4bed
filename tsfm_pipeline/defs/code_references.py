"""Links from assets to the code that makes them; the UI shows these links.

What belongs here: finding those lines. What does not: which function makes which table
(`steps.makers`).
"""

import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg


def reference_to(function: str) -> dict[str, Any]:
    """Return metadata that links to a function. It is given as `module:function`, and its module is
    not imported.

    Raises ValueError if there is no such module or function.
    """
    module, _, name = function.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{function!r}: there is no module {module}")
    lines = Path(spec.origin).read_text(encoding="utf-8").splitlines()
    pattern = re.compile(rf"def {re.escape(name)}\(")
    number = next((n for n, line in enumerate(lines, 1) if pattern.match(line)), None)
    if number is None:
        raise ValueError(f"{function!r}: {spec.origin} defines no function {name}")
    with _without_beta_warnings():
        reference = dg.LocalFileCodeReference(file_path=spec.origin, line_number=number)
        return {
            "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])
        }


def with_references_to_bodies(assets: Sequence[dg.AssetsDefinition]) -> list[Any]:
    """Return assets with links to their own bodies."""
    with _without_beta_warnings():
        return list(dg.with_source_code_references(assets))


@contextmanager
def _without_beta_warnings() -> Iterator[None]:
    """Suppress Dagster's warnings about beta features: its release is pinned, so they cannot change
    unexpectedly.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
