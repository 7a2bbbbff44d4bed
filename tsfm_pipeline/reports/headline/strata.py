"""What the answers rest on: how many test requests have a full, a shortened or no usable history,
and what the search costs on each.

What belongs here: the strata's figures, sentence and table. What does not: which request belongs to
which stratum (`evaluation.requests.request_bases`).
"""

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import FIXED, LAST_VALUE_CHANGE_QUANTILES, SEARCH
from tsfm_pipeline.evaluation.requests import BASES
from tsfm_pipeline.reports.headline.model import HeadlineReport, StratumRow
from tsfm_pipeline.reports.shared.headroom import losses_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    count,
    method_label,
    number,
    percent,
    ratio_interval,
    whole,
)
from tsfm_pipeline.steps.headline import compared, per_request, request_losses

SIMPLE = (FIXED, LAST_VALUE_CHANGE_QUANTILES)
"""The search's cost on a stratum stands beside the better of these."""


def strata(fleet: Fleet, requests: pl.DataFrame) -> tuple[StratumRow, ...]:
    """Return the search's cost per tier and stratum beside the cheaper of the fixed configuration
    and the last value with quantiles of its changes; `requests` are the test requests.
    """
    draws = fleet.settings.evaluation.group_bootstrap
    basis = requests.select("request_id", "basis")
    losses = per_request(request_losses(fleet, [SEARCH, *SIMPLE])).join(
        basis, on="request_id", how="left", maintain_order="left"
    )
    n_asked = max(1, requests.height)
    rows = []
    for tier in fleet.protocol.tiers:
        for stratum in BASES:
            own = losses.filter(pl.col("basis") == stratum)
            search, *rivals = (losses_of(own, tier, name) for name in (SEARCH, *SIMPLE))
            if not search.height:
                continue
            cheapest = min(range(len(SIMPLE)), key=lambda i: _mean(rivals[i]))
            interval = compared(search, rivals[cheapest], "scaled_loss", **draws)
            n_requests = int((requests["basis"] == stratum).sum())
            rows.append(
                StratumRow(
                    tier=tier,
                    basis=stratum,
                    n_requests=n_requests,
                    share=n_requests / n_asked,
                    n_tenants=search["tenant_number"].n_unique(),
                    mean_loss_search=_mean(search),
                    rival=SIMPLE[cheapest],
                    mean_loss_rival=_mean(rivals[cheapest]),
                    ratio=Estimate(interval.ratio, interval.low, interval.high),
                )
            )
    return tuple(rows)


def _mean(losses: pl.DataFrame) -> float:
    """Return the mean scaled loss over the requests that were answered, inf where none was."""
    answered = losses["scaled_loss"].drop_nans()
    return float(answered.mean()) if len(answered) else float("inf")  # type: ignore[arg-type]


def strata_point(report: HeadlineReport) -> tuple[str, str]:
    """Say how many test requests were answered, and on what history."""
    n_answered = report.n_requests - report.n_invalid_requests
    parts = [
        f"{_label(row.basis)} {whole(row.n_requests)} ({percent(row.share)})"
        for row in _of_headline_tier(report)
    ]
    sentence = (
        f"{whole(n_answered)} of {count(report.n_requests, 'test request')} could be asked"
        f"{': ' if parts else ''}{', '.join(parts)}."
    )
    if report.n_invalid_requests:
        sentence += " The others are counted with their reasons under data quality."
    return "Answered", sentence


def strata_table(report: HeadlineReport) -> Table:
    """Return the search's cost per stratum and tier beside the better simple method's."""
    rows = tuple(
        (
            row.tier,
            _label(row.basis),
            f"{whole(row.n_requests)} ({percent(row.share)})",
            whole(row.n_tenants),
            number(row.mean_loss_search),
            f"{method_label(row.rival)} {number(row.mean_loss_rival)}",
            ratio_interval(*row.ratio),
        )
        for row in report.table_strata
    )
    columns = (
        "tier",
        "history",
        "test requests",
        "tenants",
        "cost of the search",
        "cost of the better simple method",
        "ratio, search to that",
    )
    return Table(
        "What the answers rest on: full history, shortened by a gap or a late start, or cold "
        "(nothing of the tenant's own past can be validated)",
        columns,
        rows,
    )


def _of_headline_tier(report: HeadlineReport) -> list[StratumRow]:
    return [row for row in report.table_strata if row.tier == report.headline_tier]


def _label(basis: str) -> str:
    return {"full": "full history"}.get(basis, basis)
