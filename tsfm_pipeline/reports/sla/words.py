"""The SLA report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures
themselves (`numbers`), drawings (`figures`).
"""

from tsfm_pipeline.reports.shared.answer import Answer, Effect
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    interval,
    number,
    percent,
    percent_interval,
    ratio_interval,
    tier_label,
    whole,
)
from tsfm_pipeline.reports.sla.model import SlaReport


def sla_answer(report: SlaReport) -> Answer:
    """Say whether the tiers get different forecasts, with violations near their target."""
    if not report.table_tiers:
        return Answer("unknown", "The tiers were not compared.")
    effect: Effect = "unknown"
    sentence = "Whether the tiers' reservations differ was not measured"
    if steps := report.table_steps:
        separated = all(step.difference.low > 0 for step in steps)
        effect = "gain" if separated else "null"
        pairs = ", ".join(
            f"{step.higher_tier} over {step.lower_tier} {number(step.difference.figure)}"
            for step in steps
        )
        sentence = (
            f"Reservations are ordered {' > '.join(report.alphas)}, every step beyond its "
            f"interval ({pairs} scale units)"
            if separated
            else f"Reservations are not separated at every step ({pairs} scale units)"
        )
    violations = ", ".join(
        f"{row.tier} {percent(row.violation_rate.figure)} (target "
        f"{percent(row.violation_rate_target)})"
        for row in report.table_tiers
    )
    return Answer(
        effect, f"{sentence}. Demand exceeded the reservation in {violations} of the steps."
    )


def tiers(report: SlaReport) -> Table:
    """Return what each tier reserves, and how often demand exceeds it."""
    cells = tuple(
        (
            tier_label(row.tier, row.alpha),
            interval(*row.mean_scaled_decision),
            percent_interval(*row.violation_rate),
            percent(row.violation_rate_target),
            number(row.mean_scaled_slack),
            number(row.mean_scaled_shortfall),
            whole(row.n_requests),
        )
        for row in report.table_tiers
    )
    columns = (
        "tier (price ratio)",
        "mean reservation",
        "violations",
        "target",
        "slack",
        "shortfall",
        "requests",
    )
    return Table("The tiers", columns, cells)


def cross(report: SlaReport) -> Table:
    """Return the cost of serving a tier with another tier's forecast, relative to its own."""
    ratios = {(row.scored_tier, row.forecast_tier): row.ratio for row in report.table_cross}
    names = list(report.alphas) if ratios else []
    cells = tuple(
        (
            f"priced as {scored}",
            *(ratio_interval(*ratios.get((scored, forecast), Estimate())) for forecast in names),
        )
        for scored in names
    )
    columns = ("", *(f"forecast of {forecast}" for forecast in names))
    return Table("A tier served with another tier's forecast: cost ratio", columns, cells)


def steps(report: SlaReport) -> Table:
    """Return how much more a tier reserves than the next lower one."""
    cells = tuple(
        (f"{row.higher_tier} over {row.lower_tier}", interval(*row.difference))
        for row in report.table_steps
    )
    return Table("Difference of mean reservations", ("tiers", "scale units"), cells)
