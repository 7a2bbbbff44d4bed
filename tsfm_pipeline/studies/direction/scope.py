"""The study's scope: markets, one for each YAML file.

What belongs here: opening a market, what decides its tables, and its tables as arrays. What does
not: the records of its tables (`tables`), making them (`making`), reading its source (`sources`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import NO_RUN
from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.scopes import open_tables
from tsfm_pipeline.catalogue.shards import WHOLE
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.problem import Problem
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.spec import MarketSpec, market_files
from tsfm_pipeline.studies.direction.tables import MARKET, SCORE_TABLES, TABLES


@dataclass(frozen=True)
class MarketContext:
    """Everything that the fingerprint of a market's table may depend on besides its inputs."""

    spec: MarketSpec
    source_fingerprint: str
    checkpoint_digest: str
    dtype: str


class Market:
    """One market under given settings; implements `catalogue.scopes.Member`."""

    def __init__(self, settings: Settings, name: str, run_id: str = NO_RUN) -> None:
        self.settings = settings
        self.name = name
        self.run_id = run_id

    @cached_property
    def spec(self) -> MarketSpec:
        """The market's file. Raises ValueError, with the known names, if there is none."""
        return market_files(self.settings).spec(self.name)

    @cached_property
    def context(self) -> MarketContext:
        return MarketContext(
            self.spec,
            self.spec.source_fingerprint,
            checkpoint_digest(self.settings.checkpoint),
            self.settings.dtype,
        )

    @cached_property
    def tables(self) -> FleetLake:
        return open_tables(self.settings, MARKET, self.name, TABLES, self.context)

    def prepare(self, log: Callable[[str], Any]) -> None:
        """Do nothing: a market has no files besides its tables and reports."""

    @property
    def reports_dir(self) -> Path:
        """The folder of the market's report."""
        return self.settings.reports_dir / f".{MARKET}" / self.name

    @cached_property
    def bars(self) -> Bars:
        """The stored prices."""
        stored = self.tables.read("market_prices").sort("day")
        named = {
            group: {
                name.removeprefix(prefix): stored[name].to_numpy()
                for name in stored.columns
                if name.startswith(prefix)
            }
            for group, prefix in (("covariates", "covariate_"), ("given", "given_"))
        }
        return Bars(
            dates=stored["date"].to_numpy().astype("datetime64[D]"),
            open=stored["open"].to_numpy(),
            high=stored["high"].to_numpy(),
            low=stored["low"].to_numpy(),
            close=stored["close"].to_numpy(),
            volume=stored["volume"].to_numpy(),
            covariates=named["covariates"],
            given=named["given"],
        )

    @cached_property
    def problem(self) -> Problem:
        """The problem that every scorer of the market solves."""
        return build_problem(self.bars, self.spec.study)

    def scores(self) -> pl.DataFrame:
        """Return the scores of all groups that take part."""
        return pl.concat(
            [self.tables.read(SCORE_TABLES[group]) for group in self.spec.study.scorers]
        )


class MarketScope:
    """Markets; implements `catalogue.scopes.Scope`."""

    name = MARKET
    opener = f"{__name__}:Market"

    def partitions(self, settings: Settings) -> Sequence[str]:
        """Return the names of the markets whose files can be read."""
        return list(market_files(settings).readable()[0])

    def open(self, settings: Settings, name: str, run_id: str = NO_RUN) -> Market:
        """Open a market. Raises ValueError, with the known names, when it is first used if there is
        none of that name.
        """
        return Market(settings, name, run_id)

    def dimension(self, market: Market, name: str) -> Sequence[Any]:
        """Return the entries of a dimension: covariate, given or feature."""
        entries: dict[str, Callable[[], Sequence[Any]]] = {
            "covariate": lambda: market.spec.covariate_names,
            "given": lambda: market.spec.given_names,
            "feature": lambda: market.problem.feature_names,
        }
        return entries[name]()

    def shards(self, market: Market, table: Table) -> Sequence[Sequence[int]]:
        """Return one shard: a market's tables are made whole."""
        return WHOLE

    def provenance(self, market: Market) -> Mapping[str, Any]:
        """Return the digest of the checkpoint under which the market's tables were made."""
        return {"checkpoint_sha256": market.context.checkpoint_digest}


SCOPE = MarketScope()


def as_flags(values: Any) -> pl.Series:
    """Return labels float64 [T] (1, 0, NaN) as flags; null where not known."""
    return pl.Series(np.asarray(values)).fill_nan(None).cast(pl.Boolean)
