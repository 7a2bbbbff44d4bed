"""The fields of a table fleet that say how its cells and rows are read.

What belongs here: fields about single cells, and about several rows of one tenant and time. What
does not: the table's columns (`fleets.row_fields`), reading cells (`fleets.numbers`), joining rows
(`fleets.repeats`).
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tsfm_pipeline.fleets.fields import FleetFields

Aggregate = Literal["sum", "mean", "max", "last"]


class TableReading(FleetFields):
    """How cells become numbers, and how several rows of one tenant and time become one."""

    one_tenant: str | None = Field(
        default=None,
        min_length=1,
        description="the name of the one tenant that all files together hold (tenant_column: "
        "null), or null where each file is a tenant",
    )
    aggregate: Aggregate | None = Field(
        default=None,
        description="'sum', 'mean', 'max' or 'last' of the rows of one tenant and time, or null: "
        "the table is refused where more than 1 % of its rows contradict another",
    )
    missing: tuple[Annotated[str | int | float, Field(union_mode="smart")], ...] = Field(
        default=(),
        description="further words and numbers that stand for a missing value, like [-999, "
        "offline]; empty cells, null, NaN, N/A, - and their like always do",
    )
    decimal: Literal["point", "comma"] = Field(
        default="point",
        description="'point': 1234.5; 'comma': 1234,5 or 1.234,5",
    )
    units: Literal["refuse", "parse"] = Field(
        default="refuse",
        description="'parse': 915 MiB, 45%, 12ms and 1,234.5 are read, in bytes, shares and "
        "seconds; 'refuse': they are errors",
    )

    @field_validator("missing", mode="before")
    @classmethod
    def _words_or_finite_numbers(cls, missing: Any) -> Any:
        words = missing if isinstance(missing, list | tuple) else ()
        if any(isinstance(word, bool) or word in (math.inf, -math.inf) for word in words):
            raise ValueError("missing must hold words and finite numbers; put a word in quotes")
        return missing
