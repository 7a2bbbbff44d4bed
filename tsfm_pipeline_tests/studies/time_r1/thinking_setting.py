"""What the tests of slow thinking share: small policies, and windows of waves and of noise."""

from functools import cache

import numpy as np
import torch

from tsfm_pipeline.studies.time_r1.asking import Asker
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.windows import Windows

SEASON, LOOK_BACK = 8, 32


@cache
def random_policy(seed: int = 1) -> LanguagePolicy:
    """A policy of random weights, which knows nothing: the adversary of the gate. They are larger
    than first weights, under which all numbers are about as likely and the middle one is the draft.
    """
    shape = OwnShape(hidden=16, layers=1, heads=2, key_value_heads=2, feed_forward=16)
    policy = new_policy(seed, shape)
    with torch.no_grad():
        for weights in policy.plain.parameters():
            if weights.ndim == 2:
                weights.mul_(8)
    return policy


def random_asker(*, constrained: bool = True, **options: int) -> Asker:
    """That policy with other options than the defaults."""
    thinking = ThinkingOptions(**{"max_new_tokens": 24, **options})
    return Asker(random_policy(), NumberCodec(), "own", thinking, constrained=constrained)


def noise_windows(n: int, horizon: int = 2, past: int = 80, seed: int = 0) -> Windows:
    """Windows of white noise, where a wrong answer beats the draft now and then."""
    return _windows(np.random.default_rng(seed).normal(size=(n, past + horizon)), horizon)


def wave_windows(n: int, horizon: int = 4, past: int = 80, seed: int = 0) -> Windows:
    """Windows of noisy waves with a season of 8 steps."""
    rng = np.random.default_rng(seed)
    steps = np.arange(past + horizon) / SEASON + rng.random((n, 1))
    waves = 5 + 2 * np.sin(2 * np.pi * steps) + 0.2 * rng.normal(size=(n, past + horizon))
    return _windows(waves, horizon)


def _windows(values: np.ndarray, horizon: int) -> Windows:
    n = len(values)
    return Windows(
        data_set="drawn",
        step="1 hour",
        season=SEASON,
        channels=("drawn",) * n,
        origins=np.full(n, values.shape[1] - horizon - 1),
        past=values[:, :-horizon],
        truth=values[:, -horizon:],
        look_back=LOOK_BACK,
    )
