"""The generated codebook (docs/codebook.md): the meaning of every column of every table and every
key of every report.

What belongs here: turning declared meanings into a page. What does not: the meanings
(`catalogue.columns`, the reports' models), the text before them (`templates/codebook.md.j2`).
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tsfm_pipeline.catalogue.registry import Column, Table
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.models import REPORTS
from tsfm_pipeline.reports.shared.markdown import escape
from tsfm_pipeline.reports.shared.model import Figures, Report

TEMPLATES = Path(__file__).parent / "templates"
EXPLAIN = "tsfm-pipeline explain FLEET TENANT --json"


def codebook_markdown() -> str:
    """Return the whole page: an opening with examples, every table of the lake by group, every
    report.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template("codebook.md.j2")
        .render(tables=tables_markdown(TABLES), reports=_reports())
        .rstrip()
        + "\n"
    )


def column_meaning(column: Column) -> tuple[str, str, str]:
    """Return type, unit and meaning of a column as the page shows them."""
    dtype = re.sub(r"\(time_unit='(\w+)', time_zone='UTC'\)", r", \1, UTC", str(column.dtype))
    if column.axis:
        length = column.axis if column.per_entry == 1 else f"{column.axis} × {column.per_entry}"
        dtype = f"{length} {dtype}"
    meaning = f"one column per {column.each}: {column.meaning}" if column.each else column.meaning
    return dtype, column.unit, meaning.removesuffix(f", in {column.unit}")


def shown_columns(table: Table) -> Mapping[str, Column]:
    """Return the columns of a table by the names that the page shows.

    Tiers are the default ones; `<metric>` and `<feature>` stand for names that differ between
    fleets.
    """
    shown: dict[str, Column] = {}
    for declared in table.columns:
        if declared.each == "tier":
            of_tier = replace(declared, axis="").expanded(lambda _: list(PROTOCOL.tiers))
            shown |= {column.name: replace(column, axis=declared.axis) for column in of_tier}
        elif declared.each:
            shown[f"<{declared.each}>"] = declared
        else:
            shown[declared.name] = declared
    return shown


def tables_markdown(tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the tables of each group, in the order in which they are computed."""
    order = list(dict.fromkeys(table.group for table in tables.values()))
    grouped = groupby(
        sorted(tables.values(), key=lambda table: order.index(table.group)),
        key=lambda table: table.group,
    )
    for group, members in grouped:
        yield f"### Group {group}\n"
        for table in members:
            made_from = (
                f" Made from {', '.join(f'`{name}`' for name in table.inputs)}."
                if table.inputs
                else ""
            )
            yield f"#### {table.name}\n"
            described = f"One row per {table.row}.{made_from}"
            yield textwrap.fill(described, 100, break_on_hyphens=False) + "\n"
            rows = {name: column_meaning(column) for name, column in shown_columns(table).items()}
            yield _grid(("column", "type", "unit", "meaning"), rows)


def _reports() -> Iterator[str]:
    """Yield each report's own keys, then the keys of its tables' records. What `explain` prints
    comes last: it is no file.
    """
    documents: dict[str, type[Figures]] = {f"{name}.json": model for name, model in REPORTS.items()}
    for name, model in (documents | {EXPLAIN: TenantExplanation}).items():
        yield f"### {name}\n"
        if own := _meanings(model):
            yield _grid(("key", "unit", "meaning"), own)
        for table, row in model.tables().items():
            yield f"`{table}`, a list of records:\n"
            yield _grid(("key", "unit", "meaning"), _meanings(row))


def _meanings(model: type[Figures]) -> Mapping[str, tuple[str, ...]]:
    """Return the keys of a model, without the keys that every report has."""
    everywhere = Report.model_fields if issubclass(model, Report) else ()
    return {
        key.name: (key.unit or "text", key.meaning)
        for key in model.codebook_keys()
        if key.name not in everywhere
    }


def _grid(header: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> str:
    """Return a markdown table whose first cells are names."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [
        f"| `{name}` | {' | '.join(escape(cell) if cell else '–' for cell in cells)} |"
        for name, cells in rows.items()
    ]
    return "\n".join(lines) + "\n"
