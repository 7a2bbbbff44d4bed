"""The base of every report's model: fields with unit and meaning, stored as flat JSON.

What belongs here: the base classes, and the rule that turns a model into the flat keys of a
report's JSON and back. What does not: the fields of a report (its `model`), and how figures are
worded or drawn.

A report's JSON is an interface: its keys are flat and its tables are lists of records. In Python
the same figures are attributes, so a renamed key raises an error and does not become a dash on the
page:

    ratio: Estimate                    ratio, ratio_low, ratio_high
    tiers: dict[str, OfTier]           <tier>_<key of OfTier>
    table_methods: tuple[Row, ...]     table_methods: a list of records
"""

import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A figure; NaN where there is none, which JSON holds as null."""


class Estimate(NamedTuple):
    """A figure with the limits of its 95 % interval; NaN where there is none."""

    figure: float = math.nan
    low: float = math.nan
    high: float = math.nan


class Key(NamedTuple):
    """One key of a report's JSON as the codebook lists it. An empty unit means text."""

    name: str
    unit: str
    meaning: str


class Rows(Protocol):
    """A data frame, such as one of polars."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary per row."""
        ...


def item(
    unit: str,
    meaning: str,
    *,
    key: str | None = None,
    limits: tuple[str, str] | None = None,
    left_out: bool = False,
) -> Any:
    """Declare a field of a report: its unit ("" for text) and its meaning.

    key: its name in the JSON where that is not the attribute's; for an `Estimate`, that of the
    figure. limits: the names of an estimate's limits; None for `<key>_low` and `<key>_high`.
    left_out: the key is missing from the JSON, not null, where the value is None.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "meaning": meaning,
        "key": key,
        "limits": limits,
        "left_out": left_out,
    }
    return Field(None, json_schema_extra=extra) if left_out else Field(json_schema_extra=extra)


def group(placeholder: str) -> Any:
    """Declare a field `dict[str, SomeFigures]` whose keys in the JSON are `<name>_<key>`.

    placeholder: what the codebook writes for the name, such as "<tier>".
    """
    return Field(json_schema_extra={"placeholder": placeholder})


def table(*, left_out: bool = False) -> Any:
    """Declare a field `tuple[SomeFigures, ...]`, a table of the report.

    left_out: the table is missing from the JSON, not an empty list, where it has no rows.
    """
    extra: dict[str, Any] = {"left_out": left_out}
    return Field((), json_schema_extra=extra) if left_out else Field(json_schema_extra=extra)


class Figures(BaseModel):
    """A record of figures: a row of a report's table, or the figures of one tier.

    Raises `pydantic.ValidationError` for a key that is missing, unknown or of another type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def flat(self) -> dict[str, Any]:
        """Return the record as the JSON's keys and values, in the order of the fields."""
        content: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _placeholder(field):
                for prefix, figures in value.items():
                    content |= {f"{prefix}_{key}": each for key, each in figures.flat().items()}
            elif _row_type(field) is not None:
                if value or not _extra(field).get("left_out"):
                    content[name] = [row.flat() for row in value]
            elif isinstance(value, Estimate):
                content |= dict(zip(_names(name, field), value, strict=True))
            elif value is not None or not _extra(field).get("left_out"):
                content[_names(name, field)[0]] = value
        return content | (self.model_extra or {})

    @classmethod
    def from_flat(cls, content: Mapping[str, Any]) -> Self:
        """Return the record from the content that `flat` returned. Raises
        `pydantic.ValidationError` for any other content.
        """
        rest = dict(content)
        fields: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if _placeholder(field):
                continue
            row = _row_type(field)
            if row is not None and name in rest:
                fields[name] = tuple(row.from_flat(each) for each in rest.pop(name))
            elif _is_estimate(field):
                keys = _names(name, field)
                if keys[0] in rest:
                    numbers = (rest.pop(key, None) for key in keys)
                    fields[name] = Estimate(*(math.nan if n is None else n for n in numbers))
            elif (key := _names(name, field)[0]) in rest:
                fields[name] = rest.pop(key)
        for name, field in cls.model_fields.items():
            if _placeholder(field):
                fields[name] = _groups(_group_type(field), rest)
        if rest:
            fields |= rest  # validation rejects them by name
        return cls.model_validate(fields)

    @classmethod
    def from_rows(cls, table: Rows) -> tuple[Self, ...]:
        """Return a record per row of a data frame whose columns are the keys."""
        return tuple(cls.from_flat(row) for row in table.to_dicts())

    @classmethod
    def codebook_keys(cls) -> Iterator[Key]:
        """Yield the keys outside of tables, for the codebook.

        The limits of an estimate are listed only where their names do not follow from its own.
        """
        for name, field in cls.model_fields.items():
            if placeholder := _placeholder(field):
                for key in _group_type(field).codebook_keys():
                    yield Key(f"{placeholder}_{key.name}", key.unit, key.meaning)
            elif _row_type(field) is None:
                extra = _extra(field)
                own, *limits = _names(name, field)
                yield Key(own, extra["unit"], extra["meaning"])
                if extra.get("limits"):
                    for side, limit in zip(("lower", "upper"), limits, strict=True):
                        yield Key(limit, extra["unit"], f"{side} limit of the interval of {own}")

    @classmethod
    def tables(cls) -> dict[str, type["Figures"]]:
        """Return the type of the rows of each of the report's tables."""
        rows = {name: _row_type(field) for name, field in cls.model_fields.items()}
        return {name: row for name, row in rows.items() if row is not None}


