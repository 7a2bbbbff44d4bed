"""Measure how fast the own policy of slow thinking answers and trains.

`python benchmarks/time_r1_policy.py [--requests 20] [--quick]` prints one JSON object. A request is
one prompt of 96 known values and a draft of 128, answered 16 times with a forced reason and exactly
128 numbers. `steps` has the milliseconds per step of those 16 completions by the decoder and by the
model of transformers with a growing cache. `training` is forward and backward over 32 sequences of
a prompt and one completion.

What belongs here: the measurement behind the size of `own_policy.OwnShape` and behind `decoding`.
What does not: how good the answers are (the study's evaluation).
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import ran_on
from transformers import DynamicCache

from tsfm_pipeline.studies.time_r1.decoding import Decoder
from tsfm_pipeline.studies.time_r1.grammar import word_grammar
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling

LOOK_BACK, HORIZON, SAMPLES, BATCH, N_THREADS = 96, 128, 16, 32, 2
REASON = "<think> level is above the mean of four days </think> <answer>"
SHAPES = {
    "default": OwnShape(),
    "one key": OwnShape(key_value_heads=1),
    "a key per head": OwnShape(key_value_heads=6),
    "three layers": OwnShape(layers=3),
    "hidden 128": OwnShape(hidden=128, heads=4, feed_forward=352),
    "hidden 160": OwnShape(hidden=160, heads=5, key_value_heads=1, feed_forward=416),
}


def numbers(generator: np.random.Generator, n: int) -> str:
    """Return n number words."""
    return " ".join(f"n{number}" for number in generator.integers(0, 201, n))


def prompt(generator: np.random.Generator) -> str:
    """Return a prompt with a look-back and a draft."""
    shown = f"past {numbers(generator, LOOK_BACK)} draft {numbers(generator, HORIZON)}"
    return f"task forecast 128 data hour season 24 test monday 0 {shown} format think answer"


def timed(work: Callable[[], object], n: int) -> dict[str, float]:
    """Return wall seconds of n calls (median and 95th percentile) and processor seconds of one."""
    walls, processor = [], time.process_time()
    for _ in range(n):
        start = time.perf_counter()
        work()
        walls.append(time.perf_counter() - start)
    return {
        "median_s": round(float(np.median(walls)), 3),
        "p95_s": round(float(np.quantile(walls, 0.95)), 3),
        "processor_s": round((time.process_time() - processor) / n, 3),
    }


def request(policy: LanguagePolicy, n: int) -> dict[str, float]:
    """Return the times of n requests and tokens per second of processor time."""
    generator = np.random.default_rng(0)
    grammar = word_grammar(HORIZON)
    sampling = Sampling(0, HORIZON + 1)

    def ask() -> None:
        policy.sample([prompt(generator)], SAMPLES, sampling, grammar, [REASON])

    ask()
    found = timed(ask, n)
    tokens = SAMPLES * (HORIZON + 1)
    return found | {"tokens_per_processor_s": round(tokens / found["processor_s"])}


def training(policy: LanguagePolicy, n: int) -> dict[str, float]:
    """Return the times of forward and backward at a batch of 32."""
    generator = np.random.default_rng(1)
    prompts = [prompt(generator) for _ in range(BATCH)]
    texts = [f"{REASON} {numbers(generator, HORIZON)} </answer>" for _ in range(BATCH)]
    given = policy.encode(texts)
    tokens = BATCH * (len(policy.tokenizer(prompts[0]).input_ids) + given.ids.shape[1])

    def step() -> None:
        policy.plain.zero_grad()
        (-policy.log_probs(prompts, given).sum() / given.mask.sum()).backward()

    step()
    found = timed(step, n)
    return found | {"tokens_per_processor_s": round(tokens / found["processor_s"])}


def steps(policy: LanguagePolicy) -> dict[str, float]:
    """Return processor milliseconds per step by the decoder and by the model's own forward pass."""
    ids = torch.randint(7, 200, (1, 256), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 256, dtype=torch.bool)
    token = ids[0, :SAMPLES]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        decoder = Decoder(policy.plain, ids, mask, SAMPLES, HORIZON)
        start = time.process_time()
        for _ in range(HORIZON):
            decoder.advance(token)
        ours = time.process_time() - start
        cache = DynamicCache(config=policy.plain.config)
        policy.plain(input_ids=ids, cache=cache, use_cache=True)
        cache.batch_repeat_interleave(SAMPLES)
        start = time.process_time()
        for _ in range(HORIZON):
            policy.plain(input_ids=token[:, None], cache=cache, use_cache=True)
        theirs = time.process_time() - start
    torch.set_num_threads(n_threads)
    scale = 1000 / HORIZON
    return {"decoder_ms": round(ours * scale, 2), "transformers_ms": round(theirs * scale, 2)}


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="the default size alone")
    options = parser.parse_args()
    torch.set_num_threads(N_THREADS)
    shapes = {"default": SHAPES["default"]} if options.quick else SHAPES
    found = {}
    for name, shape in shapes.items():
        policy = new_policy(0, shape)
        found[name] = {
            "parameters": policy.plain.num_parameters(),
            "request": request(policy, options.requests),
            "steps": steps(policy),
            "training": training(policy, 3),
        }
    print(json.dumps({"machine": ran_on(), "shapes": found}, indent=2))


if __name__ == "__main__":
    main()
