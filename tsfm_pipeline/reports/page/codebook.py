"""The codebook for researchers (docs/codebook.md), generated: what every column of every table and every key of every report means.

What belongs here: laying declared meanings out as a page. What does not: the meanings (`catalogue.columns`, `report_keys`), and the text
before them (`templates/codebook.md.j2`).
"""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from tsfm_pipeline.catalogue.columns import ARRAYS, COLUMNS, OTHER_TYPES, ROWS, TABLE_COLUMNS, UNITS
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.reports.keys import REPORT_KEYS, Keys
from tsfm_pipeline.reports.page.markdown import escape

TEMPLATES = Path(__file__).parent / "templates"
PER_METRIC = {
    "<metrics>": ("Float32", "one column per metric, named as the metric; null where nothing was observed"),
    "<features>": ("Float64", "one column per feature and metric, of the history before any test period"),
}


def codebook_markdown() -> str:
    """The whole page: an opening with examples, every table of the lake by group, every report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("codebook.md.j2").render(tables=_tables(), reports=_reports()).rstrip() + "\n"


def column_meaning(table: str, column: str) -> tuple[str, str, str]:
    """(type, unit, meaning) of a column as `schemas.TABLE_COLUMNS` names it. Raises KeyError for one that is not declared."""
    name = column.strip("<>")
    unit = UNITS.get(column, "")
    if column in PER_METRIC:
        dtype, meaning = PER_METRIC[column]
    elif column in COLUMNS:
        dtype, meaning = COLUMNS[column]
        dtype = OTHER_TYPES.get((table, column), dtype)
    else:
        axis, per_entry, meaning = ARRAYS[name]
        dtype = f"{axis} Float32" if per_entry == 1 else f"{axis} × {per_entry} Float32"
    return re.sub(r"\(time_unit='(\w+)', time_zone='UTC'\)", r", \1, UTC", dtype), unit, meaning.removesuffix(f", in {unit}")


def _tables() -> Iterator[str]:
    """The tables of each group, in the order in which they are made within it."""
    order = list(dict.fromkeys(table.group for table in TABLES.values()))
    grouped = groupby(sorted(TABLES.values(), key=lambda table: order.index(table.group)), key=lambda table: table.group)
    for group, members in grouped:
        yield f"### Group {group}\n"
        for table in members:
            made_from = f" Made from {', '.join(f'`{name}`' for name in table.inputs)}." if table.inputs else ""
            yield f"#### {table.name}\n"
            yield f"One row per {ROWS[table.name]}.{made_from}\n"
            rows = {
                column.strip("<>") if column not in PER_METRIC else column: column_meaning(table.name, column)
                for column in TABLE_COLUMNS[table.name]
            }
            yield _grid(("column", "type", "unit", "meaning"), rows)


def _reports() -> Iterator[str]:
    for report, sections in REPORT_KEYS.items():
        yield f"### {report}.json\n"
        for section, keys in sections.items():
            if section:
                yield f"`{section}`, a list of records:\n"
            yield _grid(("key", "unit", "meaning"), _described(keys))


def _described(keys: Keys) -> Mapping[str, tuple[str, ...]]:
    return {name: (unit or "text", meaning) for name, (unit, meaning) in keys.items()}


def _grid(header: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> str:
    """A markdown table whose first cells are names."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| `{name}` | {' | '.join(escape(cell) if cell else '–' for cell in cells)} |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"
