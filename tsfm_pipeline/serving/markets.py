"""Who is served: the tenants and metrics of the fleet behind a bundle.

What belongs here: telling from a market's name whether it is a series of the fleet, and what is
known of it then. What does not: the fleet's telemetry and tables, which a server does not have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.evaluation.limits import Bounds

UNBOUNDED: Bounds = (None, None)


def _nothing_more(horizon: int) -> int:
    return 0


@dataclass(frozen=True, eq=False)
class Markets:
    """The series of one fleet; of no fleet by default, so that every market is unmatched.

    bounds: of each metric, in the order of the fleet's metrics. step_minutes: the fleet's time
    step. lookback: how many steps of history the fleet's configuration looks at for a horizon; it
    applies to series on the fleet's time step.
    """

    tenants: frozenset[str] = frozenset()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    step_minutes: float | None = None
    seasons: tuple[int, ...] = ()
    lookback: Callable[[int], int] = _nothing_more

    @classmethod
    def of(
        cls,
        bundle: SearchBundle | None,
        lookback: Callable[[int], int] = _nothing_more,
    ) -> Self:
        """Return the series of the bundle's fleet: all tenants that tuned or test one of its
        searches. None gives no series.
        """
        if bundle is None:
            return cls()
        searches = (bundle.live, *bundle.folds.values())
        known = (ids for one in searches for ids in (one.tenants, one.priors.tenant_ids))
        return cls(
            frozenset(str(tenant) for ids in known for tenant in ids),
            {metric: bundle.facts.bounds[metric] for metric in bundle.facts.metrics},
            bundle.facts.step_minutes,
            bundle.facts.seasons,
            lookback,
        )

    def metric_of(self, market_id: str) -> tuple[str, str] | None:
        """Return tenant and metric of `tenant/metric`; None for a market outside of the fleet.

        Tenants and metrics may have slashes in their own names.
        """
        for metric in self.bounds:
            tenant = market_id.removesuffix(f"/{metric}")
            if tenant != market_id and tenant in self.tenants:
                return tenant, metric
        return None

    def segments_of(self, market_id: str) -> dict[str, str]:
        """Return the metric of a market, if it is one of the fleet's."""
        matched = self.metric_of(market_id)
        return {} if matched is None else {"metric": matched[1]}

    def steps_back(self, freq: float, horizon: int) -> int:
        """Return the steps of history that the fleet's configuration looks at, 0 on another time
        step; freq: minutes per step.
        """
        return self.lookback(horizon) if freq == self.step_minutes else 0
