"""Measure the latency of one request to slow thinking, stage by stage.

`python benchmarks/time_r1_request.py [--quick] [--horizon 128] [--samples 16]` prints one JSON
object.

The policy has its full size and first weights: what its weights are does not change the latency,
but whether a second pass follows does. Both are timed: one pass, which is what a request takes
where the gate keeps the draft, and two, which is the most that it takes. Drafts are those of the
bundled model at two contexts. Histories are synthetic and in memory, and requests are answered one
by one.
`cpu_s` is the processor time: on a machine that does other work, the seconds of the clock are those
of the other work too.

What belongs here: the measurement. What does not: what the answers are worth.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from measuring import ran_on
from numpy.typing import NDArray

from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.studies.time_r1 import slow_thinking
from tsfm_pipeline.studies.time_r1.asking import Asker
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.own_policy import new_policy
from tsfm_pipeline.studies.time_r1.windows import Windows

SEASON, LOOK_BACK, CONTEXTS = 24, 96, (96, 512)
WARM_UP = 2


def request(number: int, horizon: int) -> Windows:
    """Return the window of one request: a noisy daily wave."""
    n_past = slow_thinking.needed_past(CONTEXTS, SEASON, horizon, LOOK_BACK)
    rng = np.random.default_rng(number)
    steps = np.arange(n_past) / SEASON + rng.random()
    past = 5 + np.sin(2 * np.pi * steps) + 0.5 * rng.normal(size=n_past)
    origins = np.array([n_past - 1])
    unknown = np.full((1, horizon), np.nan)
    return Windows(
        "bench", "1 hour", SEASON, ("load",), origins, past[None], unknown, look_back=LOOK_BACK
    )


def measure(asker: Asker, forecaster: Any, horizon: int, n: int) -> dict[str, Any]:
    """Return quantiles of the seconds that n requests took."""
    seconds: list[float] = []
    cpu: list[float] = []
    for number in range(-WARM_UP, n):
        window = request(number + WARM_UP, horizon)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        slow_thinking.think(asker, window, forecaster, CONTEXTS)
        if number >= 0:
            seconds.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - cpu_begin)
    return {"n": n, **quantiles("s", seconds), **quantiles("cpu_s", cpu)}


def quantiles(name: str, seconds: list[float]) -> dict[str, float]:
    """Return p50 and p95, named after what was measured."""
    values: NDArray[np.float64] = np.quantile(seconds, [0.5, 0.95])
    return {f"p50_{name}": float(values[0]), f"p95_{name}": float(values[1])}


def drafting(forecaster: Any, horizon: int, n: int) -> dict[str, Any]:
    """Return quantiles of the seconds that the drafts at one origin take."""
    seconds = []
    for number in range(n + WARM_UP):
        window = request(number, horizon)
        begin = time.perf_counter()
        slow_thinking.make_drafts(window, forecaster, CONTEXTS)
        seconds.append(time.perf_counter() - begin)
    return quantiles("s", seconds[WARM_UP:])


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 requests instead of 50")
    parser.add_argument("--horizon", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    n = 5 if arguments.quick else 50
    forecaster = load_forecaster("bundled", device="cpu")
    policy = new_policy(0)
    result: dict[str, Any] = {
        **ran_on(),
        "horizon": arguments.horizon,
        "samples": arguments.samples,
        "gate_origins": slow_thinking.GATE_ORIGINS,
        "n_parameters": policy.plain.num_parameters(),
        "drafts_at_one_origin": drafting(forecaster, arguments.horizon, n),
    }
    # A margin of minus infinity lets every refined forecast win: each request takes all passes.
    slow_thinking.GATE_MARGIN = -np.inf
    for passes in (1, 2):
        options = ThinkingOptions(samples=arguments.samples, max_iterations=passes)
        asker = Asker(policy, NumberCodec(), "own", options)
        result[f"passes_{passes}"] = measure(asker, forecaster, arguments.horizon, n)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
