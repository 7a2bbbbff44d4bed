"""The yardsticks reproduce the published naive rows."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.pretraining.yardsticks import at_level, load_smd, measure, naive, pinball, seasonal_naive, smd_rows

SHARED = Path(os.environ.get("TSFM_BENCHMARKS_DIR", Path(__file__).resolve().parents[3] / "shared" / "benchmarks"))
needs_shared = pytest.mark.skipif(not (SHARED / "ETTh1.csv").exists(), reason=f"{SHARED} holds no ETTh1.csv")


@needs_shared
def test_naive_rows_equal_the_reference_to_three_digits():
    reference = json.loads((SHARED / "reference_figures.json").read_text())["published_protocols"]
    rows = measure(None, SHARED, None, [], 0)
    for ours, theirs in (("naive", "naive"), ("seasonal_naive", "sn")):
        assert rows[ours]["fev_ETTh"] == pytest.approx(reference["fev_ETTh"][theirs], abs=5e-4)
        assert rows[ours]["fev_bench_ETT_1H"] == pytest.approx(reference["fev_bench_ETT_1H"][theirs], abs=5e-4)
        for name in ("ETTh1", "ETTh2"):
            expected = reference[f"timesfm_v1_longhorizon_{name}_96"][theirs]["WAPE"]
            assert rows[ours][f"long_horizon_{name}"]["WAPE"] == pytest.approx(expected, abs=5e-4)


@needs_shared
def test_last_value_on_smd_equals_the_reference():
    table = SHARED.parent / "fleets" / "smd.parquet"
    if not table.exists():
        pytest.skip(f"{table} is not there")
    reference = json.loads((SHARED / "reference_figures.json").read_text())["smd"]
    fleet = {metric: values for metric, values in load_smd(table).items() if metric == "cpu_r"}
    rows = smd_rows(fleet, {"naive": (naive, 32), "seasonal": (seasonal_naive(1440), 1440)}, 20)
    expected = reference["cpu_r|H60"]["methods"]
    assert rows["naive"]["pb75_by_metric"]["cpu_r"] == pytest.approx(expected["last"]["pb75"], abs=5e-4)
    assert rows["seasonal"]["pb75_by_metric"]["cpu_r"] == pytest.approx(expected["seasonal"]["pb75"], abs=5e-4)


def test_pinball_and_interpolated_levels():
    assert pinball(np.array([2.0, 0.0]), np.array([1.0, 1.0]), 0.75).tolist() == [0.75, 0.25]
    deciles = np.arange(1, 10, dtype=float)
    assert at_level(deciles, 0.9) == pytest.approx(9.0)
    assert at_level(deciles, 0.75) == pytest.approx(7.5)
    assert at_level(deciles, 0.65) == pytest.approx(6.5)


def test_seasonal_naive_repeats_the_last_season():
    contexts = np.arange(10, dtype=float)[None]
    assert seasonal_naive(4)(contexts, 6)[0, :, 4].tolist() == [6.0, 7.0, 8.0, 9.0, 6.0, 7.0]
