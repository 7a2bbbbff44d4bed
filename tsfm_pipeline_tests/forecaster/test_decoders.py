"""Test that torch's operators replace the compiled loops where those are unavailable, and that the
log says so once.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.compiled_decoder import CompiledDecoder
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.settings import PROJECT_ROOT

ORIGIN, CONTEXT_LEN, HORIZON = 2100, 512, 60
FORECAST_TWICE = f"""
import logging, sys
import numpy as np
logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
from tsfm_pipeline.forecaster import ForecastConfig, load_forecaster
checkpoint, telemetry, out = sys.argv[1:]
for _ in range(2):
    model = load_forecaster(checkpoint, device="cpu")
    grid = model.forecast_grid(np.load(telemetry), [{ORIGIN}], [ForecastConfig(context_len={CONTEXT_LEN})], {HORIZON})
np.save(out, grid)
print(type(model.decoder).__name__)
"""
BLOCKED = "import sys\nsys.modules['numba'] = None\n"
LIBRARY = """
import sys
from tsfm_pipeline.forecaster import load_forecaster
load_forecaster(sys.argv[1], device="cpu")
"""
STEP = """
import sys
from tsfm_pipeline.defs.resources import ForecasterResource
ForecasterResource(checkpoint=sys.argv[1], device="cpu").load()
"""
COMMAND = """
from typer.testing import CliRunner
from tsfm_pipeline.cli.app import app
assert CliRunner().invoke(app, ["forecast", "nowhere.csv", "--out", "nowhere_else.csv"]).exit_code != 0
"""
PAGE_FAULTS = """
import resource
import numpy as np
for _ in range(4):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, dtype=np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.skipif(not X86, reason="the loops are written for another processor")
def test_the_compiled_loops_answer_on_this_machine(forecaster: FrozenForecaster) -> None:
    assert isinstance(forecaster.decoder, CompiledDecoder)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("before", "environment", "reason"),
    [
        (BLOCKED, {}, "No module named 'numba"),
        (
            "",
            {
                "NUMBA_CACHE_DIR": "{file}/cache",
                "NUMBA_CACHE_LOCATOR_CLASSES": "numba.core.caching.UserProvidedCacheLocator",
            },
            "set NUMBA_CACHE_DIR",
        ),
        (
            "",
            {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2"},
            "need a processor with +avx2 and +fma",
        ),
        ("", {"NUMBA_DISABLE_JIT": "1"}, "NotImplementedError"),
    ],
    ids=[
        "numba cannot be imported",
        "the cache folder cannot be written",
        "another processor",
        "nothing is compiled",
    ],
)
def test_torch_answers_where_the_loops_cannot_be_had(
    forecaster: FrozenForecaster,
    checkpoint_directory: Path,
    telemetry: np.ndarray,
    tmp_path: Path,
    before: str,
    environment: dict[str, str],
    reason: str,
) -> None:
    values, out, file = tmp_path / "telemetry.npy", tmp_path / "grid.npy", tmp_path / "file"
    np.save(values, telemetry)
    file.write_text("no folder, so that nothing can be written below it, not even by root")
    variables = {name: value.format(file=file) for name, value in environment.items()}
    command = [
        sys.executable,
        "-c",
        before + FORECAST_TWICE,
        str(checkpoint_directory),
        str(values),
        str(out),
    ]
    run = subprocess.run(
        command,
        env=os.environ | variables,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["TorchDecoder"]
    said = [
        line
        for line in run.stderr.splitlines()
        if line.startswith("tsfm_pipeline.forecaster.decoders WARNING")
    ]
    assert len(said) == 1, run.stderr
    assert reason in said[0]
    exact = forecaster.forecast_grid(
        telemetry, [ORIGIN], [ForecastConfig(context_len=CONTEXT_LEN)], HORIZON
    )
    spread = telemetry[:, ORIGIN + 1 - CONTEXT_LEN : ORIGIN + 1].std(axis=1)[
        :, None, None, None, None
    ]
    assert (np.abs(np.load(out) - exact) / spread).max() < 2e-5


def page_faults(enter: str, checkpoint: Path) -> int:
    """Page faults that a further new buffer of 64 MiB costs in a process that entered so."""
    command = [sys.executable, "-c", enter + PAGE_FAULTS, str(checkpoint)]
    run = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])


@pytest.mark.heavy
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc",
    reason="a setting of glibc",
)
def test_entry_points_have_the_allocator_keep_large_buffers_and_the_library_does_not(
    checkpoint_directory: Path,
) -> None:
    as_a_library = page_faults(LIBRARY, checkpoint_directory)
    for entry_point in (STEP, COMMAND):
        assert page_faults(entry_point, checkpoint_directory) < as_a_library / 4
