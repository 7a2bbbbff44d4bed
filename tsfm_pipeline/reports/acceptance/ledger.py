"""The ledger: what was measured when, with which code, settings and checkpoint.

What belongs here: one row per materialisation, and the report on all rows. What does not: verdicts
(`criteria`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tsfm_pipeline import __version__
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.records import LEDGER, RecordTable
from tsfm_pipeline.distribution import commit
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.reports.acceptance import criteria
from tsfm_pipeline.reports.acceptance.model import (
    LedgerFigures,
    LedgerOfTier,
    LedgerReport,
    LedgerRow,
)
from tsfm_pipeline.reports.shared.files import read_report

_TIER_FIGURES: dict[str, Any] = {
    **dict.fromkeys(("ratio", "ratio_low", "ratio_high", "win_rate", "p_value"), pl.Float64),
    **dict.fromkeys(("mean_loss_fixed", "mean_loss_search"), pl.Float64),
    "fixed_config": pl.String,
}


def ledger_schema(tiers: Iterable[str]) -> dict[str, Any]:
    """Return the columns of every row of the ledger; null where an earlier release did not have
    them.
    """
    return {
        "time": pl.Datetime("us", "UTC"),
        **dict.fromkeys(
            ("version", "git_commit", "fleet", "profile", "settings_hash", "checkpoint"), pl.String
        ),
        **dict.fromkeys(("checkpoint_sha256", "scores_fingerprint"), pl.String),
        "constants": pl.List(pl.String),
        **dict.fromkeys(("n_requests", "n_invalid_requests"), pl.Int64),
        **{f"{tier}_{name}": dtype for tier in tiers for name, dtype in _TIER_FIGURES.items()},
        **{f"verdict_{name}": pl.String for name in criteria.CRITERIA},
    }


def ledger_row(fleet: Fleet) -> dict[str, Any]:
    """Return the record of one materialisation: time, code, settings, checkpoint, and the headline
    figures.
    """
    headline, accepted = (
        read_report(fleet, "headline_report"),
        read_report(fleet, "acceptance_criteria"),
    )
    return {
        "time": datetime.now(UTC).replace(microsecond=0),
        "version": __version__,
        "git_commit": commit(),
        "fleet": fleet.name,
        "profile": fleet.settings.profile,
        "settings_hash": fingerprint(
            fleet.settings.search.parameters(),
            fleet.settings.evaluation.model_dump(mode="json"),
        ),
        "checkpoint": fleet.settings.checkpoint,
        "checkpoint_sha256": fleet.context.checkpoint_digest,
        "scores_fingerprint": fleet.tables.expected["headline_scores"],
        "constants": fleet.tables.read("search_policy")["policy"].to_list(),
        "n_requests": headline["n_requests"],
        "n_invalid_requests": headline["n_invalid_requests"],
        **{
            f"{tier}_{name}": headline[f"{tier}_{name}"]
            for tier in fleet.protocol.tiers
            for name in _TIER_FIGURES
        },
        **{f"verdict_{row['id']}": row["verdict"] for row in accepted["table_criteria"]},
    }


def append_to_ledger(fleet: Fleet) -> pl.DataFrame:
    """Append this materialisation's row to the record table `experiment_ledger`; return all rows,
    this one last.

    Raises `StorageError` if an earlier row cannot be read, and then appends nothing.
    """
    table = ledger(fleet)
    table.read()
    table.append(pl.DataFrame([ledger_row(fleet)]))
    return table.read()


def ledger(fleet: Fleet) -> RecordTable:
    """Return the record table `experiment_ledger`: one row per materialisation."""
    return RecordTable(fleet.records_dir / LEDGER, ledger_schema(fleet.protocol.tiers))


def ledger_report(fleet: Fleet) -> LedgerReport:
    """Append this materialisation to the ledger, and return its figures and the last ten rows."""
    measured = append_to_ledger(fleet)
    rows = LedgerRow.from_rows(measured.tail(10))
    latest = rows[-1]
    return LedgerReport(
        fleet=fleet.name,
        n_materialisations=measured.height,
        n_requests=latest.n_requests,
        n_invalid_requests=latest.n_invalid_requests,
        tiers={tier: _figures(latest.tiers[tier]) for tier in fleet.protocol.tiers},
        table_ledger=rows,
    )


def _figures(own: LedgerOfTier) -> LedgerFigures:
    return LedgerFigures(**own.model_dump(exclude={"fixed_config"}))
