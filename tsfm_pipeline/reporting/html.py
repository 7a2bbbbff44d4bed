"""The fleet's report as one self-contained HTML page: inline styles and figures, no network, readable in five minutes.

What belongs here: the order of the sections and what each holds. What does not: the wording of answers (`answers`),
tables (`tables`), figures (`figures`) and the page's markup (`templates/`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tsfm_pipeline.reporting import ablation, ablation_figures, answers, tables
from tsfm_pipeline.reporting.answers import Answer, Effect, ratio_sentence
from tsfm_pipeline.reporting.figures import (
    archetype_figure,
    cold_start_figure,
    headline_figure,
    retrieval_figure,
    sla_figure,
)
from tsfm_pipeline.reporting.gallery import gallery_caption, gallery_figure
from tsfm_pipeline.reporting.latency import latency_figure
from tsfm_pipeline.reporting.style import to_svg
from tsfm_pipeline.reporting.tables import Table
from tsfm_pipeline.reporting.wording import count, figure_of, plain, whole
from tsfm_pipeline.settings import TIERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "fleet, tenant, metric, series",
        "a fleet is a set of tenants on one time grid; a series is one tenant and one metric",
    ),
    ("request, origin", "a request forecasts all metrics of one tenant from one origin, the last observed step"),
    ("configuration", "how the one frozen model is used: how much history it sees, at which resolution"),
    ("search", "choosing or weighting configurations for one request from its own past"),
    (
        "fixed configuration",
        "the one configuration that was cheapest on the tuning tenants, at the tier's own quantile",
    ),
    (
        "tier, alpha",
        "alpha says how prices compare: at 0.75 a unit of shortage costs three times as much as one of surplus",
    ),
    (
        "cost, loss",
        "alpha × shortage + (1 − alpha) × surplus per step (pinball loss), divided by the series' own scale",
    ),
    ("scale", "mean absolute change from one step to the next, before the test period"),
    (
        "cost ratio",
        "cost of a method divided by that of the fixed configuration on the same requests; below 1 is cheaper",
    ),
    ("win rate", "share of requests at which the search costs less than the fixed configuration; ties count half"),
    ("95 % interval", "two-way bootstrap over tenants and days; an interval that holds 1 shows no difference"),
    ("p", "label-swap permutation test of search against fixed; descriptive unless it is the declared primary test"),
    ("violation", "a step at which demand exceeded the reservation; a tier's target is 1 − alpha"),
    (
        "slack, shortfall",
        "mean capacity reserved beyond demand, and mean demand beyond the reservation, in scale units",
    ),
    (
        "headroom",
        "what choosing with hindsight would gain, cross-fitted, because picking the best of noisy losses always seems to",
    ),
    ("PASS, FAIL, NULL, N/A", "target met; missed; the interval holds no effect; this fleet cannot answer"),
)


@dataclass
class Section:
    """One section of the page: a question, its answer, figures with captions, tables; `fold`ed tables start closed."""

    anchor: str
    title: str
    answer: str = ""
    notes: list[str] = field(default_factory=list)
    figures: list[tuple[Markup, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    gallery: list[tuple[Markup, str, str]] = field(default_factory=list)
    command: str = ""
    badges: bool = False


def render_fleet_report(
    *,
    reports: Mapping[str, Report],
    gallery: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    data_quality: Mapping[str, Any],
) -> str:
    """Return the page. `reports`: by asset name, the JSON of each; those missing are said to be not materialised.

    Equal arguments give an identical page.
    """
    headline = reports.get("headline_report")
    fleet = str(provenance.get("fleet") or (headline or {}).get("fleet") or "fleet")
    answer = answers.headline_answer(headline) if headline else Answer("unknown", _not_materialised("headline_report"))
    environment = Environment(
        loader=PackageLoader("tsfm_pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        _section("worth", "What is it worth?", reports, "headline_report", _worth),
        _section("for-whom", "For whom does it pay, and for whom not?", reports, "headline_report", _for_whom),
        _section("rivals", "Is anything simpler just as good?", reports, "headline_report", _rivals),
        _section("parts", "What does each part of the search add?", reports, "ablation_report", _parts),
        _section("latency", "What does it cost in latency?", reports, "latency_report", _latency),
        _section("cold-start", "What may a new tenant expect?", reports, "cold_start_report", _cold_start),
        _section("tiers", "Do the tiers get different, correct forecasts?", reports, "sla_report", _tiers),
        _gallery(gallery),
        _section("criteria", "Acceptance criteria", reports, "acceptance_criteria", _criteria),
        _data_quality(data_quality, headline or {}),
        _provenance(provenance),
    ]
    return environment.get_template("report.html.j2").render(
        fleet=fleet,
        title=str(provenance.get("title") or fleet),
        description=str(provenance.get("description") or ""),
        answer=answer,
        facts=_facts(reports, headline or {}, provenance),
        sections=sections,
        glossary=GLOSSARY,
    )


def _section(anchor: str, title: str, reports: Mapping[str, Report], name: str, fill: Callable[[Section, Report], None]) -> Section:
    section = Section(anchor, title)
    report = reports.get(name)
    if report:
        fill(section, report)
    else:
        section.notes.append(_not_materialised(name))
    return section


def _not_materialised(name: str) -> str:
    return f"Not materialised: {name} has not been written for this fleet. Materialise it, then this report again."


def _worth(section: Section, report: Report) -> None:
    fixed = {tier: report.get(f"{tier}_fixed_config") for tier in TIERS if report.get(f"{tier}_fixed_config")}
    if fixed:
        names = ", ".join(f"{config} at {tier}" for tier, config in fixed.items())
        section.answer = (
            f"The fixed configuration was chosen per tier on tuning tenants before the test period ({names}) and forecasts at "
            "the tier's own quantile. Cost is priced by the tier: shortage against surplus."
        )
    section.tables.append(tables.worth(report))
    section.folded += _filled(tables.robustness(report), tables.unscaled(report))


def _for_whom(section: Section, report: Report) -> None:
    for scope in ("archetype", "metric"):
        rows = report.get(f"table_{scope}s") or []
        if not rows:
            continue
        groups = answers.groups_by_effect(rows)
        parts = []
        decided: tuple[tuple[Effect, str], ...] = (("gain", "it pays (interval below 1) on"), ("loss", "it costs more (above 1) on"))
        for effect, words in decided:
            members = [ratio_sentence(row) for row in groups[effect]]
            parts.append(f"{words} {count(len(members), scope)}: {', '.join(members)}" if members else f"{words} no {scope}")
        undecided: tuple[tuple[Effect, str], ...] = (
            ("null", "not decided (the interval holds 1)"),
            ("unknown", "without an interval (one tenant)"),
        )
        for effect, words in undecided:
            if groups[effect]:
                parts.append(f"{words}: {', '.join(str(row.get('scope_value')) for row in groups[effect])}")
        sentence = "; ".join(parts)
        section.notes.append(f"At the {answers.HEADLINE_TIER} tier {sentence}.")
        caption = f"Search against the fixed configuration per {scope}; left of the line it costs less. Groups are descriptive."
        section.figures.append(_drawn(archetype_figure(report, scope), caption))
        section.folded.append(tables.groups(report, scope))
    if not report.get("table_archetypes"):
        section.notes.insert(0, "This fleet has no archetypes; the search is compared per metric.")


def _rivals(section: Section, report: Report) -> None:
    section.answer = answers.rivals_answer(report).sentence
    section.notes.append(
        "Every rival answers the same requests; intervals compare with the fixed configuration, not with the search. Solid dots use "
        "the same frozen model, hollow squares use no model. The static ensemble and the uniform average spend as much computation "
        "as the search."
    )
    section.figures.append(
        _drawn(
            headline_figure(report),
            "Cost ratio with 95 % interval; left of the line is cheaper. An arrow: off the scale.",
        )
    )
    section.tables.append(tables.methods(report))
    others = [tables.methods(report, tier) for tier in TIERS if tier != answers.HEADLINE_TIER]
    section.folded += _filled(tables.methods(report, singles=True), *others)


def _parts(section: Section, report: Report) -> None:
    section.answer = ablation.steps_answer(report).sentence
    others = (ablation.rivals_answer, ablation.harm_answer, ablation.headroom_answer, ablation.dimensions_answer, ablation.floor_answer)
    section.notes += [sentence for answer in others if (sentence := answer(report).sentence)]
    figures = [
        (ablation_figures.steps_figure, "Each step on top of the ones before; × is its own ratio, coloured where its interval excludes 1."),
        (ablation_figures.rivals_figure, "The search's cost over each rival's on the same requests; italic: rivals without a model."),
        (ablation_figures.groups_figure, "Cost after each step, group by group; a red name is worse off by more than 2 %."),
        (ablation_figures.selection_figure, "How much each configuration weighs, on average."),
        (ablation_figures.controls_figure, "What is lost when a dimension of the search space, or the neighbours, are taken away."),
    ]
    if report.get("table_floor"):
        figures.append(
            (ablation_figures.floor_figure, "The truth is known here: 1 is what a forecaster would lose who knew the generator.")
        )
    section.figures += [_drawn(draw(report), caption) for draw, caption in figures]
    section.folded += _filled(*(make(report) for make in ablation.TABLES))


def _latency(section: Section, report: Report) -> None:
    section.answer = answers.latency_answer(report).sentence
    section.figures.append(
        _drawn(
            latency_figure(report),
            "One request from history array to decision, warm; the band is the interval of p95. Right: what the same engine's answers "
            "cost, with 95 % interval; the filled point is the portfolio, beyond it other tenants' experience is unknown.",
        )
    )
    section.folded += _filled(tables.latency(report))


def _cold_start(section: Section, report: Report) -> None:
    section.answer = answers.cold_start_answer(report).sentence
    section.figures.append(_drawn(cold_start_figure(report), "Loss with little history relative to full history, 95 % intervals."))
    if report.get("table_retrieval"):
        section.figures.append(_drawn(retrieval_figure(report), "Held-out tenants whose archetype is found."))
    section.folded += _filled(tables.cold_start(report), tables.gap(report), tables.retrieval(report))


def _tiers(section: Section, report: Report) -> None:
    section.answer = answers.sla_answer(report).sentence
    section.figures.append(
        _drawn(
            sla_figure(report),
            "95 % intervals. The middle ones overlap because tenants differ; on the right each tenant is compared with itself.",
        )
    )
    section.tables += _filled(tables.tiers(report), tables.cross(report))
    section.folded += _filled(tables.steps(report))


def _criteria(section: Section, report: Report) -> None:
    section.answer = answers.criteria_answer(report).sentence
    section.badges = True
    section.tables.append(tables.criteria(report))


def _gallery(records: Sequence[Mapping[str, Any]]) -> Section:
    section = Section("gallery", "What does it look like?")
    if not records:
        section.notes.append("Not materialised: no gallery was handed to this report.")
        return section
    section.answer = (
        "Single requests, the worst misses among them. A reservation is good when it lies just above what happened; "
        "shaded: demand beyond the search's reservation."
    )
    section.gallery = [(Markup(to_svg(gallery_figure(record))), *gallery_caption(record)) for record in records]
    return section


def _data_quality(record: Mapping[str, Any], headline: Report) -> Section:
    section = Section("data", "How good are the data?")
    if not record:
        section.notes.append(_not_materialised("tenant_manifest"))
        return section
    flat = {key: value for key, value in record.items() if not isinstance(value, Mapping)}
    reasons = record.get("invalid_reasons") or headline.get("invalid_reasons") or {}
    section.answer = (
        f"{count(figure_of(flat, 'n_invalid_requests'), 'request')} could not be asked or scored"
        f" and {'is' if figure_of(flat, 'n_invalid_requests') == 1 else 'are'} in no figure of this report; "
        "imputed values are never scored."
    )
    section.tables += _filled(
        tables.pairs("Telemetry", {_counted(key): value for key, value in flat.items()}, ("what", "count"), whole),
        tables.pairs("Why requests are invalid", reasons if isinstance(reasons, Mapping) else {}, ("reason", "requests"), whole),
    )
    return section


def _counted(key: str) -> str:
    return key.removeprefix("n_")


def _provenance(record: Mapping[str, Any]) -> Section:
    """Scalars in one table, each nested record in a folded one of its own."""
    section = Section("provenance", "Where does this come from, and how is it repeated?")
    if not record:
        section.notes.append("Not materialised: no provenance was handed to this report.")
        return section
    section.command = str(record.get("reproduce") or "")
    flat = {key: value for key, value in record.items() if not isinstance(value, Mapping) and key != "reproduce"}
    section.tables += _filled(tables.pairs("This report", flat, ("what", "value")))
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            section.folded.append(tables.pairs(key.replace("_", " ").capitalize(), _flattened(value), ("what", "value")))
    return section


def _flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested records as one, with dots in the keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _facts(reports: Mapping[str, Report], headline: Report, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands beside the answer: one line each, for a reader who reads no further."""
    lines = [("Rivals", answers.rivals_answer(headline).sentence)] if headline else []
    if reports.get("latency_report"):
        lines.append(("Latency", answers.latency_answer(reports["latency_report"]).sentence))
    if reports.get("cold_start_report"):
        lines.append(("Cold start", answers.cold_start_answer(reports["cold_start_report"]).sentence))
    if reports.get("sla_report"):
        lines.append(("Tiers", answers.sla_answer(reports["sla_report"]).sentence))
    if reports.get("acceptance_criteria"):
        lines.append(("Criteria", answers.criteria_answer(reports["acceptance_criteria"]).sentence))
    failed = figure_of(headline, f"{answers.HEADLINE_TIER}_n_failed_search")
    invalid = figure_of(headline, "n_invalid_requests")
    if failed > 0 or invalid > 0:
        failures = f"; the search failed on {count(failed, 'request')}" if failed > 0 else ""
        lines.append(("Left out", f"{count(invalid, 'invalid request')}{failures}."))
    checkpoint = provenance.get("checkpoint")
    name = checkpoint.get("name") if isinstance(checkpoint, Mapping) else checkpoint
    if name:
        lines.append(("Model", f"{plain(name)}, frozen."))
    return lines


def _drawn(figure: "Figure", caption: str) -> tuple[Markup, str]:
    return Markup(to_svg(figure)), caption


def _filled(*candidates: Table) -> list[Table]:
    return [table for table in candidates if table.rows]
