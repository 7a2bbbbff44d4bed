"""The SLA report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures themselves (`numbers`), drawings (`figures`).
"""

from tsfm_pipeline.reports.shared.answer import Answer, Effect, Report
from tsfm_pipeline.reports.shared.table import Table, percent_row, rows_of
from tsfm_pipeline.reports.shared.wording import figure_of, interval, number, percent, row_ratio, tier_label, tiers_in, whole


def sla_answer(report: Report) -> Answer:
    """Do the tiers get different forecasts, and violations near their target?"""
    rows = {row.get("tier"): row for row in report.get("table_tiers") or []}
    if not rows:
        return Answer("unknown", "The tiers were not compared.")
    steps = report.get("table_steps") or []
    separated = [figure_of(step, "low") > 0 for step in steps]
    effect: Effect = "unknown"
    sentence = "Whether the tiers' reservations differ was not measured"
    if steps:
        effect = "gain" if all(separated) else "null"
        names = " > ".join(tiers_in([str(tier) for tier in rows]))
        pairs = ", ".join(
            f"{step.get('higher_tier')} over {step.get('lower_tier')} {number(figure_of(step, 'difference'))}" for step in steps
        )
        sentence = (
            f"Reservations are ordered {names}, every step beyond its interval ({pairs} scale units)"
            if all(separated)
            else f"Reservations are not separated at every step ({pairs} scale units)"
        )
    violations = ", ".join(
        f"{tier} {percent(figure_of(rows[tier], 'violation_rate'))} (target {percent(figure_of(rows[tier], 'violation_rate_target'))})"
        for tier in tiers_in([str(tier) for tier in rows])
    )
    return Answer(effect, f"{sentence}. Demand exceeded the reservation in {violations} of the steps.")


def tiers(report: Report) -> Table:
    """What each tier reserves, and how often demand exceeds it."""
    cells = tuple(
        (
            tier_label(str(row.get("tier"))),
            interval(*(figure_of(row, key) for key in ("mean_scaled_decision", "low", "high"))),
            percent_row(row, "violation_rate"),
            percent(figure_of(row, "violation_rate_target")),
            number(figure_of(row, "mean_scaled_slack")),
            number(figure_of(row, "mean_scaled_shortfall")),
            whole(row.get("n_requests")),
        )
        for row in rows_of(report, "table_tiers")
    )
    columns = ("tier (price ratio)", "mean reservation", "violations", "target", "slack", "shortfall", "requests")
    return Table("The tiers", columns, cells)


def cross(report: Report) -> Table:
    """The cost of serving one tier with another's forecast, relative to its own forecast."""
    rows = rows_of(report, "table_cross")
    scored = tiers_in([str(row.get("scored_tier")) for row in rows])
    forecast = tiers_in([str(row.get("forecast_tier")) for row in rows])
    by_key = {(row.get("scored_tier"), row.get("forecast_tier")): row for row in rows}
    cells = tuple((f"priced as {s}", *(row_ratio(by_key.get((s, f), {})) for f in forecast)) for s in scored)
    return Table("A tier served with another tier's forecast: cost ratio", ("", *(f"forecast of {f}" for f in forecast)), cells)


def steps(report: Report) -> Table:
    """How much more a tier reserves than the next lower one."""
    cells = tuple(
        (
            f"{row.get('higher_tier')} over {row.get('lower_tier')}",
            interval(*(figure_of(row, key) for key in ("difference", "low", "high"))),
        )
        for row in rows_of(report, "table_steps")
    )
    return Table("Difference of mean reservations", ("tiers", "scale units"), cells)
