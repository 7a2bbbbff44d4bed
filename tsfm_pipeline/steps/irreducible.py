"""The irreducible loss: the loss of a forecaster that knows the generator and its latent state.

What belongs here: the table `irreducible_losses`, for synthetic fleets only (the table of any other
fleet is empty, because its true distribution is unknown). What does not: simulating
(`fleets.synthetic`), comparing methods with this floor (`reports.ablation.numbers`).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.fleets.spec import SyntheticFleet
from tsfm_pipeline.fleets.synthetic import simulate_from_state, tenant_state

Floats = NDArray[np.floating]

N_PATHS = 512
"""Simulated futures per request. The number must be even, because the remaining error is measured
on halves of them.
"""


def irreducible_losses_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the loss of the true conditional quantile at every test request of the shard: request
    x metric x tier.

    The quantile is computed from the tenant's parameters and its latent state at the origin, so no
    forecast from telemetry has a lower expected loss. A quantile of finitely many paths is only
    close to the true one; `monte_carlo_error` estimates how much this adds to the loss.
    """
    axes = {"metric": fleet.grid.metrics, "tier": list(fleet.protocol.tiers)}
    requests = fleet.arrays.requests("test", shard)
    n_metrics = len(fleet.grid.metrics)
    shape = (requests.ids.size, n_metrics, len(fleet.protocol.tiers))
    if not isinstance(fleet.spec, SyntheticFleet) or not requests.ids.size:
        nothing = np.empty((0, *shape[1:]), np.float32)
        none = np.empty(0, np.int64)
        return keyed_rows(
            none, none, axes, {"irreducible_loss": nothing, "monte_carlo_error": nothing}
        )
    (actual,) = fleet.arrays.of("request_targets", requests, ["actual"], (n_metrics,))
    losses, errors = np.empty(shape), np.empty(shape)
    row = 0
    for number, origins, ids in zip(
        requests.tenant_numbers, requests.origins, requests.ids, strict=True
    ):
        state = tenant_state(fleet.spec, int(number), int(origins.max()) + 1)
        for origin, request in zip(origins, ids, strict=True):
            rng = np.random.default_rng(
                np.random.SeedSequence((fleet.settings.evaluation.seed, int(request)))
            )
            paths = simulate_from_state(state.until(int(origin)), fleet.spec.horizon, N_PATHS, rng)
            losses[row], errors[row] = true_quantile_losses(
                paths, actual[row], fleet.protocol.alphas
            )
            row += 1
    columns = {
        "irreducible_loss": losses.astype(np.float32),
        "monte_carlo_error": errors.astype(np.float32),
    }
    return keyed_rows(requests.ids.ravel(), requests.tenants, axes, columns)


def true_quantile_losses(
    paths: NDArray[np.float32], actual: Floats, alphas: Sequence[float]
) -> tuple[Floats, Floats]:
    """Return the mean pinball loss of the paths' quantile at each tier, and how much the finite
    number of paths adds to it, both [D, A].

    paths [P, H, D]: independent futures; actual [D, H]: observed values. The excess of a sample
    quantile's loss over the true quantile's is inversely proportional to P: it is alpha (1 - alpha)
    / (2 P f) for a density f. The mean excess of the two halves is therefore twice that of all
    paths, and the difference of the losses estimates the excess of all paths.
    """
    futures = np.ascontiguousarray(np.moveaxis(paths, 0, -1).swapaxes(0, 1))  # [D, H, P]
    half = futures.shape[-1] // 2
    loss = _losses(futures, actual, alphas)
    halves = (
        _losses(futures[..., :half], actual, alphas) + _losses(futures[..., half:], actual, alphas)
    ) / 2
    return loss, halves - loss


def _losses(futures: NDArray[np.float32], actual: Floats, alphas: Sequence[float]) -> Floats:
    quantiles = np.quantile(futures, alphas, axis=-1)  # [A, D, H]
    return np.stack(
        [
            mean_pinball(actual, quantile, alpha)
            for quantile, alpha in zip(quantiles, alphas, strict=True)
        ],
        axis=-1,
    )
