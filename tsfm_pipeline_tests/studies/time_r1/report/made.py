"""Made forecasts, trainings and counts, for the tests of the evaluation and the report.

What belongs here: evidence whose truth is known. What does not: any expectation.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from tsfm_pipeline.studies.time_r1.evaluation import Case, Forecast, evaluate
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    GRIP_MEDIAN,
    METHODS,
    SLOW_THINKING,
    SLOW_THINKING_ONE_PASS,
)
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe
from tsfm_pipeline.studies.time_r1.report.evidence import (
    Cost,
    DataSetNote,
    Divergence,
    Evidence,
    Parsing,
    Thoughts,
    base_curves,
    reinforced_curve,
    warm_up_curve,
)
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

CHANNELS, ORIGINS, LOOK_BACK, HORIZON = 5, 8, 48, 12
DRAWS = 200
WIN, NULL, LOSS = 0.6, 1.0, 1.5
"""Errors of slow thinking over the draft's."""
SPREAD = {
    "draft": 1.0,
    "seasonal_naive": 1.3,
    "seasons_mean": 1.05,
    "last_value": 2.0,
    "sft_plain_greedy": 1.6,
    "sft_plain_median": 1.4,
    "sft_draft_greedy": 1.15,
    "sft_draft_median": 1.02,
    "sft_more_median": 1.01,
    "grpo_median": 0.99,
    "frozen": 1.03,
    "grip_greedy": 1.05,
}
"""Deviations of the errors of the other methods."""
COLUMNS = ("objective", "template", "think", "number", "history", "gradient_norm", "learning_rate")
TERMS = {"format": 0.2, "length": 0.05, "error": 0.4, "season": 0.1, "trend": -0.05}
BASE = {
    str(step): {
        kind: {"template": 1 / step, "think": 50 / step, "number": 3 + shift + 100 / step}
        for kind, shift in (("with a draft", 0.0), ("without", 0.4))
    }
    for step in (500, 1000, 1500)
}
REASON = "The last day lay 0.31 deviations higher. <script> The peak at 14 h was missed twice."


@cache
def windows(data_set: str = "made", channels: int = CHANNELS, horizon: int = HORIZON) -> Windows:
    """Noisy waves with a season of 12 steps, one level per channel."""
    rng = np.random.default_rng(len(data_set))
    steps = np.arange(LOOK_BACK + horizon)
    n = channels * ORIGINS
    level = np.repeat(5.0 + np.arange(channels), ORIGINS)[:, None]
    values = level + 2 * np.sin(2 * np.pi * steps / 12) + 0.3 * rng.normal(size=(n, len(steps)))
    return Windows(
        data_set,
        "1 hour",
        12,
        tuple(np.repeat([f"channel {c}" for c in range(channels)], ORIGINS).tolist()),
        np.tile(100 + 24 * np.arange(ORIGINS), channels).astype(np.int64),
        values[:, :LOOK_BACK],
        values[:, LOOK_BACK:],
        LOOK_BACK,
    )


def case(effect: float = WIN, window_set: str = "own", **changes: Any) -> Case:
    """Every method on made windows; slow thinking's errors are `effect` times as large as the
    draft's, and its gate guesses.
    """
    asked = windows(**changes)
    rng = np.random.default_rng(3)
    n, shape = len(asked), asked.truth.shape
    errors = {name: spread * rng.normal(size=shape) for name, spread in SPREAD.items()}
    errors[GRIP_MEDIAN] = effect * rng.normal(size=shape)
    forecasts = {name: Forecast(asked.truth + error) for name, error in errors.items()}
    refined = refined_of(asked, forecasts[DRAFT].points, effect)
    kept = rng.random(n) < 0.6
    thought = np.where(kept[:, None], refined, forecasts[DRAFT].points)
    levels = np.linspace(-1.2, 1.2, 9)
    failed = np.zeros(n, bool)
    failed[:2] = True
    forecasts[SLOW_THINKING] = Forecast(thought, thought[..., None] + levels, failed, kept)
    forecasts[SLOW_THINKING_ONE_PASS] = replace(forecasts[SLOW_THINKING], points=refined)
    forecasts = {name: forecasts[name] for name in METHODS if name in forecasts}
    return Case(asked, window_set, np.full(n, 2.0), np.full(n, 0.1), forecasts)


