"""The table that `fleet init` and `fleet check` end in: what was read, what was not, and what
changes it.

What belongs here: the rows of that table, each (what, found, to change it). What does not: the
commands (`cli.fleet`), the examination of telemetry (`fleets.inference`, `fleets.quality`).

A part that knows more about a fleet adds its rows to those that `summarise` is given.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tsfm_pipeline.cli.screen import show

if TYPE_CHECKING:
    from tsfm_pipeline.fleets.inference import TableFacts
    from tsfm_pipeline.fleets.kinds import AnyFleet
    from tsfm_pipeline.fleets.quality import Finding
    from tsfm_pipeline.fleets.source import FleetSource, LeftOut

Row = tuple[str, str, str]
"""What it is about, what was found, and the option or the line of YAML that changes it."""

OTHER_TENANTS = "--tenant COLUMN (or A,B), --tenant-per-file, --one-tenant NAME"
OTHER_COLUMNS = "--layout wide, where the columns are metrics of one tenant"
_MOST_NAMES = 8
_BASIS_LABELS = {
    "full": "on full history",
    "shortened": "on a shortened one",
    "cold": "cold",
    "": "cannot be asked",
}


def summarise(name: str, rows: Iterable[Row]) -> None:
    """Print the rows as the table that a command ends in."""
    show(
        f"fleet {name}: what was read, and what changes it", ("what", "found", "to change it"), rows
    )


def facts_rows(facts: "TableFacts") -> list[Row]:
    """Return what `fleet init` found in a table and wrote into the fleet file."""
    fields = facts.fields
    more = f" and {len(facts.paths) - 1} more files" if len(facts.paths) > 1 else ""
    why = facts.why.get("tenant_column", facts.why.get("one_tenant", ""))
    span = f"{facts.start:%Y-%m-%d %H:%M} to {facts.end:%Y-%m-%d %H:%M} UTC"
    lengths = [season.steps for season in facts.seasons]
    seasons = "; ".join(
        f"{s.steps} steps ({s.called}, {_resemblance(s.correlation)})" for s in facts.seasons
    )
    by = " and ".join(name or "the column without a name" for name in facts.spec.time_columns)
    other_tenants = OTHER_COLUMNS if fields["layout"] == "series" else OTHER_TENANTS
    rows = [
        ("table", f"{facts.paths[0]}{more}, {facts.n_rows:,} rows", ""),
        ("layout", _layout(facts.spec), "--layout wide, or series"),
        ("tenants", f"{facts.n_tenants}{tenants_by(facts.spec)}", other_tenants),
        ("", why, ""),
        ("times", f"by {by}, {span}", "--timestamp COLUMN, or DATE,TIME"),
        ("steps", f"{facts.n_steps:,} steps of {facts.step}", "--step MINUTES"),
        (
            "seasons",
            seasons or "the data show none",
            f"seasons: {lengths}",
        ),
        ("horizon", f"{fields['horizon']} steps ({fields['horizon'] * facts.step})", "--horizon N"),
        (
            "filled gaps",
            f"up to {fields['max_gap']} steps ({fields['max_gap'] * facts.step})",
            f"max_gap: {fields['max_gap']}",
        ),
        ("metrics", _names([metric.name for metric in facts.metrics]), "metrics: [A, B]"),
        *left_out_rows(facts.left_out),
        *(("note", note, "") for note in facts.notes),
        *(
            [("to do", "it cannot be used as it is; see below", facts.remedy)]
            if facts.remedy
            else []
        ),
    ]
    return [row for row in rows if row[1]]


def fleet_rows(spec: "AnyFleet", source: "FleetSource") -> list[Row]:
    """Return what `fleet check` read of a fleet."""
    end = source.start + (source.n_steps - 1) * source.step
    steps = f"{source.n_steps:,} steps of {source.step}"
    rows = [
        ("tenants", f"{source.n_tenants}{tenants_by(spec)}", _tenant_field(spec)),
        ("times", f"{source.start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {steps}", ""),
        ("metrics", _names(source.metrics), "metrics: [A, B]" if spec.kind == "table" else ""),
    ]
    return rows + left_out_rows(source.columns_left_out)


def requests_rows(spec: "AnyFleet", asked: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """Return how many requests of each role a run would ask, by what the answers rest on."""
    remedies = {
        "cold": "give these tenants more history",
        "shortened": f"max_gap: {spec.max_gap}, the longest gap to look across",
        "": f"horizon: {spec.horizon}; origins_per_tenant: {spec.origins_per_tenant}",
    }
    rows = []
    for role, counts in asked.items():
        n_all = max(1, sum(counts.values()))
        parts = [
            f"{counts[basis]:,} {label} ({counts[basis] / n_all:.0%})"
            for basis, label in _BASIS_LABELS.items()
            if counts.get(basis)
        ]
        lost = [remedy for basis, remedy in remedies.items() if counts.get(basis)]
        rows.append((f"{role} requests", ", ".join(parts), "; ".join(lost)))
    return rows


def findings_rows(findings: Sequence["Finding"]) -> list[Row]:
    """Return one row for each thing that a person can do about the findings, with the number of the
    tenants that it concerns.
    """
    by_remedy: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.remedy:
            by_remedy.setdefault(finding.remedy, []).append(finding)
    rows = []
    for remedy, group in by_remedy.items():
        tenants = {finding.tenant for finding in group}
        who = f"{len(tenants)} tenants, such as " if len(tenants) > 1 else ""
        rows.append(("to do", f"{who}{group[0].tenant}: {group[0].problem}", remedy))
    return rows


def left_out_rows(columns: Sequence["LeftOut"]) -> list[Row]:
    """Return one row per column that is not read, with a cell of it and the reason."""
    return [
        (
            "not read",
            f"{left.column!r}"
            + (f" (like {left.cell!r})" if left.cell else "")
            + f": {left.reason}",
            left.remedy,
        )
        for left in columns
    ]


def tenants_by(spec: "AnyFleet") -> str:
    """Return what names the tenants of a fleet; an empty text for kinds that other packages add."""
    if spec.kind == "prometheus":
        return f" by {spec.tenant_label}"
    if spec.kind not in ("table", "sql"):
        return ""
    if spec.layout == "series":
        return ", one per column"
    if spec.tenant_columns:
        return f" by {' and '.join(spec.tenant_columns)}"
    return f", called {spec.one_tenant}" if spec.one_tenant else " by the file's name"


def _tenant_field(spec: "AnyFleet") -> str:
    if getattr(spec, "layout", "") == "series":
        return "layout: wide, where the columns are metrics of one tenant"
    fields = {
        "table": "tenant_column: COLUMN, or [A, B]; one_tenant: NAME",
        "sql": "tenant_column: COLUMN",
        "prometheus": "tenant_label: LABEL",
        "synthetic": "tenants: N",
    }
    return fields.get(spec.kind, "")


def _layout(spec: "AnyFleet") -> str:
    layouts = {"long": "long: one value per row", "series": "series: one column per tenant"}
    return layouts.get(getattr(spec, "layout", ""), "wide: one column per metric")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _resemblance(correlation: float | None) -> str:
    return "too short to tell" if correlation is None else f"correlation {correlation:.2f}"
