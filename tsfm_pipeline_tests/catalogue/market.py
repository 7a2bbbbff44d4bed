"""Define a throw-away scope that has nothing to do with fleets: a market of two daily price series.

What belongs here: what a study would bring from outside of the package: members, a scope, records
of tables, and the functions that make them. What does not: expectations (`test_scopes`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import polars as pl

from tsfm_pipeline.catalogue.registry import Column, Table, registry
from tsfm_pipeline.catalogue.scopes import open_tables
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.makers import Maker

MARKET = "market"
FIRST_DAY = date(2024, 1, 1)
PRICES: dict[str, dict[str, list[float]]] = {
    "spot": {"wheat": [100.0, 101.0, 99.0], "maize": [50.0, 50.5, 51.0]},
}
LEVELS = ("low", "high")


@dataclass(frozen=True)
class Feed:
    """What parameters of a market's tables may read."""

    source_fingerprint: str
    seed: int


class Market:
    """One market: daily prices of some goods, one shard per good."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.prices = PRICES[name]

    @property
    def context(self) -> Feed:
        digest = hashlib.sha256(repr(self.prices).encode()).hexdigest()
        return Feed(digest, self.settings.evaluation.seed)

    @cached_property
    def tables(self) -> FleetLake:
        return open_tables(self.settings, MARKET, self.name, TABLES, self.context)

    def prepare(self, log: Callable[[str], Any]) -> None:
        """Nothing comes before."""


class Markets:
    """The scope."""

    name = MARKET
    opener = f"{__name__}:Market"

    def partitions(self, settings: Settings) -> Sequence[str]:
        return list(PRICES)

    def open(self, settings: Settings, name: str, run_id: str = "") -> Market:
        return Market(settings, name)

    def dimension(self, market: Market, name: str) -> Sequence[Any]:
        return {"level": LEVELS, "D": range(len(market.prices["wheat"]))}[name]

    def shards(self, market: Market, table: Table) -> Sequence[Sequence[int]]:
        return [[number] for number in range(len(market.prices))]

    def provenance(self, market: Market) -> Mapping[str, Any]:
        return {"first_day": FIRST_DAY.isoformat()}


GOOD = Column("good", pl.String(), "what is traded")
TABLES = registry(
    (
        Table(
            "day_ranges",
            MARKET,
            "prices",
            1,
            question="Between which prices did every good move?",
            row="good",
            inputs=("daily_prices",),
            columns=(
                GOOD,
                Column("{level}_price", pl.Float64(), "the {level} end", "euro"),
                Column("path", pl.Float64(), "price per day", "euro", axis="D"),
            ),
            key=("good",),
            n_rows=lambda market: len(market.prices),
        ),
        Table(
            "daily_prices",
            MARKET,
            "prices",
            1,
            question="What did every good cost, day by day?",
            row="good and day",
            parameters=lambda feed: [feed.source_fingerprint],
            columns=(
                GOOD,
                Column("day", pl.Date(), "the day"),
                Column("price", pl.Float64(), "at its end", "euro"),
            ),
            key=("good", "day"),
            sharded=True,
        ),
    )
)
MAKERS = {
    "daily_prices": Maker(f"{__name__}:daily_prices_shard", describe=f"{__name__}:describe"),
    "day_ranges": Maker(f"{__name__}:day_ranges"),
}


def daily_prices_shard(market: Market, shard: Sequence[int]) -> pl.DataFrame:
    """Make the rows of the goods with these numbers."""
    frames = []
    for good in [list(market.prices)[number] for number in shard]:
        days = [FIRST_DAY + timedelta(days=n) for n in range(len(market.prices[good]))]
        frames.append(pl.DataFrame({"good": good, "day": days, "price": market.prices[good]}))
    return pl.concat(frames)


def day_ranges(market: Market) -> pl.DataFrame:
    """Make one row per good from the stored prices."""
    prices = market.tables.read("daily_prices").sort("good", "day")
    length = len(market.prices["wheat"])
    return (
        prices.group_by("good", maintain_order=True)
        .agg(low_price=pl.col("price").min(), high_price=pl.col("price").max(), path="price")
        .with_columns(pl.col("path").list.to_array(length))
    )


def describe(market: Market) -> dict[str, Any]:
    """Return the goods for people."""
    return {"goods": list(market.prices)}
