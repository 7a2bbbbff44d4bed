"""One tenant's rows of the stored tables, as several parts of an explanation need them.

What belongs here: reading them; of a sharded table only the tenant's own part. What does not: what
is shown of them (`numbers`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import Role


@dataclass(frozen=True)
class Scored:
    """The latest request of a tenant that is stored with its evidence."""

    request_id: int
    role: Role
    time: Any
    requests: Requests


class Tenant:
    """One tenant of a fleet."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.row = fleet.manifest.row(number, named=True)
        self.tier = str(self.row["tier"])

    @cached_property
    def upcoming(self) -> Requests:
        """The request that the recommendations answer."""
        from tsfm_pipeline.steps.live import next_requests

        return next_requests(self.fleet, [self.number])

    @property
    def fold(self) -> int:
        """The test fold whose search answers the tenant."""
        return int(self.upcoming.frame["fold"][0])

    @cached_property
    def policy(self) -> Any:
        """The policy of that fold."""
        from tsfm_pipeline.steps.evidence import read_policies

        return read_policies(self.fleet)[self.fold]

    @cached_property
    def configs(self) -> list[str]:
        return [config.name for config in self.fleet.configs]

    @cached_property
    def fixed(self) -> str:
        """The best fixed configuration of that fold at the tenant's tier."""
        from tsfm_pipeline.steps.policies import read_shared_choices

        choices = read_shared_choices(self.fleet)[self.fold].tiers[self.tier]
        return self.configs[choices.fixed_config]

    @cached_property
    def reservations(self) -> list[dict[str, Any]]:
        """The tenant's recommendations, in table order. Raises `LakeError` if there are none."""
        tables = self.fleet.tables
        parts = [self.number // self.fleet.settings.shard_tenants]
        if len(tables.parts("recommendations")) == 1:
            parts = [0]
        rows = tables.scan("recommendations", *parts).filter(pl.col("tenant_number") == self.number)
        return rows.collect().to_dicts()

    @cached_property
    def tested(self) -> Requests:
        """The tenant's test requests; none for a tuning tenant."""
        return self.fleet.arrays.requests("test", only=[self.number])

    @cached_property
    def scored(self) -> Scored | None:
        """The latest valid request with evidence: a test request, or else a tuning request."""
        roles: tuple[Role, ...] = ("test", "tuning")
        for role in roles:
            requests = self.fleet.arrays.requests(role, only=[self.number])
            latest = requests.frame.filter("valid").sort("origin_step").tail(1)
            if latest.height:
                row = latest.row(0, named=True)
                return Scored(row["request_id"], role, row["origin_time"], requests)
        return None

    def scored_rows(self, table: str) -> pl.DataFrame:
        """Return a table's rows of the scored request, from the tenant's own part."""
        assert self.scored is not None
        rows = self.fleet.arrays.rows(table, self.scored.requests)
        return rows.filter(pl.col("request_id") == self.scored.request_id).collect()

    @cached_property
    def heard_offsets(self) -> list[int]:
        """The validation origins of the scored request that count beside the fleet's known events,
        in steps before it.
        """
        assert self.scored is not None
        from tsfm_pipeline.steps.known_events import comparable_origins

        requests = self.scored.requests
        counts = comparable_origins(self.fleet, requests)
        row = requests.ids.ravel().tolist().index(self.scored.request_id)
        return [o for o, counted in zip(self.fleet.offsets, counts[row], strict=True) if counted]

    @cached_property
    def decided(self) -> dict[str, dict[str, Any]]:
        """What the search decided at the scored test request, at the tenant's tier, by metric;
        empty for a tenant that is never tested.
        """
        if self.scored is None or self.scored.role != "test":
            return {}
        rows = self.scored_rows("autoresearch_forecasts").filter(pl.col("tier") == self.tier)
        kept = rows.select("metric", "shift", "weights", "posterior")
        return {row["metric"]: row for row in kept.iter_rows(named=True)}

    def constants(self, *methods: str) -> pl.DataFrame:
        """Return the scores of constants at the tenant's valid test requests, at its own tier."""
        if not self.tested.ids.size:
            return pl.DataFrame()
        valid = self.tested.frame.filter("valid").select("request_id", "origin_step")
        rows = self.fleet.arrays.rows("recommendation_scores", self.tested)
        wanted = pl.col("method").is_in(methods) & (pl.col("tier") == self.tier)
        return rows.filter(wanted).collect().join(valid, on="request_id", maintain_order="left")
