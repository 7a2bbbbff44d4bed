"""The page's sections on the background of the answer: single requests, the data, provenance and
the glossary.

What belongs here: the contents of these sections. What does not: the sections of reports (each
report's `section`), collecting the records (`reports.page.story`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tsfm_pipeline.reports.acceptance.model import LedgerReport
from tsfm_pipeline.reports.acceptance.words import ledger as ledger_table
from tsfm_pipeline.reports.page import data as answers
from tsfm_pipeline.reports.page import records
from tsfm_pipeline.reports.page.gallery import gallery_caption, gallery_figure
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.reports.shared.wording import whole

Record = Mapping[str, Any]

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "fleet, tenant, metric, series",
        "a fleet is a set of tenants on one time grid; a series is one tenant and one metric",
    ),
    (
        "request, origin",
        "a request forecasts all metrics of one tenant from one origin, the last observed step",
    ),
    (
        "configuration",
        "how the one frozen model is used: how much history it sees, at which resolution; "
        "ctx1280-r5 sees 1,280 steps as means of 5",
    ),
    ("search", "choosing or weighting configurations for one request from its own past"),
    (
        "fixed configuration",
        "the one configuration that was cheapest on the tuning tenants, at the tier's own quantile",
    ),
    (
        "tier, alpha",
        "alpha says how prices compare: at 0.75 a unit of shortage costs three times as much as "
        "one of surplus (3 : 1)",
    ),
    (
        "cost, loss",
        "alpha × shortage + (1 − alpha) × surplus per step (pinball loss), divided by the series' "
        "own scale",
    ),
    (
        "scale",
        "mean absolute change from one step to the next, before the test period; a scale unit is "
        "one such change",
    ),
    (
        "cost ratio",
        "cost of a method over that of the fixed configuration on the same requests; below 1 is "
        "cheaper",
    ),
    (
        "win rate",
        "share of requests at which the search costs less than the fixed configuration; ties "
        "count half",
    ),
    (
        "95 % interval",
        "two-way bootstrap over tenants and days; an interval that holds 1 shows no difference",
    ),
    (
        "p",
        "two-sided, of a ratio of 1, by the bootstrap behind the interval; descriptive unless it "
        "is the declared primary test",
    ),
    ("violation", "a step at which demand exceeded the reservation; a tier's target is 1 − alpha"),
    (
        "slack, shortfall",
        "mean capacity reserved beyond demand, and mean demand beyond the reservation",
    ),
    (
        "headroom",
        "what choosing with hindsight would gain; cross-fitted, because picking the lowest of "
        "noisy losses always looks like a gain",
    ),
    (
        "PASS, FAIL, NULL, N/A",
        "target met; missed; the interval holds no effect; this fleet cannot answer",
    ),
)


def gallery(section: Section, requests: Sequence[Record]) -> None:
    """Show single requests with history, both decisions and what happened."""
    section.answer = (
        "Single requests, picked for being extreme: the largest gains and losses against the "
        "fixed configuration, the worst misses, and "
        "the median between them. A reservation is good when it lies just above what happened."
    )
    section.gallery = [
        (Markup(to_svg(gallery_figure(record))), *gallery_caption(record)) for record in requests
    ]


def data_quality(section: Section, record: Record) -> None:
    """Show what the telemetry lacks, and which requests are invalid because of it."""
    section.answer = answers.data_answer(record).sentence
    section.show(records.telemetry(record), records.incomplete_tenants(record))
    section.show(
        records.pairs(
            "Why requests are invalid",
            record.get("invalid_reasons") or {},
            ("reason", "requests"),
            whole,
        )
    )
    left_out = record.get("left_out") or {}
    section.fold(
        records.pairs(f"Tenants left out ({len(left_out)})", left_out, ("tenant", "reason"))
    )


def provenance(section: Section, record: Record, ledger: LedgerReport | None) -> None:
    """Show commands, origin and versions; settings, packages and fingerprints start closed."""
    section.commands = "\n".join(record.get("reproduce") or [])
    if section.commands:
        section.answer = (
            "These commands, in a checkout of the project, make this report again. "
            "Equal seeds give equal tables; latencies differ."
        )
    flat = {
        key: value
        for key, value in record.items()
        if not isinstance(value, Mapping) and key not in ("reproduce", "title", "description")
    }
    section.show(records.pairs("This report", flat, ("what", "value")))
    if ledger:
        section.fold(ledger_table(ledger))
    for key, value in record.items():
        if isinstance(value, Mapping):
            section.fold(
                records.pairs(
                    key.replace("_", " ").capitalize(), _flattened(value), ("what", "value")
                )
            )


def _flattened(record: Record, prefix: str = "") -> dict[str, Any]:
    """Return nested records as one, with dots in the keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= (
            _flattened(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flat
