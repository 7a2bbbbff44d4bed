"""Windows that can be checked by hand, for the tests of prompts, codecs and answers."""

import numpy as np

from tsfm_pipeline.studies.time_r1.windows import Floats, Windows


def hand_made(past: Floats, truth: Floats, times: bool = True, **fields: object) -> Windows:
    """Return hourly windows whose look-back is all of `past`, with a clock that ends on Friday,
    1 July 2016, at 05:00, or without one.
    """
    n, known = past.shape
    clock = np.datetime64("2016-07-01T05:00") + np.arange(1 - known, 1) * np.timedelta64(1, "h")
    return Windows(
        **{
            "data_set": "ETTh1",
            "step": "1 hour",
            "season": 24,
            "channels": ("OT",) * n,
            "origins": np.full(n, known - 1),
            "past": past,
            "truth": truth,
            "look_back": known,
            "times": np.tile(clock, (n, 1)) if times else None,
            **fields,
        }
    )


def drawn(n: int, look_back: int, horizon: int, seed: int = 0) -> Windows:
    """Return n windows of normal draws around 20 with a deviation of 3."""
    draw = np.random.default_rng(seed)
    return hand_made(draw.normal(20, 3, (n, look_back)), draw.normal(20, 3, (n, horizon)))
