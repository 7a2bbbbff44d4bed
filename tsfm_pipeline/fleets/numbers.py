"""The cells of a table as numbers: words for missing, decimal commas, thousands separators, units.

What belongs here: the reading of one cell, as expressions over a column, and the advice for a cell
that cannot be read. What does not: which columns hold numbers (`fleets.metric_columns`), rules and
rows (`fleets.table_rows`).

Text is a number where it reads as one with a decimal point and without separators. Everything else
needs a field of the fleet file (`fleets.reading`), because it can be read in more than one way:
1,234 is 1234 or 1.234, and 915 among `915 MiB` may be bytes.
"""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from tsfm_pipeline.fleets.reading import TableReading

MISSING_WORDS = frozenset(
    {
        *("", "-", "--", "---", "\u2013", "\u2014", "?", ".", "\\n", "null", "(null)", "<null>"),
        *("nan", "-nan", "+nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "nat", "<nat>"),
        *("na", "n/a", "n.a.", "n.a", "n\\a", "<na>", "#n/a", "#n/a n/a", "#na", "none", "nil"),
        *("undefined", "missing", "no data", "nodata", "n/d", "not available"),
    }
)
"""What databases, spreadsheets, languages and dashboards write for a missing value, in lower case
and without blanks around it.
"""
KNOWN_UNITS = (
    "B, bit and their multiples like kB, MiB and Mbit, each also per second (MB/s, Mbps), "
    "ns to d, %, and the suffixes k, M, G, Ki, Mi, m, u and n alone"
)
NO_LIMIT = (2.0**63, -(2.0**63), 2.0**64)
"""What the ends of 64-bit integers become as float32. A kernel or a runtime writes them for 'no
limit' (9223372036854771712 is a cgroup's), and no load is that close to one of them.
"""

_SI = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", 1)}
_BYTES = {"B": 1.0, "KB": 1e3} | {f"{p}B": factor for p, factor in (_SI | _BINARY).items()}
_BITS = {"bit": 1.0} | {f"{p}bit": factor for p, factor in _SI.items()}
UNITS: dict[str, tuple[str, float]] = {
    **{p: ("", factor) for p, factor in (_SI | _BINARY).items()},
    **{"": ("", 1.0), "K": ("", 1e3), "m": ("", 1e-3), "u": ("", 1e-6), "n": ("", 1e-9)},
    **{"Mil": ("", 1e6), "Bil": ("", 1e9)},
    "%": ("%", 0.01),
    **{unit: ("bytes", factor) for unit, factor in _BYTES.items()},
    **{f"{unit}/s": ("bytes/s", factor) for unit, factor in _BYTES.items()},
    **{unit: ("bits", factor) for unit, factor in _BITS.items()},
    **{f"{unit}/s": ("bits/s", factor) for unit, factor in _BITS.items()},
    **{f"{p}bps": ("bits/s", factor) for p, factor in ({"": 1.0} | _SI).items()},
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("s", 1.0)),
    **{"ns": ("s", 1e-9), "us": ("s", 1e-6), "\u00b5s": ("s", 1e-6), "ms": ("s", 1e-3)},
    **dict.fromkeys(("min", "mins", "minute", "minutes"), ("s", 60.0)),
    **dict.fromkeys(("h", "hour", "hours"), ("s", 3600.0)),
    **dict.fromkeys(("d", "day", "days"), ("s", 86400.0)),
}
"""Per unit: what it measures, and its factor to bytes, bits, seconds or a share. A bare suffix is
Kubernetes' (500m is a half, 2Gi is 2^31).
"""

_PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_THOUSANDS = r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?"
_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?(?:[eE][+-]?\d+)?"
_UNIT = r"\s*([A-Za-z\u00b5%][A-Za-z/]*)?"


def plain(raw: pl.Expr, *, text: bool) -> pl.Expr:
    """Return a column of numbers, or of their text, as Float32; null where text is not a number."""
    return (raw.str.strip_chars() if text else raw).cast(pl.Float32, strict=False)


def number(raw: pl.Expr, spec: TableReading, *, text: bool) -> pl.Expr:
    """Return a column as Float32 by the fields of a fleet file; null where a cell is missing or
    cannot be read.
    """
    value = plain(raw, text=text)
    if text and spec.units == "parse":
        digits, unit = _parts(raw, spec)
        value = (digits.cast(pl.Float64, strict=False) * _factor(unit)).cast(pl.Float32)
    elif text and spec.decimal == "comma":
        value = plain(_parts(raw, spec)[0], text=True)
    sentinel = _is_sentinel(raw, spec, text=text)
    return value if sentinel is None else pl.when(~sentinel).then(value)


