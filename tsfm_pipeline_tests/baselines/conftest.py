"""Provide data for the baselines' tests: smd (or a skip that says what is missing) and five made-up
series.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared_file(name: str) -> Path:
    """A file of the shared folder beside the checkout; skips the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(
            f"needs ../shared/{name}, which lies beside the checkout and not in the repository"
        )
    return path


@pytest.fixture(scope="session")
def smd() -> pl.DataFrame:
    """Server Machine Dataset: tenant_id, timestamp, metrics; sorted."""
    return pl.read_parquet(shared_file("fleets/smd.parquet")).sort("tenant_id", "timestamp")


@pytest.fixture(scope="session")
def wandering() -> npt.NDArray[np.float32]:
    """Eight days of five series [5, 11520] with a daily cycle, autocorrelated noise and rare
    spikes.
    """
    rng = np.random.default_rng(7)
    n_steps = 8 * 1440
    noise = np.zeros((5, n_steps))
    shocks = rng.normal(0, 0.05, (5, n_steps)) + (rng.random((5, n_steps)) < 0.002)
    for step in range(1, n_steps):
        noise[:, step] = 0.9 * noise[:, step - 1] + shocks[:, step]
    daily = np.sin(2 * np.pi * np.arange(n_steps) / 1440)
    return (2 + daily + noise).astype(np.float32)
