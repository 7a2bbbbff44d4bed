"""The fleet's report, and the explanation of one tenant, each as one self-contained HTML page:
inline styles and figures, no network.

What belongs here: the head of the page and the order of its sections. What does not: the contents
of a section (each report's `section`, `sections`, `background`), its building blocks
(`shared.layout`), markup (`templates/`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tsfm_pipeline.reports.ablation import section as ablation_section
from tsfm_pipeline.reports.acceptance import section as acceptance_section
from tsfm_pipeline.reports.acceptance import words as acceptance_words
from tsfm_pipeline.reports.acceptance.model import LedgerReport
from tsfm_pipeline.reports.cold_start import section as cold_start_section
from tsfm_pipeline.reports.cold_start import words as cold_start_words
from tsfm_pipeline.reports.explain import section as explain_section
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.headline import section as headline_section
from tsfm_pipeline.reports.headline import words as headline_words
from tsfm_pipeline.reports.latency import section as latency_section
from tsfm_pipeline.reports.latency import words as latency_words
from tsfm_pipeline.reports.page import background, data, sections
from tsfm_pipeline.reports.page.plugin_sections import plugin_sections
from tsfm_pipeline.reports.page.templating import template
from tsfm_pipeline.reports.quality import section as quality_section
from tsfm_pipeline.reports.recommendations.section import recommendations_section
from tsfm_pipeline.reports.recommendations.words import recommendations_answer
from tsfm_pipeline.reports.served import section as served_section
from tsfm_pipeline.reports.served import words as served_words
from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.wording import cohort_note, figure_of
from tsfm_pipeline.reports.sla import section as sla_section
from tsfm_pipeline.reports.sla import words as sla_words

Record = Mapping[str, Any]

FACTS: tuple[tuple[str, str, Callable[[Any], Answer]], ...] = (
    ("worth", "headline_report", headline_words.worth_answer),
    ("for-whom", "headline_report", headline_words.for_whom_answer),
    ("reserve", "recommendation_report", recommendations_answer),
    ("why", "explanations", explain_section.explanations_answer),
    ("rivals", "headline_report", headline_words.rivals_answer),
    ("latency", "latency_report", latency_words.latency_answer),
    ("cold-start", "cold_start_report", cold_start_words.cold_start_answer),
    ("tiers", "sla_report", sla_words.sla_answer),
    ("served", "interval_evaluation", served_words.served_answer),
    ("criteria", "acceptance_criteria", acceptance_words.criteria_answer),
    ("data", "data_quality", data.data_answer),
)
"""The facts beside the main answer, for readers who stop there: section, record, and its answer."""


def render_fleet_report(
    *,
    reports: Mapping[str, Any],
    gallery: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    data_quality: Mapping[str, Any],
    explanations: Sequence[TenantExplanation] = (),
) -> str:
    """Return the page. `reports`: the model of each report by the name of its asset.
    `explanations`: of a few tenants; without any, their section is left out.

    The page says which reports are not materialised. Sections of other packages stand before the
    last section, the provenance. Equal arguments give an identical page.
    """
    records: dict[str, Any] = {
        **reports,
        "gallery": gallery,
        "provenance": provenance,
        "data_quality": data_quality,
        "explanations": explanations,
    }
    headline, parts, ledger = (
        records.get(name) for name in ("headline_report", "ablation_report", "experiment_ledger")
    )
    profile = provenance.get("profile", "full")
    fleet = str(provenance.get("fleet") or (headline.fleet if headline else "fleet"))

    def section(
        anchor: str, label: str, title: str, name: str, fill: Callable[[Section, Any], None]
    ) -> Section:
        empty = Section(anchor, label, title)
        if records.get(name):
            fill(empty, records[name])
        else:
            empty.missing = _not_materialised(name)
        return empty

    page = [
        section(
            "worth",
            "Worth",
            "What is it worth?",
            "headline_report",
            partial(sections.worth, parts=parts),
        ),
        section(
            "for-whom",
            "For whom",
            "For whom does it pay, and for whom not?",
            "headline_report",
            headline_section.for_whom,
        ),
        section(
            "reserve",
            "Reserve",
            "What should be reserved next?",
            "recommendation_report",
            partial(recommendations_section, review=records.get("recommendation_review")),
        ),
        *(
            [
                section(
                    "why",
                    "Why",
                    "Why this much? A few tenants explained",
                    "explanations",
                    explain_section.explanations_section,
                )
            ]
            if explanations
            else []
        ),
        section(
            "rivals",
            "Rivals",
            "Is anything simpler just as good?",
            "headline_report",
            partial(sections.rivals, parts=parts),
        ),
        section(
            "latency",
            "Latency",
            "What does it cost in latency?",
            "latency_report",
            latency_section.latency,
        ),
        section(
            "cold-start",
            "Cold start",
            "What may a new tenant expect?",
            "cold_start_report",
            cold_start_section.cold_start,
        ),
        section(
            "tiers",
            "Tiers",
            "Do the tiers get different, correct forecasts?",
            "sla_report",
            sla_section.tiers,
        ),
        section(
            "served",
            "Served",
            "What is answered online, and do its intervals hold?",
            "interval_evaluation",
            served_section.served,
        ),
        section("gallery", "Gallery", "What does it look like?", "gallery", background.gallery),
        section(
            "criteria",
            "Criteria",
            "Which acceptance criteria are met?",
            "acceptance_criteria",
            acceptance_section.criteria,
        ),
        section("data", "Data", "How good are the data?", "data_quality", background.data_quality),
        section(
            "quality",
            "Quality",
            "How good are whole forecasts?",
            "forecast_quality_report",
            quality_section.quality,
        ),
        section(
            "parts",
            "Parts",
            "What does each part of the search add?",
            "ablation_report",
            ablation_section.parts,
        ),
        section(
            "provenance",
            "Provenance",
            "How is this repeated?",
            "provenance",
            partial(background.provenance, ledger=ledger),
        ),
    ]
    page[-1:-1] = plugin_sections(records, {"glossary", *(one.anchor for one in page)})
    labels = {one.anchor: one.label for one in page}
    return template("report.html.j2").render(
        fleet=fleet,
        title=str(provenance.get("title") or fleet),
        description=str(provenance.get("description") or ""),
        kicker=_kicker(fleet, provenance, ledger),
        warning=_warning(profile),
        cohort=cohort_note(provenance.get("cohort_tenants"), provenance.get("fleet_tenants")),
        answer=headline_words.headline_answer(headline)
        if headline
        else Answer("unknown", _not_materialised("headline_report")),
        context=_context(provenance),
        facts=[
            (anchor, labels[anchor], answer(records[name]).sentence)
            for anchor, name, answer in FACTS
            if records.get(name)
        ],
        sections=page,
        glossary=background.GLOSSARY,
    )


def render_tenant(explanation: TenantExplanation) -> str:
    """Return the page on one tenant alone."""
    section = explain_section.tenant_section(explanation)
    return template("tenant.html.j2").render(
        title=section.title,
        kicker=f"Fleet: {explanation.fleet}",
        warning=_warning(explanation.profile or "full"),
        section=section,
    )


def _warning(profile: str) -> str:
    return "" if profile == "full" else f"A {profile} run: a first look, not an answer."


def _not_materialised(name: str) -> str:
    return (
        f"Not materialised: {name} has not been written for this fleet. Materialise it, then "
        "this report again."
    )


def _kicker(fleet: str, provenance: Record, ledger: LedgerReport | None) -> str:
    """Return one line that says what was tested, when, and on which model."""
    runs = ledger.table_ledger if ledger else ()
    days = [str(provenance[key])[:10] for key in ("test_from", "test_to") if provenance.get(key)]
    parts = [
        f"Fleet report: {fleet}",
        f"tested on {' to '.join(days)}" if days else "",
        f"measured {str(runs[-1].time)[:16]} UTC" if runs else "",
        f"model {provenance['checkpoint']}, frozen" if provenance.get("checkpoint") else "",
    ]
    return " · ".join(part for part in parts if part)


def _context(provenance: Record) -> str:
    """Return what is compared, for a reader who does not know the project."""
    horizon = figure_of(provenance, "horizon_minutes")
    ahead = f"the next {horizon:g} minutes" if horizon == horizon else "the steps ahead"
    return (
        f"A frozen forecasting model reserves capacity for {ahead}, per tenant and metric. "
        "Compared are two ways to use it: the search "
        "chooses the model's configuration for each request from the tenant's own past; the fixed "
        "one was cheapest for "
        "the tuning tenants. Too little capacity costs more than too much, by the price ratio of "
        "the tier."
    )
