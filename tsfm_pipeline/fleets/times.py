"""Reading the times of a table: text in ISO 8601 and its relatives, epochs, and datetimes.

What belongs here: recognising how times are written, and turning them into microseconds since 1970
UTC. What does not: choosing the column of times (`fleets.time_columns`), the step
(`fleets.table_step`), opening files (`fleets.dialects`).

Text must have four digits of the year, the year first: 2024-03-01 00:00:00+01, 2024-03-01T00:00Z,
20240301T000000Z, 2024-061, 2024-W09-5. Offsets may differ from row to row, because each row is an
instant; rows with an offset beside rows without one are refused. Numbers are epochs in seconds,
milliseconds, microseconds or nanoseconds, told by their magnitude (1973 to 2103), or dates like
20240301.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

ALLOWED_TIMES = (
    "datetimes, dates, or text in ISO 8601 like 2024-01-31T23:59:00Z (from 1970 on; without a time "
    "zone it is UTC), or epochs in s, ms, us or ns"
)
NO_ZONE = "timestamps have no time zone and are taken as UTC"
Kind = Literal["text", "epoch", "naive", "zoned"]

_TEXT = re.compile(
    r"""
    (?P<date> (?P<dashed>\d{4}-\d{1,2}-\d{1,2}) | (?P<slashed>\d{4}/\d{1,2}/\d{1,2})
            | (?P<basic>\d{8}) | (?P<ordinal>\d{4}-\d{3})
            | (?P<week>\d{4}-W\d{2}-\d) | (?P<basic_week>\d{4}W\d{3}) )
    (?: (?P<mark>T|[ ]|(?<=\d{8})(?=\d{6}))
        (?: (?P<h_m_s>\d{1,2}:\d{2}:\d{2}) | (?P<h_m>\d{1,2}:\d{2})
          | (?P<hms>\d{6}) | (?P<hm>\d{4}) | (?P<h>\d{2}) )
        (?P<fraction>[.,]\d+)?
        (?P<zone>[ ]?(?:Z|z|UTC|GMT|(?P<offset>[+-]\d{2}(?::?\d{2}){0,2})(?:[ ][A-Z]{3,5})?)
            (?:\[[\w/+-]+\])? )?
      | (?P<date_zone>Z)
    )?
    """,
    re.VERBOSE | re.ASCII,
)
_DATES = {
    "dashed": "%Y-%m-%d",
    "slashed": "%Y/%m/%d",
    "basic": "%Y%m%d",
    "ordinal": "%Y-%j",
    "week": "%G-W%V-%u",
    "basic_week": "%GW%V%u",
}
_CLOCKS = {"h_m_s": "%H:%M:%S", "h_m": "%H:%M", "hms": "%H%M%S", "hm": "%H%M", "h": "%H"}
_CLOCK = re.compile(
    r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
)
_NUMBER = re.compile(r"\d+(?:\.\d*)?")
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_FIRST_EPOCH_S, _LAST_EPOCH_S = 100_000_000, 4_200_000_000
_EXCEL_DAYS = (20_000, 80_000)
"""Excel's day numbers of 1954 to 2119."""
_TWO_DIGIT_YEAR = r"^\s*\d{1,2}[-/.]\d{1,2}[-/.]\d{2}(?:\D|$)"
_DAY_OR_MONTH = r"^\s*\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"
_NO_TIMES = (
    (_TWO_DIGIT_YEAR, "has a year of two digits"),
    (_DAY_OR_MONTH, "does not say which number is the day; write the year first"),
    (r"\d\s*[AaPp][Mm]$", "has a clock of twelve hours; write 13:00 for 1:00 PM"),
    (r"^\s*\d{1,2}:\d{2}", "is a time of day; name the column of dates too, as [date, time]"),
    (r"\d:\d{2}\S* [A-Z]{2,5}$", "names a time zone; write its offset, like +01:00"),
    (r"^\d\.\d+[eE]\+?\d+$", "is an epoch that was rounded; write all of its digits"),
)
"""What text looks like that is not a time, with what to say of it."""
_SAMPLE_ROWS = 1_000
_MOST_FORMS = 64


@dataclass(frozen=True, order=True)
class Form:
    """One way in which text holds a time: a format of strptime that includes the offset as it is
    written, and that offset in seconds east of UTC (None: the text has none).
    """

    format: str
    offset_s: int | None

    def microseconds(self, text: pl.Expr) -> pl.Expr:
        """Return microseconds since 1970 UTC, Int64; null where the text has another form."""
        pattern = self.format
        if "%H" in pattern and "%M" not in pattern:  # polars reads hours only together with minutes
            text, pattern = text + "|00", f"{pattern}|%M"
        parsed = text.str.to_datetime(pattern, strict=False, time_unit="us").to_physical()
        own = parsed - self.offset_s * 1_000_000 if self.offset_s else parsed
        return pl.when(parsed >= 0).then(own)  # '%Y' also reads the two digits of 24-03-01


