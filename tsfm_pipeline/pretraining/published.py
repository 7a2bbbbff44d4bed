"""Score a method by the published ETT protocols, and list the published rows.

What belongs here: fev ETTh, fev-bench ETT_1H and the long-horizon variant of the TimesFM-1
repository, each as a function of a method. What does not: rolling windows over fleets (`rolling`).
"""

import numpy as np

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.pretraining.rolling import DoubleArray, IntArray, Method
from tsfm_pipeline.pretraining.sources import ETT_NAMES, Sources

SEASON = 24
MEDIAN_DECILE = 4
N_BENCH_WINDOWS, BENCH_HORIZON = 20, 168
LONG_HORIZON = 96

PUBLISHED_ROWS: tuple[tuple[str, str, str, str], ...] = (
    # method, fev-bench ETT_1H MASE, fev ETTh MASE / WQL, long-horizon ETTh1 / ETTh2 WAPE
    ("seasonal naive", "1.323", ".932 / .122", ".555 / –"),
    ("TimesFM-1 (200M)", "", ".890 / .092", ".509 / .252"),
    ("TimesFM-2.0 (500M)", "", ".854 / .085", ""),
    ("TimesFM-2.5 (200M)", "1.124", "", ""),
    ("Chronos-T5-mini", "", "", ".532 / .256"),
    ("Chronos-T5-large", "", "", ".512 / .252"),
    ("Chronos-Bolt tiny", "", ".794 / .075", ""),
    ("Chronos-Bolt mini", "", ".806 / .077", ""),
    ("Chronos-Bolt small", "", ".793 / .076", ""),
    ("Chronos-Bolt base", "1.127", ".748 / .071", ""),
    ("TTM-r2", "", ".985 / .136", ""),
    ("PatchTST (trained on it)", "1.199", "", ""),
)


def published_protocols(sources: Sources, method: Method) -> dict[str, dict[str, float]]:
    """Return the figures of all protocols, under the keys of `reference_figures.json`."""
    figures = {
        "fev_ETTh": fev_etth(sources, method),
        "fev_bench_ETT_1H": fev_bench_ett_1h(sources, method),
    }
    return figures | {
        f"timesfm_v1_longhorizon_{name}_96": long_horizon(sources, name, method)
        for name in ETT_NAMES
    }


def fev_etth(sources: Sources, method: Method) -> dict[str, float]:
    """Score the last 24 hours of the 14 series of ETTh1 and ETTh2: MASE, and WQL over deciles."""
    scaled, losses, sizes = [], 0.0, 0.0
    for name in ETT_NAMES:
        series = sources.ett(name)
        past, actual = series[:, :-SEASON], series[:, -SEASON:]
        deciles = _forecast(method, past, np.array([past.shape[1] - 1]), SEASON)[:, 0]  # [7, 24, 9]
        scaled.append(
            np.abs(actual - deciles[..., MEDIAN_DECILE]).mean(1) / _seasonal_difference(past)
        )
        error = actual[..., None] - deciles
        losses += 2 * np.maximum(DECILE_LEVELS * error, (DECILE_LEVELS - 1) * error).mean(-1).sum()
        sizes += np.abs(actual).sum()
    return {"MASE": float(np.concatenate(scaled).mean()), "WQL": float(losses / sizes)}


def fev_bench_ett_1h(sources: Sources, method: Method) -> dict[str, float]:
    """Score the last 20 disjoint windows of 168 hours of the 14 series of ETTh1 and ETTh2: MASE."""
    ratios = []
    for name in ETT_NAMES:
        series = sources.ett(name)
        firsts = series.shape[1] - BENCH_HORIZON * np.arange(N_BENCH_WINDOWS, 0, -1)
        median = _forecast(method, series, firsts - 1, BENCH_HORIZON)[
            ..., MEDIAN_DECILE
        ]  # [7, 20, 168]
        for i, first in enumerate(firsts):
            error = np.abs(series[:, first : first + BENCH_HORIZON] - median[:, i]).mean(1)
            ratios.append(error / _seasonal_difference(series[:, :first]))
    return {"MASE": float(np.mean(ratios))}


def long_horizon(sources: Sources, name: str, method: Method) -> dict[str, float]:
    """Score disjoint windows of 96 hours over rows 11520-14399, z-scored by rows 0-8639: WAPE."""
    series = sources.ett(name)
    train = series[:, :8640]
    z = (series - train.mean(1, keepdims=True)) / train.std(1, keepdims=True)
    firsts = np.arange(11_520, 14_400, LONG_HORIZON)
    median = _forecast(method, z, firsts - 1, LONG_HORIZON)[..., MEDIAN_DECILE]
    actual = z[:, firsts[:, None] + np.arange(LONG_HORIZON)]
    return {"WAPE": float(np.abs(actual - median).sum() / np.abs(actual).sum())}


def _forecast(method: Method, series: DoubleArray, origins: IntArray, horizon: int) -> DoubleArray:
    """Return deciles [S, O, H, 9] at origins [O] that all series share."""
    panel = Panel(series.astype(np.float32), seasons=(SEASON,))
    return method(panel, np.broadcast_to(origins, (len(series), len(origins))), horizon).astype(
        np.float64
    )


def _seasonal_difference(past: DoubleArray) -> DoubleArray:
    return np.abs(past[:, SEASON:] - past[:, :-SEASON]).mean(1)
