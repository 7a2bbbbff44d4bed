"""Compare the constants of the baselines of recent values, on requests before the test period.

`python benchmarks/smoothing.py [--tenants 100] [--quick]` prints one JSON object: for each number
of values and weight of `ewma`, number of values of `local_level_kalman` and `rolling_quantile`, the
mean CRPS (from deciles, in units of each series' mean absolute change) and the share of values
within the interval of 80 %, over all 60 steps and over the first 12. The rows `sqrt(h)` have the
rolling quantiles with distances from the median that grow with the root of the step. Twelve origins
per series of the synthetic fleet lie between its 7th and its 22nd day.

What belongs here: the measurement behind the constants of `baselines.smoothing`. What does not: how
these baselines compare with others (the reports of a fleet).
"""

import argparse
import json
import sys

import numpy as np
from measuring import HORIZON, ran_on, telemetry
from numpy.typing import NDArray

from tsfm_pipeline.baselines.protocol import DirectBaseline
from tsfm_pipeline.baselines.smoothing import Ewma, LocalLevelKalman, RollingQuantile
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.forecaster import QUANTILE_LEVELS, Panel

DAY = 1440
FIRST_DAY, LAST_DAY, ORIGINS = 7, 22, 12
FIRST_STEPS = 12
SMOOTHED = (40, 60, 120, 288, 1000)
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5)
ROLLING = (10, 20, 30, 40, 60, 120, 288, 1000, 3000)
Floats = NDArray[np.floating]


def variants() -> dict[str, DirectBaseline]:
    """Return each baseline with each choice of its constants, by a name that states them."""
    found: dict[str, DirectBaseline] = {}
    for n_values in SMOOTHED:
        for weight in WEIGHTS:
            constants = {"n_values": n_values, "weight": weight}
            found[f"ewma, {n_values} values, weight {weight}"] = type("E", (Ewma,), constants)()
        kalman = type("K", (LocalLevelKalman,), {"n_values": n_values})()
        found[f"local_level_kalman, {n_values} values"] = kalman
    for n_values in ROLLING:
        rolling = type("R", (RollingQuantile,), {"n_values": n_values})()
        found[f"rolling_quantile, {n_values} values"] = rolling
    return found


def scores(deciles: Floats, actual: Floats, scale: Floats) -> dict[str, float]:
    """Return mean CRPS and coverage of deciles [S, O, H, 9] for values [S, O, H] of scale [S]."""
    inside = (deciles[..., 0] <= actual) & (actual <= deciles[..., 8])
    result = {}
    for n_steps in (HORIZON, FIRST_STEPS):
        losses = [
            mean_pinball(actual[..., :n_steps], deciles[..., :n_steps, q], level)
            for q, level in enumerate(QUANTILE_LEVELS)
        ]
        crps = 2 * np.mean(losses, axis=0) / scale[:, None]
        result[f"crps_{n_steps}"] = round(float(crps.mean()), 3)
        result[f"coverage_80_{n_steps}"] = round(float(inside[..., :n_steps].mean()), 3)
    return result


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int)
    parser.add_argument("--quick", action="store_true", help="10 tenants, not 100")
    options = parser.parse_args()
    n_tenants = options.tenants or (10 if options.quick else 100)
    values = telemetry(n_tenants)
    values = values.reshape(-1, values.shape[-1])
    panel = Panel(values, lower=0.0)
    drawn = np.random.default_rng(0).integers(
        FIRST_DAY * DAY, LAST_DAY * DAY, (len(values), ORIGINS)
    )
    origins = np.sort(drawn, axis=1)
    series = np.arange(len(values))[:, None, None]
    actual = values[series, origins[..., None] + np.arange(1, HORIZON + 1)]
    scale = np.abs(np.diff(values[:, : LAST_DAY * DAY])).mean(axis=1)
    growing = np.sqrt(np.arange(1, HORIZON + 1))[:, None]
    measured = {}
    for name, baseline in variants().items():
        deciles = baseline.forecast(panel, origins, HORIZON)
        measured[name] = scores(deciles, actual, scale)
        if isinstance(baseline, RollingQuantile):
            first, median = deciles[:, :, :1], deciles[:, :, :1, 4:5]
            wide = np.maximum(median + growing * (first - median), 0.0)
            measured[f"{name}, sqrt(h)"] = scores(wide, actual, scale)
    result = {"benchmark": "smoothing", "tenants": n_tenants, "scores": measured, **ran_on()}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
