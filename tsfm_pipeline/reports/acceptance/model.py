"""The figures of the acceptance criteria and of the ledger.

What belongs here: their names, units and meanings. What does not: verdicts (`criteria`), recording
and reading (`ledger`, `numbers`), wording (`words`) and drawing (`figures`).
"""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.reports.shared.model import (
    Estimate,
    Figures,
    Number,
    Report,
    group,
    item,
    table,
)

Verdict = Literal["PASS", "FAIL", "NULL", "N/A"]


class Criterion(Figures):
    """One judged criterion."""

    id: str = item("", "C1 to C10")
    title: str = item("", "what is asked")
    target: str = item("", "what is to be reached")
    reached: Estimate = item(
        "as the title says", "what was reached", key="figure", limits=("low", "high")
    )
    verdict: Verdict = item("", "PASS, FAIL, NULL or N/A")
    note: str = item("", "how it was judged")


class CriteriaReport(Report):
    """Which of the criteria C1 to C10 this fleet meets."""

    n_pass: int = item("count", "criteria with this verdict: pass")
    n_fail: int = item("count", "criteria with this verdict: fail")
    n_null: int = item("count", "criteria with this verdict: null")
    n_na: int = item("count", "criteria with this verdict: na")
    table_criteria: tuple[Criterion, ...] = table()


class LedgerFigures(Figures):
    """The headline's figures of one tier, as they were measured."""

    ratio: Estimate = item("ratio", "as in headline_report")
    win_rate: Number = item("share", "as in headline_report")
    p_value: Number = item("share", "as in headline_report")
    mean_loss_fixed: Number = item("units of the scale", "as in headline_report")
    mean_loss_search: Number = item("units of the scale", "as in headline_report")


class LedgerOfTier(LedgerFigures):
    """The same figures and the configuration to beat; NaN and None in rows of runs without this
    tier.
    """

    fixed_config: str | None = item("", "as in headline_report")


class LedgerRow(Figures):
    """One materialisation. Columns that only other releases wrote are kept unchanged."""

    model_config = ConfigDict(frozen=True, extra="allow")

    time: datetime = item("", "when it was recorded, UTC")
    git_commit: str | None = item(
        "", "of the code, with + where files differed; null outside of git"
    )
    fleet: str = item("", "the fleet's name")
    profile: str = item("", "full or cheap")
    settings_hash: str = item("", "digest of the settings of search and evaluation")
    checkpoint: str = item("", "name of the model")
    checkpoint_sha256: str = item("", "digest of its weights")
    scores_fingerprint: str = item("", "of the scores that it measured")
    constants: tuple[str, ...] | None = item("", "the search's policies as JSON, one per test fold")
    n_requests: int | None = item("count", "test requests")
    n_invalid_requests: int | None = item("count", "of these, cannot be forecast or scored")
    tiers: dict[str, LedgerOfTier] = group("<tier>")


class LedgerReport(Report):
    """What was measured when, with which code, settings and checkpoint.

    The figures outside of the table are those of the latest row.
    """

    n_materialisations: int = item("count", "rows of the ledger; the table holds the last ten")
    n_requests: int | None = item("count", "test requests")
    n_invalid_requests: int | None = item("count", "of these, cannot be forecast or scored")
    tiers: dict[str, LedgerFigures] = group("<tier>")
    table_ledger: tuple[LedgerRow, ...] = table()

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)