@dataclass(frozen=True)
class Times:
    """How the times of one table are written.

    columns: one column, or a date and a time of day that are joined. forms: of text, the usual one
    first. unit: of epochs. padded: some texts have blanks around them. decimal_comma: some write
    fractions of a second with a comma. dates: the column of dates is no text in the file.
    unreadable: some texts that no form reads.
    """

    columns: tuple[str, ...]
    kind: Kind = "naive"
    forms: tuple[Form, ...] = ()
    unit: str = ""
    padded: bool = False
    decimal_comma: bool = False
    dates: bool = False
    unreadable: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes for people about what was assumed."""
        zoneless = self.forms and all(form.offset_s is None for form in self.forms)
        return (NO_ZONE,) if self.kind == "naive" or zoneless else ()

    def raw(self) -> pl.Expr:
        """Return the times as they are in the file; null where a part is missing."""
        if len(self.columns) == 1:
            return pl.col(self.columns[0])
        date, clock = map(pl.col, self.columns)
        day = date.cast(pl.Date) if self.dates else date
        return pl.concat_str(
            day.cast(pl.String).str.strip_chars(),
            clock.cast(pl.String).str.strip_chars().str.zfill(2),  # an hour may be written as 7
            separator=" ",
        )

    def microseconds(self) -> pl.Expr:
        """Return microseconds since 1970 UTC, Int64; null where a time cannot be read."""
        raw = self.raw()
        if self.kind in ("naive", "zoned"):
            return raw.cast(pl.Datetime("us")).to_physical()
        if self.kind == "epoch":
            return _epochs(raw, self.unit)
        text = self._text()
        if not self.forms:
            return pl.lit(None, pl.Int64)
        if len(self.forms) == 1:
            return self.forms[0].microseconds(text)
        return pl.coalesce(form.microseconds(text) for form in self.forms)

    def zoneless(self) -> pl.Expr:
        """Return which texts have no offset."""
        bare = [form for form in self.forms if form.offset_s is None]
        text = self._text()
        return pl.any_horizontal(
            pl.lit(False), *(form.microseconds(text).is_not_null() for form in bare)
        )

    @property
    def mixes_zones(self) -> bool:
        """Return whether some texts have an offset and others have none."""
        return len({form.offset_s is None for form in self.forms}) > 1

    def _text(self) -> pl.Expr:
        text = self.raw().cast(pl.String)
        if self.padded:
            text = text.str.strip_chars()
        return text.str.replace(",", ".", literal=True) if self.decimal_comma else text


def survey(columns: tuple[str, ...], schema: pl.Schema, frames: Sequence[pl.LazyFrame]) -> Times:
    """Return how the times in these columns of all frames are written; `schema` is that of the
    first frame. Text takes one pass over the column, everything else a look at the first rows.
    """
    if len(columns) > 1:
        dates = schema[columns[0]] in (pl.Date, pl.Datetime)
        return _with_forms(Times(columns, "text", dates=dates), frames)
    dtype = schema[columns[0]]
    if isinstance(dtype, pl.Datetime):
        return Times(columns, "naive" if dtype.time_zone is None else "zoned")
    if dtype == pl.Date:
        return Times(columns, "naive")
    if unit := _unit_of_most(_sample(frames, pl.col(columns[0]).cast(pl.String))):
        return Times(columns, "epoch", unit=unit)
    return _with_forms(Times(columns, "text"), frames)


def _with_forms(times: Times, frames: Sequence[pl.LazyFrame]) -> Times:
    """Return the times with every form that occurs in the frames."""
    raw = times.raw().cast(pl.String)
    texts = _sample(frames, raw)
    while True:
        found = [form for text in texts if (form := form_of(text)) is not None]
        more = replace(
            times,
            forms=(*times.forms, *_by_frequency(found, times.forms)),
            padded=times.padded or any(text != text.strip() for text in texts),
            decimal_comma=times.decimal_comma or any("," in text for text in texts),
        )
        if more == times or len(more.forms) > _MOST_FORMS:
            return replace(times, unreadable=tuple(texts))
        times = more
        texts = _sample(frames, raw, times.microseconds().is_null())
        if not texts:
            return times


def _by_frequency(found: list[Form], known: Iterable[Form]) -> list[Form]:
    new = sorted(set(found) - set(known))
    return sorted(new, key=lambda form: -found.count(form))


def _sample(
    frames: Sequence[pl.LazyFrame], text: pl.Expr, where: pl.Expr | None = None
) -> list[str]:
    """Return the first texts that are not null, some of every frame."""
    each = max(1, _SAMPLE_ROWS // len(frames))
    wanted = text.is_not_null() if where is None else text.is_not_null() & where
    drawn = [frame.filter(wanted).select(text.alias("text")).head(each) for frame in frames]
    return pl.concat(drawn).collect(engine="streaming")["text"].to_list()


def form_of(text: str) -> Form | None:
    """Return the form of one text, or None where it is not a time."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        return None
    groups = match.groupdict()
    pattern = next(form for name, form in _DATES.items() if groups[name])
    clock = next((form for name, form in _CLOCKS.items() if groups[name]), "")
    if not clock:
        return Form(pattern + (groups["date_zone"] or ""), 0 if groups["date_zone"] else None)
    if groups["fraction"]:
        if not clock.endswith("%S"):
            return None
        clock += "%.f"
    zone = groups["zone"]
    seconds = None if zone is None else _seconds(groups["offset"] or "+00")
    return Form(f"{pattern}{groups['mark']}{clock}{zone or ''}", seconds)


