"""Facts about the code location of any study.

What belongs here: what loading it costs, and whether the workspace lists it. What does not: tests.
"""

import os
import subprocess
import sys

import yaml

from tsfm_pipeline.settings import PROJECT_ROOT

HEAVY = ("torch", "numba", "faiss", "sklearn", "arch", "optuna", "matplotlib", "statsmodels")


def require_listed_and_light(module: str) -> None:
    """Fail unless workspace.yaml lists a location, and loading it imports nothing heavy and warns
    of nothing.
    """
    listed = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    assert module in [entry["python_module"]["module_name"] for entry in listed]
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert loaded.stdout.strip() == "[]"
    assert "Warning" not in loaded.stderr
