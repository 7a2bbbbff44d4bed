"""The records of promotions: every verdict, and every look at test tenants.

What belongs here: the two record tables, and writing and reading them as models. What does not:
reaching a verdict (`promotion`), taking a look (`final_look`).
"""

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.catalogue.records import RecordTable
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.tables import FOLDER
from tsfm_pipeline.studies.policy_search.verdict import Verdict

PROMOTIONS_SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("us", "UTC"),
    "promotion": pl.String,
    "yardstick": pl.String,
    "experiment": pl.String,
    "commit": pl.String,
    "policy": pl.String,
    "replaced": pl.String,
    "promoted": pl.Boolean,
    "reasons": pl.String,
    "n_experiments": pl.Int64,
    "confidence": pl.Float64,
    "p95_ms": pl.Float64,
    "changes": pl.String,
    "replaced_changes": pl.String,
    "verdict": pl.String,
}
"""Columns of `promotions`: one row per verdict. promotion: 16 random hex digits. policy, replaced:
digests of the challenger and of the policy that it would replace; changes, replaced_changes: their
fields as JSON. reasons: one per line. verdict: the `Verdict` as JSON, with every interval."""

LOOKS_SCHEMA: dict[str, Any] = {
    "time": pl.Datetime("us", "UTC"),
    "promotion": pl.String,
    "yardstick": pl.String,
    "policy": pl.String,
    "replaced": pl.String,
    "fleet": pl.String,
    "tier": pl.String,
    "group": pl.String,
    "ratio": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "loss": pl.Float64,
    "loss_replaced": pl.Float64,
    "n_requests": pl.Int64,
    "n_tenants": pl.Int64,
    "n_days": pl.Int64,
    "n_failed": pl.Int64,
}
"""Columns of `final_looks`: all rows of one promotion are one look. Other columns as in `Look`."""


class Look(BaseModel):
    """What one look at the test tenants of a fleet found at one tier, for all of them (group "") or
    for one archetype.

    ratio: the promoted policy's summed scaled loss / that of the policy which it replaced, with the
    two-way 95 % interval over tenants and days; below 1 is cheaper. loss, loss_replaced: means over
    requests. n_failed: requests at which one of the two has no forecast of some metric; it then
    costs as much as the worst configuration of both there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    fleet: str
    tier: str
    group: str = ""
    ratio: float
    low: float
    high: float
    loss: float
    loss_replaced: float
    n_requests: int
    n_tenants: int
    n_days: int
    n_failed: int


class Promotion(BaseModel):
    """One verdict on a policy that was kept, and the look that followed if it was promoted.

    experiment, commit: of the ledger's line. promotion: 16 random hex digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    promotion: str = Field(default_factory=lambda: secrets.token_hex(8))
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    yardstick: str
    experiment: str
    commit: str
    policy: Policy
    replaced: Policy
    verdict: Verdict
    looks: tuple[Look, ...] = ()

    @property
    def promoted(self) -> bool:
        """Whether the policy replaced the other."""
        return self.verdict.promoted


class PromotionRecords:
    """The two record tables of a data folder. No run deletes them, and no row is rewritten."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.records_dir / FOLDER
        self._promotions = RecordTable(self.folder / "promotions", PROMOTIONS_SCHEMA)
        self._looks = RecordTable(self.folder / "final_looks", LOOKS_SCHEMA)

    def add(self, promotion: Promotion) -> None:
        """Append a verdict. Raises `StorageError` if the disk is full."""
        verdict = promotion.verdict
        row = {
            "time": promotion.time,
            "promotion": promotion.promotion,
            "yardstick": promotion.yardstick,
            "experiment": promotion.experiment,
            "commit": promotion.commit,
            "policy": promotion.policy.digest,
            "replaced": promotion.replaced.digest,
            "promoted": verdict.promoted,
            "reasons": "\n".join(verdict.reasons),
            "n_experiments": verdict.n_experiments,
            "confidence": verdict.confidence,
            "p95_ms": verdict.p95_ms,
            "changes": promotion.policy.changes,
            "replaced_changes": promotion.replaced.changes,
            "verdict": verdict.model_dump_json(),
        }
        self._promotions.append(pl.DataFrame([row], schema=PROMOTIONS_SCHEMA))

    def add_looks(self, promotion: Promotion, looks: Sequence[Look]) -> None:
        """Append the one look of a promotion. Raises `ValueError` if the promotion has one, or was
        refused.
        """
        if not promotion.promoted:
            raise ValueError(
                f"promotion {promotion.promotion} was refused; only a promoted policy is looked at "
                "on test tenants"
            )
        if promotion.promotion in self.looked_at():
            raise ValueError(
                f"promotion {promotion.promotion} has had its look at the test tenants; there is "
                "one per promotion"
            )
        shared = {
            "time": datetime.now(UTC),
            "promotion": promotion.promotion,
            "yardstick": promotion.yardstick,
            "policy": promotion.policy.digest,
            "replaced": promotion.replaced.digest,
        }
        rows = [{**shared, **look.model_dump()} for look in looks]
        self._looks.append(pl.DataFrame(rows, schema=LOOKS_SCHEMA))

    def promotions(self) -> pl.DataFrame:
        """Return every verdict, oldest first (`PROMOTIONS_SCHEMA`)."""
        return self._promotions.read()

    def looks(self) -> pl.DataFrame:
        """Return the rows of every look, oldest first (`LOOKS_SCHEMA`). Reports show them; no
        driver and no judge reads them.
        """
        return self._looks.read()

    def looked_at(self) -> set[str]:
        """Return the promotions that have had their look at the test tenants."""
        return set(self.looks()["promotion"].to_list())

    def read(self) -> list[Promotion]:
        """Return every verdict with its looks, oldest first."""
        looks = self.looks()
        return [
            _promotion(row, looks.filter(pl.col("promotion") == row["promotion"]))
            for row in self.promotions().iter_rows(named=True)
        ]


def n_looks(settings: Settings) -> int:
    """Return how often test tenants have been looked at. It stands in every report that uses what
    these looks found.
    """
    return len(PromotionRecords(settings).looked_at())


def _promotion(row: dict[str, str], looks: pl.DataFrame) -> Promotion:
    fields = list(Look.model_fields)
    return Promotion(
        **{name: row[name] for name in ("promotion", "time", "yardstick", "experiment", "commit")},
        policy=policy_of(json.loads(row["changes"])),
        replaced=policy_of(json.loads(row["replaced_changes"])),
        verdict=Verdict.model_validate_json(row["verdict"]),
        looks=tuple(Look(**look) for look in looks.select(fields).iter_rows(named=True)),
    )
