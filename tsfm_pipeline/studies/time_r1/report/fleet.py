"""The section about slow thinking on a fleet's page: its figures, sentences and table.

What belongs here: what the section shows and how it is worded. What does not: computing the figures
(`fleet_thinking`), and the study's own report (`sections`).
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.model import Estimate, Figures, Report, item, table
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    interval,
    method_label,
    number,
    percent_interval,
    ratio_interval,
)
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.figures import example_figure
from tsfm_pipeline.studies.time_r1.report.model import ExampleRow

LABEL = "slow thinking"
COMPARED = {SEARCH: "the search", FIXED: "the fixed configuration"}
"""Methods that the first sentence compares slow thinking with."""
AGAIN = (
    "A fleet's tables keep forecasts and no reasons, so these requests were asked about again for "
    "this page."
)


class RivalRow(Figures):
    """One method beside slow thinking, on the requests that slow thinking has a forecast of."""

    method: str = item("", "name of the method")
    wql: Estimate = item("ratio", "its weighted quantile loss")
    mase: Estimate = item("ratio", "its mean absolute scaled error")
    wql_ratio: Estimate = item("ratio", "slow thinking's WQL over it")
    mase_ratio: Estimate = item("ratio", "slow thinking's MASE over it")


class FleetExampleRow(ExampleRow):
    """One forecast of the gallery."""

    time: str = item("", "time of the last known value")


class FleetThinking(Report):
    """What slow thinking did on one fleet."""

    look_back_steps: int = item("steps", "known steps that slow thinking needs")
    n_requests: int = item("count", "valid test requests with a forecast by slow thinking")
    n_requests_without: int = item("count", "valid test requests without one")
    n_again: int = item("count", "forecasts that were made again, one request of each tenant")
    n_tenants_again: int = item("count", "tenants of these")
    gate_rate: Estimate = item("share", "of these, where the gate kept the refined answer")
    mase_over_draft: Estimate = item("ratio", "MASE over that of the drafts, of these")
    n_answers: int = item("count", "answers of the policy in these")
    n_failures: int = item("count", "of the answers, those that could not be used")
    table_rivals: tuple[RivalRow, ...] = table()
    table_gallery: tuple[FleetExampleRow, ...] = table()

    def rival(self, method: str) -> RivalRow | None:
        """Return the row of a method; None if it took no part."""
        return next((row for row in self.table_rivals if row.method == method), None)


def fill(section: Section, content: Mapping[str, Any]) -> None:
    """Fill the section from the report's JSON."""
    report = FleetThinking.from_flat(content)
    section.answer = answer(report)
    if not report.n_requests:
        return
    section.points = points(report)
    section.notes = [AGAIN]
    for row in report.table_gallery:
        section.gallery.append((Markup(to_svg(example_figure(row))), *caption(row)))
    section.show(rivals(report))


def answer(report: FleetThinking) -> str:
    """Say how slow thinking compares with the search and the fixed configuration."""
    if not report.n_requests:
        return (
            f"On {report.fleet}, no request has the {report.look_back_steps} known steps that slow "
            "thinking needs."
        )
    ratios = [
        f"{ratio_interval(*row.wql_ratio)} times that of {title}"
        for method, title in COMPARED.items()
        if (row := report.rival(method)) is not None
    ]
    without = (
        f"; {count(report.n_requests_without, 'further one')} had too little history"
        if report.n_requests_without
        else ""
    )
    return (
        f"On {report.fleet}, over {count(report.n_requests, 'request')}, slow thinking's weighted "
        f"quantile loss is {' and '.join(ratios)}{without}. A small language model is shown a "
        "forecast and what can be found in the history, and corrects it; where its corrections did "
        "not help over the last known steps, the forecast stays as it was."
    )


def points(report: FleetThinking) -> list[tuple[str, str]]:
    """Say what thinking adds to its drafts, how often the gate lets it, and what was unreadable."""
    asked = (
        f"{count(report.n_again, 'forecast')} of {count(report.n_tenants_again, 'tenant')}, one "
        "request each"
    )
    return [
        (
            "Over its draft",
            f"The MASE of {asked}, is {ratio_interval(*report.mase_over_draft)} times that of the "
            "drafts.",
        ),
        (
            "Gate",
            f"The policy's answer is used in {percent_interval(*report.gate_rate)} of these; "
            "everywhere else the forecast is the draft.",
        ),
        (
            "Unusable answers",
            f"{report.n_failures:,} of {report.n_answers:,}; the draft stands for them."
            if report.n_failures
            else f"None of {report.n_answers:,}.",
        ),
    ]


def caption(row: FleetExampleRow) -> tuple[str, str]:
    """Return title and details of a forecast of the gallery."""
    used = "used" if row.kept else "not used"
    return (
        f"{'Lower' if row.kind == 'best' else 'Higher'} error: {row.channel}, {row.time}",
        f"{row.reason} (MASE {number(row.draft_mase)} of the draft, {number(row.refined_mase)} of "
        f"the answer, which was {used}.)",
    )


def rivals(report: FleetThinking) -> Table:
    """Return every method on the same requests, lowest WQL first."""
    names = [row.method for row in report.table_rivals]
    rows = tuple(
        (
            LABEL if row.method == SLOW_THINKING else method_label(row.method),
            interval(*row.wql),
            interval(*row.mase),
            *(
                (NO_FIGURE, NO_FIGURE)
                if row.method == SLOW_THINKING
                else (ratio_interval(*row.wql_ratio), ratio_interval(*row.mase_ratio))
            ),
        )
        for row in report.table_rivals
    )
    return Table(
        f"Slow thinking beside the other methods, on the {report.n_requests:,} requests that it "
        "has a forecast of",
        ("method", "WQL", "MASE", "slow thinking's WQL over it", "slow thinking's MASE over it"),
        rows,
        emphasised=positions_of(names, SLOW_THINKING),
    )