def refined_of(asked: Windows, draft: Floats, effect: float) -> Floats:
    """Return the draft with its errors scaled; every sixth window is the draft itself."""
    rng = np.random.default_rng(5)
    scale = effect * np.exp(0.4 * rng.normal(size=(len(asked), 1)))
    scale[::6] = 1.0
    return np.asarray(asked.truth + scale * (draft - asked.truth))


@cache
def evidence(effect: float = WIN) -> Evidence:
    """What the report is made from: the headline, the paper's windows, and a set of one channel."""
    headline = case(effect)
    cases = (
        headline,
        case(effect, "paper"),
        case(effect, data_set="single", channels=1, horizon=6),
    )
    points = headline.forecasts[DRAFT].points
    rng = np.random.default_rng(7)
    return Evidence(
        recipe=Recipe(
            name="made", title="A made <script> recipe", train=("made",), evaluate=("made",)
        ),
        profile=Profile(model="own", codec="number", prompt="own"),
        n_parameters=1_400_000,
        n_trained=90_000,
        evaluated=evaluate(cases, DRAWS, 0),
        headline=headline,
        thoughts=Thoughts(
            refined_of(headline.windows, points, effect), (REASON,) * len(headline.windows)
        ),
        base=base_curves(BASE),
        warm_ups=tuple(_warm_up(run, rng) for run in ("sft_plain", "sft_draft", "sft_more")),
        reinforced=tuple(_reinforced(run, effect, rng) for run in ("grip", "grpo")),
        parsing=Parsing(2000, 1994, 500, 500, {"truncated": 4, "too_few": 2, "header": 0}),
        divergence=Divergence(
            0.04 + 0.01 * rng.normal(size=30), 0.042 + 0.02 * rng.normal(size=30)
        ),
        costs=(
            Cost("draft", 0, 0.0, 20.0, 31.0, 0.0),
            Cost("sft_draft_greedy", 1, 70.0, 80.0, 110.0, 610.0),
            Cost("slow_thinking", 16, 1120.0, 310.0, 460.0, 1310.0),
        ),
        data_sets=(
            DataSetNote("made", "Made waves", "none", "training and evaluation"),
            DataSetNote("wind", "Wind power", "CC BY 4.0", "", "not on this machine"),
        ),
        draws=DRAWS,
        seed=0,
    )


def _warm_up(run: str, rng: np.random.Generator) -> Any:
    steps = np.arange(150)
    decay = np.exp(-steps / 40)
    history = np.column_stack(
        [
            3 * decay,
            2 * decay + 0.02,
            1.5 * decay + 0.1 + 0.02 * rng.normal(size=150),
            1.2 * decay + 2.4 + 0.05 * rng.normal(size=150),
            np.full(150, np.nan),
            decay,
            1e-3 * decay,
        ]
    )
    validations = [
        {"step": step, "objective": 1.0, "template": 0.03, "think": 0.2, "number": 2.5}
        for step in (50, 100, 150)
    ]
    return warm_up_curve(run, COLUMNS, history, validations)


def _reinforced(run: str, effect: float, rng: np.random.Generator) -> Any:
    steps = np.arange(100, dtype=np.float64)
    rise: Floats = 0.1 * (1 - effect) * steps / 33
    parts: Mapping[str, Any] = {
        "reward_all": 0.4 + rise + 0.02 * rng.normal(size=100),
        "reward_kept": 0.45 + rise + 0.02 * rng.normal(size=100),
        "exact_kl": 0.0008 * steps,
        "k3": 0.0009 * steps + 0.004 * rng.normal(size=100),
        **{f"term_{term}": share + 0 * steps for term, share in TERMS.items()},
        **{f"share_{term}": share + 0.02 * rng.normal(size=100) for term, share in TERMS.items()},
    }
    base = rng.uniform(0.2, 0.6, 40)
    validation = np.stack([base + rise[at] + 0.02 * rng.normal(size=40) for at in (0, 33, 66, 99)])
    history = np.column_stack(list(parts.values()))
    validated = (0, 33, 66, 99)
    best = validated[int(validation.mean(axis=1).argmax())]
    return reinforced_curve(run, tuple(parts), history, validated, validation, best)
