"""What the options that say how a table is read mean: its tenants, its cells and its rows.

What belongs here: turning options into names of columns and fields of a fleet file. What does not:
the options (`cli.table_options`), the fields and their rules (`fleets.reading`).
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tsfm_pipeline.cli.screen import refuse
from tsfm_pipeline.cli.table_options import Layout
from tsfm_pipeline.fleets.dialects import scan
from tsfm_pipeline.fleets.inference import table_paths
from tsfm_pipeline.fleets.reading import TableReading


def as_told(
    path: Path,
    *,
    tenant: list[str] | None,
    tenant_per_file: bool,
    one_tenant: str | None,
    timestamp: str | None,
    layout: Layout | None,
    step: float | None,
    missing: list[str] | None,
    **options: str | None,
) -> dict[str, Any]:
    """Return what these options say, as arguments of `look_at_table`; none for an option that was
    not given. Raises ValueError for values that are not allowed.
    """
    columns = tenant_columns(path, tenant, tenant_per_file or one_tenant is not None)
    told = {
        "tenant": columns,
        "timestamp": timestamp,
        "layout": None if layout is None else layout.value,
        "step": step,
        "reading": reading_fields(missing, one_tenant=one_tenant, **options) or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def tenant_columns(
    path: Path, given: list[str] | None, named_otherwise: bool
) -> tuple[str, ...] | None:
    """Return the columns that --tenant names, none of them where files or --one-tenant name the
    tenants; None where they are to be found.
    """
    if given and named_otherwise:
        refuse("give one of --tenant, --tenant-per-file and --one-tenant")
    if not given:
        return () if named_otherwise else None
    columns = scan(table_paths(path.expanduser().absolute())[0]).collect_schema()
    split = [[name] if name in columns else name.split(",") for name in given]
    return tuple(column.strip() for names in split for column in names)


def _number_or_word(word: str) -> float | str:
    try:
        number = float(word)
    except ValueError:
        return word
    return int(number) if number.is_integer() else number


def reading_fields(missing: list[str] | None, **options: object) -> dict[str, object]:
    """Return the fields of a fleet file that these options set. Raises ValueError for values that
    are not allowed.
    """
    given = {name: value for name, value in options.items() if value}
    if missing:
        given["missing"] = tuple(map(_number_or_word, missing or ()))
    for name, value in given.items():
        try:
            TableReading.model_validate({"name": "x", "title": "x", name: value})
        except ValidationError as error:
            allowed = TableReading.model_fields[name].description
            raise ValueError(f"--{name}: got {value!r}; allowed: {allowed}") from error
    return given
