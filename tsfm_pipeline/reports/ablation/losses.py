"""The losses that the ablation report compares: of every method and replay, by tier and group.

What belongs here: reading and grouping losses. What does not: comparing them (`comparison`,
`numbers`), deciding again with something taken away (`replays`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.steps.headline import per_request, series_losses

MOST_TENANTS_LISTED = 30


@dataclass(frozen=True)
class Grouping:
    """The losses of one scope: `scope` names it, and each (tier, group) has a frame per method."""

    scope: str
    frames: dict[tuple[str, str], dict[str, pl.DataFrame]]


def every_request(fleet: Fleet, by_metric: bool = False) -> pl.DataFrame:
    """Return `per_request` of all losses, or the losses by metric with `by_metric`.

    Unless `by_metric` is set, memory holds the losses by metric of only some methods at a time.
    """
    batches = (some for tier in sorted(fleet.protocol.tiers) for some in series_losses(fleet, tier))
    return pl.concat([some if by_metric else per_request(some) for some in batches])


def by_group(fleet: Fleet, overall: pl.DataFrame) -> Grouping:
    """Return losses by archetype; without known archetypes by tenant if there are few, else by
    metric.

    One tenant's losses are compared series by series, and its interval resamples its series (in
    place of tenants) and days.
    """
    tiers = list(fleet.protocol.tiers)
    if (overall["archetype"] != "").any():
        known = overall.filter(pl.col("archetype") != "").rename({"archetype": "group"})
        return Grouping("archetype", by_method(known, tiers))
    by_metric = every_request(fleet, by_metric=True)
    if by_metric["tenant_number"].n_unique() > MOST_TENANTS_LISTED:
        return Grouping(
            "metric", by_method(by_metric.with_columns(pl.col("metric").alias("group")), tiers)
        )
    names = pl.Series(fleet.manifest["tenant_id"].to_list(), dtype=pl.String)
    series = pl.col("metric").rank("dense").cast(pl.Int32).alias("tenant_number")
    named = by_metric.with_columns(names.gather(by_metric["tenant_number"]).alias("group"), series)
    return Grouping("tenant", by_method(named, tiers))


def by_method(
    table: pl.DataFrame, tiers: Sequence[str]
) -> dict[tuple[str, str], dict[str, pl.DataFrame]]:
    """Return {(tier, group): {method: losses}}, in the order of the tiers."""
    frames: dict[tuple[str, str], dict[str, pl.DataFrame]] = {}
    for (tier, group, method), frame in table.partition_by(
        "tier", "group", "method", as_dict=True, maintain_order=True
    ).items():
        frames.setdefault((tier, group), {})[method] = frame
    return {
        key: frames[key] for key in sorted(frames, key=lambda key: (tiers.index(key[0]), key[1]))
    }


def per_replay(rows: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    """Return replayed losses as means over a request's metrics, on the requests and metrics in the
    scores of a method.
    """
    joined = rows.join(scored.select("request_id", "metric", "day"), on=["request_id", "metric"])
    means = joined.group_by("tier", "method", "request_id").agg(
        pl.col("scaled_loss").mean(), pl.col("tenant_number", "day").first()
    )
    return means.sort("tier", "method", "request_id")


def replays_of(replayed: pl.DataFrame, tier: str) -> dict[str, pl.DataFrame]:
    """Return {replay: losses} at one tier."""
    own = replayed.filter(pl.col("tier") == tier)
    return {
        str(name): frame
        for (name,), frame in own.partition_by("method", as_dict=True, maintain_order=True).items()
    }
