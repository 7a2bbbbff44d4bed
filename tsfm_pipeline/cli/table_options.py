"""The options that say how a table is read, for every command that reads one without a fleet file.

What belongs here: their declarations, which load no library but typer. What does not: their meaning
(`cli.fleet_options`).
"""

from enum import StrEnum
from typing import Annotated

import typer


class Layout(StrEnum):
    """The layouts that a table can be said to have."""

    WIDE = "wide"
    SERIES = "series"


Tenant = Annotated[
    list[str] | None,
    typer.Option(
        help="the column that names the tenant; several, A,B or one option each, are joined"
    ),
]
TenantPerFile = Annotated[bool, typer.Option("--tenant-per-file", help="each file is one tenant")]
OneTenant = Annotated[str | None, typer.Option(help="all rows are one tenant, with this name")]
Timestamp = Annotated[
    str | None,
    typer.Option(help="the column of times (or DATE,TIME for two), if it is not detected"),
]
TableLayout = Annotated[
    Layout | None,
    typer.Option(
        help="what columns of numbers beside the times are: series of one tenant each, or metrics "
        "(wide), if it is not detected"
    ),
]
Step = Annotated[
    float | None, typer.Option(help="minutes between two rows of a tenant, if it is not detected")
]
Aggregate = Annotated[
    str | None,
    typer.Option(help="what the rows of one tenant and time become: sum, mean, max or last"),
]
Missing = Annotated[
    list[str] | None, typer.Option(help="a word or number that stands for a missing value")
]
Decimal = Annotated[str | None, typer.Option(help="point or comma")]
Units = Annotated[str | None, typer.Option(help="parse: read 915 MiB, 45%, 12ms and 1,234.5")]
