"""Test the notebooks of the documentation: each is run from top to bottom, and holds no output.

What belongs here: running them as a reader would. What does not: what the service answers
(`serving`).
"""

import json
import os
import re
from pathlib import Path

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
SERVICE, DIRECTION = (DOCS / "notebooks" / f"{name}.ipynb" for name in ("service", "direction"))
PATIENCE_S = 300


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), cell["source"]
        assert cell.get("execution_count") is None, cell["source"]


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[dict]]:
    """Run a notebook as a reader would; return what it printed, and all of its outputs."""
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    for name in ("TSFM_DATA_DIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "\n".join(
        str(output.get("text") or output["data"].get("text/plain", "")) for output in outputs
    )
    return printed, outputs


@pytest.mark.heavy
def test_the_notebook_of_the_service_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TSFM_SERVING")]:
        monkeypatch.delenv(name)
    printed, outputs = run(SERVICE, tmp_path, monkeypatch)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "'runtime': 'local'" in printed
    assert "'runtime': 'baseline'" in printed
    assert "'fallback_reason': 'tollama_error:" in printed
    assert "'where': 'y[2]'" in printed or "'where': 'y'" in printed
    assert re.search(r"50 forecasts and 1 refusal in \d", printed)
    assert not [output for output in outputs if output.get("name") == "stderr"], printed


@pytest.mark.slow
def test_the_notebook_of_markets_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, outputs = run(DIRECTION, tmp_path, monkeypatch)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert "RED: inversion of mean" in printed
    assert "RED: reachability of mean" in printed
    assert "green: reachability of q90" in printed
    assert "undecided: too few days" in printed
