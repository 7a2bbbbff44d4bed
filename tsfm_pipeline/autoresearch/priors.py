"""What other tenants' experience says about each configuration, before a request's own evidence is
heard.

What belongs here: fleet-wide and retrieved priors from tuning tenants' losses and violation rates.
What does not: similarity of tenants (`archetypes`), blending with evidence (`rules`,
`calibration`). Axes: N tuning tenants, D metrics, K configurations, A tiers.
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
    """Sums and numbers of known values over the first n tenants and over all from the n-th on, [N +
    1, D, K, A] each.

    The mean of all tenants but one is one addition away, and nothing of that one's is in it, not
    even a rounding error.
    """

    first: Floats
    n_first: NDArray[np.int64]
    rest: Floats
    n_rest: NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats) -> "_Sums":
        """Of values [N, D, K, A]."""
        seen = np.isfinite(values)
        nobody = np.zeros((1, *values.shape[1:]))
        first = np.concatenate([nobody, np.where(seen, values, 0.0)]).cumsum(axis=0)
        rest = np.concatenate([nobody, np.where(seen, values, 0.0)[::-1]]).cumsum(axis=0)[::-1]
        n_first = np.concatenate([nobody.astype(np.int64), seen.astype(np.int64)]).cumsum(axis=0)
        return cls(first, n_first, rest, n_first[-1] - n_first)

    def mean(self, left_out: int | None) -> Floats:
        """Mean over tenants [D, K, A], without the one in row `left_out`, if any; NaN where nothing
        is known.
        """
        if left_out is None:
            total, count = self.first[-1], self.n_first[-1]
        else:
            total = self.first[left_out] + self.rest[left_out + 1]
            count = self.n_first[left_out] + self.n_rest[left_out + 1]
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class TenantExperience:
    """Mean scaled losses and violation rates of the tuning tenants before the test period: both [N,
    D, K, A]; tenant_ids [N].

    Without `violations`, nobody's rates are known (NaN).
    """

    losses: Floats
    tenant_ids: NDArray[np.str_]
    violations: Floats | None = None

    @classmethod
    def from_requests(
        cls, losses: Floats, tenant_ids: NDArray[np.str_], violations: Floats | None = None
    ) -> "TenantExperience":
        """Means over each tenant's requests at which all its configurations have a loss: both [N,
        O, D, K, A], NaN = invalid.
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
        """Each tenant's losses relative to each other [N, D, K, A]."""
        return _relative_over_configs(self.losses)

    @cached_property
    def _share_sums(self) -> _Sums:
        return _Sums.of(self._shares)

    @cached_property
    def _violation_sums(self) -> _Sums:
        assert self.violations is not None, "nobody asks without violations"
        return _Sums.of(self.violations)

    def _row(self, tenant_id: str | None) -> int | None:
        """The row of a tuning tenant that is to be left out; None for any other tenant, and where
        there is no other.
        """
        return None if tenant_id is None or len(self.losses) == 1 else self._rows.get(tenant_id)

    def over(self, positions: Sequence[int | None]) -> "TenantExperience":
        """The same tenants' experience with other configurations: for each its position among the
        present ones, None (unknown) if new.
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
        """Relative loss of each configuration over the tuning tenants [D, K, A], the tenant's own
        entry left out.
        """
        return _relative_over_configs(self._share_sums.mean(self._row(tenant_id)))

    def retrieved_prior(
        self, neighbours: NDArray[np.integer], similarity: Floats, tenant_id: str | None = None
    ) -> Floats:
        """The same over the nearest tuning tenants: row numbers [M] into `losses` with their cosine
        similarities [M].

        Neighbours count by similarity, those below 0 not at all. Where no neighbour that counts has
        a loss, the fleet-wide prior stands, `tenant_id`'s own entry left out.
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
        """Mean violation rate of each configuration over the nearest tuning tenants [D, K, A];
        arguments and fallback as above.
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
    """Mean over tenants [N, D, K, A] -> [D, K, A], weighted by `weight` [N]; of relative losses, so
    that none decides more than others.
    """
    seen = np.isfinite(values)
    weights = seen * weight[:, None, None, None]
    total = weights.sum(axis=0)
    mean = (np.where(seen, values, 0.0) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)


def _relative_over_configs(losses: Floats) -> Floats:
    return np.moveaxis(relative(np.moveaxis(losses, -2, -1)), -1, -2)