def _seconds(offset: str) -> int:
    """Return an offset like +01, -0530 or +05:53:28 in seconds east of UTC."""
    digits = offset.replace(":", "")
    hours, minutes, seconds = (int(digits[i : i + 2] or 0) for i in (1, 3, 5))
    return (-1 if digits[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds)


def _epochs(raw: pl.Expr, unit: str) -> pl.Expr:
    """Return microseconds from epochs, which may be text; null beyond the years 1973 to 2103."""
    per_s = _UNITS[unit]
    whole = raw.cast(pl.Int64, strict=False)
    if unit == "ns":
        scaled = whole // 1_000
    else:  # doubles hold microseconds of this century exactly
        factor = 1_000_000 // per_s
        decimal = (raw.cast(pl.Float64, strict=False) * factor).round().cast(pl.Int64, strict=False)
        is_whole = raw.cast(pl.Float64, strict=False) == whole
        scaled = pl.when(is_whole).then(whole * factor).otherwise(decimal)
    in_range = scaled.is_between(_FIRST_EPOCH_S * 1_000_000, _LAST_EPOCH_S * 1_000_000)
    return pl.when(in_range).then(scaled)


def unit_of(number: float) -> str | None:
    """Return the unit of an epoch by its magnitude, or None for a number that is not one."""
    return next(
        (u for u, n in _UNITS.items() if _FIRST_EPOCH_S * n <= number <= _LAST_EPOCH_S * n), None
    )


def _unit_of_most(texts: Sequence[str]) -> str | None:
    """Return the unit of most of these epochs, or None where most are not epochs."""
    units = [unit_of(float(text)) for text in texts if is_number(text)]
    most = max(set(units), key=units.count, default=None)
    return most if 2 * units.count(most) > len(texts) else None


def is_number(text: str) -> bool:
    """Return whether the text is a number without a sign or an exponent."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_clock(text: str) -> bool:
    """Return whether the text is a time of day without a date."""
    return _CLOCK.fullmatch(text.strip()) is not None


def why_not(texts: Sequence[str]) -> str:
    """Return what these texts look like, where they are not times; '' for anything else."""
    text = next((text for text in texts if form_of(text) is None), "")
    units = {unit: text for text in texts if is_number(text) and (unit := unit_of(float(text)))}
    if len(units) > 1:
        written = " and ".join(f"{text!r} in {unit}" for unit, text in units.items())
        return f"there are epochs of different units: {written}"
    if is_number(text) and _EXCEL_DAYS[0] <= float(text) <= _EXCEL_DAYS[1]:
        return (
            f"{text!r} looks like a serial number of Excel (days since 1900); format these cells "
            "as dates, like 2024-01-31 23:59, before you export them"
        )
    if is_number(text):
        return "" if units else f"{text!r} is a number, and no epoch of the years 1973 to 2103"
    return next((f"{text!r} {what}" for pattern, what in _NO_TIMES if re.search(pattern, text)), "")


BAD_YEARS = {
    "timestamps with a year of two digits": _TWO_DIGIT_YEAR,
    "timestamps that do not say which number is the day": _DAY_OR_MONTH,
}
"""What is wrong with text that no form reads, with the pattern of such text."""
