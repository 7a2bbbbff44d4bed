"""The evidence of a request: the loss of each configuration at earlier origins of the same series.

What belongs here: forecasts at validation origins, and their scores against values that are known
at the request's origin. What does not: decisions from these scores (`rules`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.arrays import Floats, targets_after, tier_losses
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel

ORIGINS_AT_ONCE = 2
"""Number of requests per series whose validation forecasts are in memory at the same time."""


class GridForecaster(Protocol):
    """The methods of a frozen model that the search calls; `forecaster.load_forecaster` returns
    such a model.
    """

    def forecast_grid(
        self,
        panel: Panel,
        origins: NDArray[np.integer],
        configs: Sequence[ForecastConfig],
        horizon: int,
    ) -> NDArray[np.float32]:
        """Return forecasts [S, O, K, H, 10]: mean, then deciles; NaN where a configuration is
        unavailable.
        """
        ...

    def forecast_offsets(
        self,
        panel: Panel,
        origins: NDArray[np.integer],
        offsets: Sequence[int],
        configs: Sequence[ForecastConfig],
        horizon: int,
        wanted: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return forecasts [S, O * len(wanted), K, H, 10] at each origin minus each (wanted)
        offset.
        """
        ...


def validation_losses(
    forecaster: GridForecaster,
    panel: Panel,
    origins: NDArray[np.integer],
    configs: Sequence[ForecastConfig],
    horizon: int,
    offsets: Sequence[int],
    alphas: Sequence[float],
) -> tuple[Floats, Floats]:
    """Return losses and violation rates of K configurations at J validation origins per request.

    origins int [S, O] of the requests, offsets [J] in steps, ascending, all at least `horizon` ->
    two float32 arrays [S, O, K, J, A], in units of the values and as shares; NaN where the history
    is too short. Raises ValueError for an offset below the horizon: its window would end after
    the request's origin.
    """
    return forecast_with_evidence(
        forecaster, panel, origins, configs, horizon, offsets, alphas, with_forecasts=False
    )[1:]


def forecast_with_evidence(
    forecaster: GridForecaster,
    panel: Panel,
    origins: NDArray[np.integer],
    configs: Sequence[ForecastConfig],
    horizon: int,
    offsets: Sequence[int],
    alphas: Sequence[float],
    *,
    with_forecasts: bool = True,
) -> tuple[Floats, Floats, Floats]:
    """Return the requests' own deciles [S, O, K, H, 9] with the arrays of `validation_losses`, all
    from the same passes.

    with_forecasts: False skips the requests' own passes; the deciles then have no requests.
    """
    _require_known_outcomes(offsets, horizon)
    wanted = range(0 if with_forecasts else 1, len(offsets) + 1)
    parts = []
    for start in range(0, origins.shape[1], ORIGINS_AT_ONCE):
        some = origins[:, start : start + ORIGINS_AT_ONCE]
        grid = forecaster.forecast_offsets(panel, some, (0, *offsets), configs, horizon, wanted)
        at_each = grid.reshape(
            *some.shape, len(wanted), *grid.shape[2:]
        )  # [S, O, 1 + J or J, K, H, 10]
        n_own = len(wanted) - len(offsets)
        validation = at_each[:, :, n_own:].reshape(
            len(grid), some.shape[1] * len(offsets), *grid.shape[2:]
        )
        own = at_each[:, : some.shape[1] * n_own, 0, ..., DECILE_COLUMNS]
        parts.append((own.copy(), *_scored(panel, some, offsets, validation, alphas)))
    deciles, losses, violations = (
        np.concatenate(results, axis=1) for results in zip(*parts, strict=True)
    )
    return deciles, losses, violations


def _require_known_outcomes(offsets: Sequence[int], horizon: int) -> None:
    if any(offset < horizon for offset in offsets):
        raise ValueError(
            f"validation offsets {tuple(offsets)} must all be at least the horizon, {horizon} "
            "steps: "
            "a shorter one would be scored on steps that the request must forecast"
        )


def _scored(
    panel: Panel,
    origins: NDArray[np.integer],
    offsets: Sequence[int],
    grid: Floats,
    alphas: Sequence[float],
) -> tuple[Floats, Floats]:
    """Return losses and violation rates [S, O, K, J, A] of forecasts [S, O * J, K, H, 10] at the
    validation origins of requests [S, O].
    """
    earlier = (origins[:, :, None].astype(np.int64) - np.asarray(offsets, dtype=np.int64)).reshape(
        len(origins), -1
    )
    actual = targets_after(panel.values, np.maximum(earlier, 0), grid.shape[3])  # [S, O * J, H]
    results = []
    for scores in tier_losses(
        actual[:, :, None], grid[..., DECILE_COLUMNS], alphas, panel.limits
    ):  # [S, O * J, K, A]
        shaped = scores.reshape(*origins.shape, len(offsets), *scores.shape[2:])
        results.append(np.ascontiguousarray(shaped.swapaxes(2, 3), dtype=np.float32))
    return results[0], results[1]
