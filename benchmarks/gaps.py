"""Compare what a forecast may do after an outage: look only at what followed it, or across it, with
the outage filled.

`python benchmarks/gaps.py [--tenants 16] [--outages 4] [--quick]` prints one JSON object: for the
number of values since an outage of 31 hours, the loss of a long context across the filled outage
over the loss of the longest context since the outage, with a 95 % interval (bootstrap over
tenants). `constant` repeats the last value before the outage, `day_ago` the values of one day ago.
Outages lie in the first half of the synthetic fleet's telemetry, for all tenants at once. The loss
is the pinball loss at .75, in units of each series' scale.

What belongs here: the measurement behind the rule for long gaps (`forecaster.panel`). What does
not: the rule, and the quality of whole runs.
"""

import argparse
import json
import sys

import numpy as np
from measuring import HORIZON, ran_on, telemetry
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS
from tsfm_pipeline.forecaster.engine import FrozenForecaster

ALPHA = 0.75
DAY, OUTAGE = 1440, 31 * 60
SINCE = (32, 64, 128, 256, 512, 1024)
ACROSS = (512, 2048)
DRAWS = 2000
Floats = NDArray[np.floating]


def losses(
    model: FrozenForecaster, values: NDArray[np.float32], actual: Floats, contexts: tuple[int, ...]
) -> Floats:
    """Return the pinball losses [S, C] of these contexts at the end of values [S, T]."""
    configs = [ForecastConfig(context_len=length) for length in contexts]
    origin = np.array([values.shape[1] - 1])
    deciles = model.forecast_grid(Panel(values), origin, configs, HORIZON)[
        :, 0, ..., DECILE_COLUMNS
    ]
    return mean_pinball(actual[:, None], decision_quantile(deciles, ALPHA), ALPHA)


def ratio_with_interval(
    across: Floats, since: Floats, tenants: NDArray[np.int64], rng: np.random.Generator
) -> list[float]:
    """Return the ratio of mean losses and its 95 % interval, from resampled tenants."""
    n = int(tenants.max()) + 1
    sums = np.stack([np.bincount(tenants, weights=part, minlength=n) for part in (across, since)])
    drawn = sums[:, rng.integers(0, n, (DRAWS, n))].sum(axis=2)
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return [round(float(x), 3) for x in (sums[0].sum() / sums[1].sum(), low, high)]


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int)
    parser.add_argument("--outages", type=int)
    parser.add_argument("--quick", action="store_true", help="4 tenants and 1 outage, not 16 and 4")
    options = parser.parse_args()
    n_tenants = options.tenants or (4 if options.quick else 16)
    n_outages = options.outages or (1 if options.quick else 4)
    whole = telemetry(n_tenants)
    n_metrics, n_steps = whole.shape[1:]
    flat = whole.reshape(-1, n_steps)
    tenants = np.tile(np.repeat(np.arange(n_tenants), n_metrics), n_outages)
    scale = np.abs(np.diff(flat[:, : n_steps // 2])).mean(axis=1)
    rng = np.random.default_rng(0)
    begins = rng.integers(4 * DAY, n_steps // 2 - OUTAGE - max(SINCE) - HORIZON, n_outages)
    model = load_forecaster("bundled")
    ratios: dict[str, dict[int, dict[int, list[float]]]] = {"constant": {}, "day_ago": {}}
    for since in SINCE:
        own: list[Floats] = []
        across: dict[str, list[Floats]] = {fill: [] for fill in ratios}
        for begin in begins.tolist():
            end, stop = begin + OUTAGE, begin + OUTAGE + since
            actual = flat[:, stop : stop + HORIZON] / scale[:, None]
            worn = flat[:, :stop] / scale[:, None].astype(np.float32)
            longest = max(length for length in SINCE if length <= since)
            own.append(losses(model, worn, actual, (longest,))[:, 0])
            for fill, parts in across.items():
                filled = worn.copy()
                for step in range(begin, end):
                    before = begin - 1 if fill == "constant" else step - DAY
                    filled[:, step] = filled[:, before]
                parts.append(losses(model, filled, actual, ACROSS))
        for fill, parts in across.items():
            both = np.concatenate(parts)
            ratios[fill][since] = {
                context: ratio_with_interval(both[:, c], np.concatenate(own), tenants, rng)
                for c, context in enumerate(ACROSS)
            }
    result = {
        "benchmark": "gaps",
        "tenants": n_tenants,
        "outages": n_outages,
        "outage_steps": OUTAGE,
        "loss_across_over_since": ratios,
        **ran_on(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