class Report(Figures):
    """The figures of one report of one fleet.

    All but `fleet` come from the JSON: they are None in a report that was just computed.
    """

    fleet: str = item("", "the fleet's name")
    profile: str | None = item("", "full or cheap", left_out=True)
    scores_fingerprint: str | None = item("", "of the scores it was made from", left_out=True)
    cohort_tenants: int | None = item(
        "count", "tenants of the cohort that the backtest covers", left_out=True
    )
    fleet_tenants: int | None = item(
        "count", "tenants of the fleet from which the cohort was drawn", left_out=True
    )


def _extra(field: FieldInfo) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", field.json_schema_extra or {})


def _placeholder(field: FieldInfo) -> str | None:
    return _extra(field).get("placeholder")


def _names(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return the keys of a field in the JSON: one key, or three for an estimate."""
    extra = _extra(field)
    key = extra.get("key") or name
    return (
        (key, *(extra.get("limits") or (f"{key}_low", f"{key}_high")))
        if _is_estimate(field)
        else (key,)
    )


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_estimate(field: FieldInfo) -> bool:
    return Estimate in _parts(field.annotation)


def _row_type(field: FieldInfo) -> type[Figures] | None:
    """Return the row type of a field that is a table; None for other fields."""
    if typing.get_origin(field.annotation) is tuple:
        row = typing.get_args(field.annotation)[0]
        if isinstance(row, type) and issubclass(row, Figures):
            return row
    return None


def _group_type(field: FieldInfo) -> type[Figures]:
    return typing.cast("type[Figures]", typing.get_args(field.annotation)[1])


def _groups(kind: type[Figures], rest: dict[str, Any]) -> dict[str, Figures]:
    """Take the keys of a group out of `rest`. A name is the text before the group's first key."""
    first = next(kind.codebook_keys()).name
    names = [key.removesuffix(f"_{first}") for key in rest if key.endswith(f"_{first}")]
    records = dict.fromkeys(names)
    for name in sorted(names, key=len, reverse=True):  # "gold_plus" before "gold"
        prefix = f"{name}_"
        own = {key: rest.pop(key) for key in list(rest) if key.startswith(prefix)}
        records[name] = kind.from_flat(
            {key.removeprefix(prefix): value for key, value in own.items()}
        )
    return typing.cast("dict[str, Figures]", records)