def is_missing(raw: pl.Expr, spec: TableReading, *, text: bool) -> pl.Expr:
    """Return whether a cell that is not empty says that its value is missing."""
    sentinel = _is_sentinel(raw, spec, text=text)
    sentinel = pl.lit(False) if sentinel is None else sentinel
    if not text:
        return sentinel
    words = {*MISSING_WORDS, *(str(word).strip().lower() for word in spec.missing)}
    return raw.str.strip_chars().str.to_lowercase().is_in(sorted(words)) | sentinel


def measured(raw: pl.Expr, spec: TableReading) -> pl.Expr:
    """Return what the unit of a text cell measures, '' without a unit; null for zero, and for what
    is not a number with a known unit.
    """
    digits, unit = _parts(raw, spec)
    measures = [measure for measure, _ in UNITS.values()]
    return pl.when(digits.cast(pl.Float64, strict=False) != 0).then(
        unit.replace_strict(list(UNITS), measures, default=None)
    )


def _parts(raw: pl.Expr, spec: TableReading) -> tuple[pl.Expr, pl.Expr]:
    """Return the number of a text cell, written plainly, and its unit; null where the cell has not
    that form.
    """
    separated = f"{_THOUSANDS}|{_PLAIN}" if spec.units == "parse" else _PLAIN
    form = _COMMA if spec.decimal == "comma" else separated
    unit = _UNIT if spec.units == "parse" else "()"
    pattern = f"^({form}){unit}$"
    cell = raw.str.strip_chars()
    digits = cell.str.extract(pattern, 1)
    written = digits.str.replace_all(",", "", literal=True)
    if spec.decimal == "comma":
        written = digits.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return written, pl.when(digits.is_not_null()).then(cell.str.extract(pattern, 2).fill_null(""))


def _factor(unit: pl.Expr) -> pl.Expr:
    return unit.replace_strict(list(UNITS), [factor for _, factor in UNITS.values()], default=None)


def _is_sentinel(raw: pl.Expr, spec: TableReading, *, text: bool) -> pl.Expr | None:
    """Return whether a cell holds a number that the fleet file calls missing; None where it calls
    none so.
    """
    wanted = [float(word) for word in spec.missing if re.fullmatch(_PLAIN, str(word).strip())]
    if not wanted:
        return None
    # -999.9 is another number in a column of float32: both count.
    rounded = pl.Series(wanted).cast(pl.Float32).cast(pl.Float64).to_list()
    value = (_parts(raw, spec)[0] if text else raw).cast(pl.Float64, strict=False)
    return value.is_in([*wanted, *rounded]).fill_null(False)


def hint(cells: Iterable[str]) -> str:
    """Return what a person can do about cells that are not plain numbers, by the first that shows
    it; an empty string for none.
    """
    for cell in map(str.strip, cells):
        if re.fullmatch(_THOUSANDS, cell):
            return (
                f"if {cell!r} has separators of thousands, set 'units: parse' (--units parse); if "
                "its comma is a decimal comma, 'decimal: comma' (--decimal comma)"
            )
        if re.fullmatch(_COMMA, cell):
            return f"{cell!r} looks like a decimal comma: set 'decimal: comma' (--decimal comma)"
        found = re.fullmatch(f"(?:{_THOUSANDS}|{_PLAIN}|{_COMMA}){_UNIT}", cell)
        if found and found.group(1) in UNITS:
            return (
                f"{cell!r} has a unit: set 'units: parse' (--units parse) to read it in bytes, "
                "bits, seconds or as a share"
            )
        if found and found.group(1):
            return f"{cell!r} has a unit that is not known; known are {KNOWN_UNITS}"
    return next(
        (
            f"if {cell!r} stands for a missing value, set 'missing: [{cell!r}]' "
            f"(--missing {cell!r})"
            for cell in map(str.strip, cells)
        ),
        "",
    )


def is_plain(cell: str) -> bool:
    """Return whether a cell is a number that needs no field of the fleet file."""
    return re.fullmatch(_PLAIN, cell.strip()) is not None


def looks_like_a_number(cells: Sequence[str]) -> bool:
    """Return whether a fleet file could say how to read all of these cells as numbers."""
    with_unit = re.compile(f"(?:{_THOUSANDS}|{_PLAIN}|{_COMMA}){_UNIT}")
    return bool(cells) and all(
        (found := with_unit.fullmatch(cell.strip())) and (found.group(1) or "") in UNITS
        for cell in cells
    )
