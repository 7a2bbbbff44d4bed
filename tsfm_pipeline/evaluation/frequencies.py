"""Names of frequencies as pandas writes them: the step and the season that each stands for.

What belongs here: reading such a name, in the spelling of any release of pandas. What does not: the
lengths of forecasts that a benchmark derives from a frequency (`evaluation.public_benchmarks`),
steps that are given in minutes (`fleets.fields`).
"""

import re
from dataclasses import dataclass
from datetime import timedelta

_FORM = re.compile(r"(?P<count>[0-9]*)(?P<unit>[A-Za-z]+)(?:-(?P<anchor>[A-Z]{3}))?")
_UNITS = {
    "S": "S",
    "s": "S",
    "T": "T",
    "min": "T",
    "H": "H",
    "h": "H",
    "D": "D",
    "W": "W",
    "B": "B",
    **dict.fromkeys(("M", "ME", "MS"), "M"),
    **dict.fromkeys(("Q", "QE", "QS"), "Q"),
    **dict.fromkeys(("A", "AS", "Y", "YE", "YS"), "A"),
}
_CALLED = {
    "S": "seconds",
    "T": "minutes",
    "H": "hours",
    "D": "days",
    "W": "weeks",
    "B": "business days",
    "M": "months",
    "Q": "quarters",
    "A": "years",
}
_LENGTHS = {
    "S": timedelta(seconds=1),
    "T": timedelta(minutes=1),
    "H": timedelta(hours=1),
    "D": timedelta(days=1),
    "W": timedelta(weeks=1),
}
_SEASONS = {"S": 3600, "T": 1440, "H": 24, "D": 1, "W": 1, "B": 5, "M": 12, "Q": 4, "A": 1}


@dataclass(frozen=True)
class Frequency:
    """A frequency: every `count` units. unit: S, T, H, D, W, B, M, Q or A, the letters of pandas 1
    for seconds, minutes, hours, days, weeks, business days, months, quarters and years.
    """

    count: int
    unit: str

    @property
    def called(self) -> str:
        """Return its name for people, such as '15 minutes'."""
        unit = _CALLED[self.unit]
        return f"{self.count} {unit if self.count > 1 else unit.removesuffix('s')}"

    @property
    def step(self) -> timedelta | None:
        """Return the time between two steps; None where steps differ in length."""
        length = _LENGTHS.get(self.unit)
        return None if length is None else self.count * length

    @property
    def season(self) -> int:
        """Return the steps of the season by which MASE is scaled: an hour of seconds, a day of
        minutes or hours, a year of months or quarters, and one step of anything else.

        One step also where the season is not a whole number of steps (`gluonts.time_feature`'s
        `get_seasonality`, gluonts 0.15).
        """
        season, rest = divmod(_SEASONS[self.unit], self.count)
        return 1 if rest else season


def frequency_of(name: str) -> Frequency:
    """Return the frequency that a name of pandas stands for: `15T`, `15min`, `H`, `h`, `W-SUN`,
    `MS`, `QE-DEC`. An anchor, such as the last day of a week, is read and not kept.

    Raises ValueError for any other name.
    """
    match = _FORM.fullmatch(name)
    unit = None if match is None else _UNITS.get(match["unit"])
    if match is None or unit is None or match["count"] == "0":
        raise ValueError(
            f"the frequency is {name!r}; allowed: a whole number, if it is not 1, and a unit of "
            f"pandas ({', '.join(_UNITS)}), as in 15T or W-SUN"
        )
    return Frequency(int(match["count"] or 1), unit)
