"""Test by schemathesis that the service keeps its OpenAPI document, whatever is sent: every answer
has a documented status and body, what the schema forbids is refused, and nothing is a 500.

`schemathesis.toml` beside this file says which statuses are allowed, and why.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsfm_pipeline_tests.serving.bundles import small_bundle
from tsfm_pipeline_tests.serving.live import TOKEN, Live, live

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The bundled model with a small search."""
    bundle = tmp_path_factory.mktemp("search") / "search.bundle"
    small_bundle().write(bundle)
    with live(bundle=bundle, rate_limit={"enabled": False}) as running:
        yield running


def fuzz(running: Live, folder: Path, examples: int) -> None:
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(CONFIG), "run", f"{running.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--no-color"),
            *("--max-examples", str(examples), "--seed", "1"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "test cases:" in run.stdout.lower()


@pytest.mark.heavy
def test_the_service_keeps_its_schema(served: Live, tmp_path: Path) -> None:
    fuzz(served, tmp_path, 15)


@pytest.mark.slow
def test_the_service_keeps_its_schema_under_many_requests(served: Live, tmp_path: Path) -> None:
    fuzz(served, tmp_path, 300)
