"""Priors: each configuration's losses and violation rates at other tenants.

What belongs here: fleet-wide and retrieved priors from tuning tenants' losses and violation rates.
What does not: similarity of tenants (`archetypes`), blending with evidence (`rules`,
`calibration`).
Axes: N tuning tenants, D metrics, K configurations, A tiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.rules import mean_on_shared_windows, relative

Floats = NDArray[np.floating]


class _Sums(NamedTuple):
    """Sums and counts of known values over the first n tenants and over all from the n-th on,
    [N + 1, D, K, A] each.

    The mean without one tenant takes a single addition. Nothing is subtracted, so that the result
    does not depend on that tenant's values even by a rounding error.
    """

    first: Floats
    n_first: NDArray[np.int64]
    rest: Floats
    n_rest: NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats) -> "_Sums":
        """Return the sums and counts of values [N, D, K, A]."""
        seen = np.isfinite(values)
        zeros = np.zeros((1, *values.shape[1:]))
        first = np.concatenate([zeros, np.where(seen, values, 0.0)]).cumsum(axis=0)
        rest = np.concatenate([zeros, np.where(seen, values, 0.0)[::-1]]).cumsum(axis=0)[::-1]
        n_first = np.concatenate([zeros.astype(np.int64), seen.astype(np.int64)]).cumsum(axis=0)
        return cls(first, n_first, rest, n_first[-1] - n_first)

    def mean(self, left_out: int | None) -> Floats:
        """Return the mean over tenants [D, K, A], without the one in row `left_out`, if any; NaN
        where no value is known.
        """
        if left_out is None:
            total, count = self.first[-1], self.n_first[-1]
        else:
            total = self.first[left_out] + self.rest[left_out + 1]
            count = self.n_first[left_out] + self.n_rest[left_out + 1]
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class TenantExperience:
    """Mean scaled losses and violation rates of the tuning tenants before the test period: both
    [N, D, K, A]; tenant_ids [N].

    If `violations` is None, all rates are unknown (NaN).
    """

    losses: Floats
    tenant_ids: NDArray[np.str_]
    violations: Floats | None = None

    @classmethod
    def from_requests(
        cls, losses: Floats, tenant_ids: NDArray[np.str_], violations: Floats | None = None
    ) -> "TenantExperience":
        """Return the means over each tenant's requests at which all its configurations have a loss:
        losses and violations [N, O, D, K, A], NaN = invalid.
        """
        return cls(
            _mean_over_requests(losses),
            tenant_ids,
            None if violations is None else _mean_over_requests(violations),
        )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {tenant_id: row for row, tenant_id in enumerate(self.tenant_ids.tolist())}

    @cached_property
    def _shares(self) -> Floats:
        """Each tenant's losses relative to their mean over the configurations [N, D, K, A]."""
        return _relative_over_configs(self.losses)

    @cached_property
    def _share_sums(self) -> _Sums:
        return _Sums.of(self._shares)

    @cached_property
    def _violation_sums(self) -> _Sums:
        assert self.violations is not None, "read only where violations are known"
        return _Sums.of(self.violations)

    def _row(self, tenant_id: str | None) -> int | None:
        """Return the row of the tuning tenant to leave out; None for any other tenant, and if there
        is only one tuning tenant.
        """
        return None if tenant_id is None or len(self.losses) == 1 else self._rows.get(tenant_id)

    def over(self, positions: Sequence[int | None]) -> "TenantExperience":
        """Return the same tenants' experience with other configurations: for each its position
        among the present ones, or None if it is new (its experience is then unknown).
        """

        def moved(values: Floats) -> Floats:
            unknown = np.full_like(values[:, :, 0], np.nan)
            return np.stack(
                [unknown if position is None else values[:, :, position] for position in positions],
                axis=2,
            )

        return TenantExperience(
            moved(self.losses),
            self.tenant_ids,
            None if self.violations is None else moved(self.violations),
        )

    def fleet_prior(self, tenant_id: str | None = None) -> Floats:
        """Return the relative loss of each configuration over the tuning tenants [D, K, A], without
        the tenant's own entry.
        """
        return _relative_over_configs(self._share_sums.mean(self._row(tenant_id)))

    def retrieved_prior(
        self, neighbours: NDArray[np.integer], similarity: Floats, tenant_id: str | None = None
    ) -> Floats:
        """Return the relative loss of each configuration over the nearest tuning tenants [D, K, A]:
        row numbers [M] into `losses` with their cosine similarities [M].

        Neighbours are weighted by similarity; a negative similarity counts as 0. Where no neighbour
        with a positive weight has a loss, the fleet-wide prior without `tenant_id` is used.
        """
        retrieved = _relative_over_configs(
            _mean_over_tenants(self._shares[neighbours], np.clip(similarity, 0.0, None))
        )
        unknown = np.isnan(retrieved)
        return (
            np.where(unknown, self.fleet_prior(tenant_id), retrieved)
            if unknown.any()
            else retrieved
        )

    def retrieved_violations(
        self, neighbours: NDArray[np.integer], similarity: Floats, tenant_id: str | None = None
    ) -> Floats:
        """Return the mean violation rate of each configuration over the nearest tuning tenants
        [D, K, A]; arguments and fallback as in `retrieved_prior`.
        """
        if self.violations is None:
            return np.full(self.losses.shape[1:], np.nan)
        retrieved = _mean_over_tenants(self.violations[neighbours], np.clip(similarity, 0.0, None))
        unknown = np.isnan(retrieved)
        if not unknown.any():
            return retrieved
        return np.where(unknown, self._violation_sums.mean(self._row(tenant_id)), retrieved)


def _mean_over_requests(values: Floats) -> Floats:
    """[N, O, D, K, A] -> [N, D, K, A]"""
    mean, _ = mean_on_shared_windows(values.transpose(0, 2, 4, 3, 1))  # [N, D, A, K]
    return mean.swapaxes(-1, -2)


def _mean_over_tenants(values: Floats, weight: Floats) -> Floats:
    """Return the mean over tenants [N, D, K, A] -> [D, K, A], weighted by `weight` [N]."""
    seen = np.isfinite(values)
    weights = seen * weight[:, None, None, None]
    total = weights.sum(axis=0)
    mean = (np.where(seen, values, 0.0) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)


def _relative_over_configs(losses: Floats) -> Floats:
    return np.moveaxis(relative(np.moveaxis(losses, -2, -1)), -1, -2)
