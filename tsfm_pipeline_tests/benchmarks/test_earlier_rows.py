"""Test the comparison of checkpoints on earlier rows: which rows it sees, and its arithmetic.

What belongs here: `benchmarks/earlier_rows.py`. What does not: the protocol (`test_rolling`).
"""

import importlib
from types import ModuleType

import numpy as np
import pytest

from tsfm_pipeline.pretraining.rolling import windows
from tsfm_pipeline.pretraining.sources import RealFleet
from tsfm_pipeline.settings import PROJECT_ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "benchmarks"))
    return importlib.import_module("earlier_rows")


def test_no_row_of_the_last_fifth_is_seen_and_the_fleet_stays_as_it_was(script: ModuleType):
    lengths = np.array([1000, 500, 800])
    values = np.tile(np.arange(1000, dtype=np.float32), (3, 1))
    values[np.arange(1000) >= lengths[:, None]] = np.nan
    names = ("a cpu", "b cpu", "c cpu")
    fleet = RealFleet("smd", values, lengths, ("cpu",) * 3, names, 24, 1, (60,), 0)
    part = script.earlier(fleet, np.array([0, 2]))
    assert part.labels == ("a cpu", "c cpu")
    assert np.nanmax(part.values, axis=1).tolist() == [799, 639]
    asked = windows(part, 60, 5)
    assert asked.origins[:, 0].tolist() == [639, 511]
    assert np.nanmax(asked.actual, axis=(1, 2)).tolist() == [799, 639]
    assert np.nanmax(fleet.values, axis=1).tolist() == [999, 499, 799]


def test_machines_count_alike_and_series_without_any_loss_not_at_all(script: ModuleType):
    first = {(512, 0.75): np.array([1.0, 1.0, 2.0, 0.0])}
    other = {(512, 0.75): np.array([1.1, 1.21, 2.0, 0.0])}
    machines = np.array(["a", "a", "b", "b"])
    mean, error = script.compared(first, other, machines)["ctx512 pb75"]
    of_a = 100 * np.log(1.1) * 1.5
    assert mean == pytest.approx(of_a / 2, abs=0.005)
    assert error == pytest.approx(of_a / 2, abs=0.005)
