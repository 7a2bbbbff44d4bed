"""Measure the latency of one request to slow thinking, stage by stage.

`python benchmarks/time_r1_request.py [--quick] [--horizon 128] [--samples 16]` prints one JSON
object.

`service` is what the service asks for: one pass, with one earlier origin as its check. `study` is
what the study asks for, two origins and up to two passes; its second pass follows only where the
gate kept the first, so `study_one_pass` is what a request takes where it did not come to that. The
gate keeps everything here, so that every pass is followed by the sampled answers of its deciles;
where it keeps the draft, a request has none of these. The policy is the shipped base. Drafts are
those of the bundled model at two contexts. Histories are synthetic and in memory, and requests are
answered one by one, without HTTP.
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
from tsfm_pipeline.studies.time_r1.checkpoints import SHIPPED_ASKED_WITH
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.own_policy import load_policy
from tsfm_pipeline.studies.time_r1.serving_plugin import ONE_PASS
from tsfm_pipeline.studies.time_r1.starts import base_folder
from tsfm_pipeline.studies.time_r1.windows import Windows

CONTEXTS, LOOK_BACK = SHIPPED_ASKED_WITH.contexts, SHIPPED_ASKED_WITH.look_back
SERVED = SHIPPED_ASKED_WITH.thinking.model_copy(update=ONE_PASS)
SEASON = 24
WARM_UP = 2


def request(number: int, horizon: int) -> Windows:
    """Return the window of one request: a noisy daily wave."""
    most = ThinkingOptions().gate_origins
    n_past = slow_thinking.needed_past(CONTEXTS, SEASON, horizon, LOOK_BACK, most)
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
    """Return quantiles of the seconds that the drafts of the service take, at both origins."""
    seconds = []
    for number in range(n + WARM_UP):
        window = request(number, horizon)
        begin = time.perf_counter()
        slow_thinking.drafts_at_gate(window, forecaster, CONTEXTS, SERVED.gate_origins)
        seconds.append(time.perf_counter() - begin)
    return quantiles("s", seconds[WARM_UP:])


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 requests instead of 30")
    parser.add_argument("--horizon", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    n = 5 if arguments.quick else 30
    forecaster = load_forecaster("bundled", device="cpu")
    policy = load_policy(base_folder())
    result: dict[str, Any] = {
        **ran_on(),
        "horizon": arguments.horizon,
        "samples": arguments.samples,
        "n_parameters": policy.plain.num_parameters(),
        "drafts": drafting(forecaster, arguments.horizon, n),
    }
    # The gate refuses nothing then: each request takes all passes.
    slow_thinking.GATE_TOLERANCE, slow_thinking.GATE_MARGIN = np.inf, -np.inf
    asked = {
        "service": SERVED,
        "study_one_pass": ThinkingOptions(max_iterations=1),
        "study": ThinkingOptions(),
    }
    for name, options in asked.items():
        options = options.model_copy(update={"samples": arguments.samples})
        asker = Asker(policy, NumberCodec(), "own", options)
        measured = measure(asker, forecaster, arguments.horizon, n)
        passes, origins = options.max_iterations, options.gate_origins
        result[name] = {"passes": passes, "gate_origins": origins, **measured}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
