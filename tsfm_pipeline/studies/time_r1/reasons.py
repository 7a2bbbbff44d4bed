"""Reasons: findings as words, for the own policy and for operators.

What belongs here: both ways to tell findings. What does not: which findings there are (`findings`),
and the list of words that the own policy knows (`vocabulary`).
"""

import re
from collections.abc import Callable, Sequence

from tsfm_pipeline.studies.time_r1.drafts import (
    COMBINED,
    LAST_VALUE,
    N_SEASONS,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    frozen_context,
)
from tsfm_pipeline.studies.time_r1.findings import (
    Amplitude,
    Choice,
    Excess,
    Finding,
    LevelJump,
    MissedPeak,
    Moment,
    Offset,
    Spread,
    Trend,
)
from tsfm_pipeline.studies.time_r1.vocabulary import count_word

PARTS = 10
"""Amounts of the own words are whole tenths: of a standard deviation, or of a ratio."""
THOUGHT_WORDS, FILLER = 40, "done"
"""To how many own words a reason is filled. Between a value and the step of the answer one season
later there are always as many words then, and a policy whose attention sees distances can learn to
look there. The longest reason there can be, with every finding, has as many.
"""
NUMBER_NAMES = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def own_words(findings: Sequence[Finding]) -> str:
    """Return findings in words of the closed vocabulary, separated by single spaces.

    Amounts are rounded to whole tenths, so "up 3" is 0.3 standard deviations, and times of day to
    the hour. Raises ValueError where there is nothing to tell.
    """
    return " ".join(_told(findings, _OWN))


def filled(words: str) -> str:
    """Return own words with as many of `FILLER` behind them as make `THOUGHT_WORDS`."""
    return words + f" {FILLER}" * (THOUGHT_WORDS - len(words.split(" ")))


def sentence(findings: Sequence[Finding]) -> str:
    """Return findings as plain English sentences, for people. Amounts are rounded to two digits
    after the point. Raises ValueError where there is nothing to tell.
    """
    return " ".join(_told(findings, _PLAIN))


def draft_title(name: str) -> str:
    """Return how a draft is called in a sentence."""
    context = frozen_context(name)
    if context is not None:
        return f"the frozen model with {context} steps of context"
    return _TITLES.get(name, name.replace("_", " "))


_TITLES = {
    COMBINED: "the median of the drafts",
    LAST_VALUE: "the last value",
    SEASONAL_NAIVE: "the season before",
    SEASONS_MEAN: f"the mean of the last {NUMBER_NAMES[N_SEASONS]} seasons",
}
_DRAFT_WORDS = {
    COMBINED: "median drafts",
    LAST_VALUE: "last value",
    SEASONAL_NAIVE: "seasonal naive",
    SEASONS_MEAN: "mean four",
}


def _told(findings: Sequence[Finding], ways: "dict[type, Callable[..., str]]") -> list[str]:
    if not findings:
        raise ValueError("no findings are given; allowed: at least one")
    return [ways[type(finding)](finding) for finding in findings]


def _draft_words(name: str) -> str:
    """Return a draft's name in the closed vocabulary: an answer of a teacher has its number."""
    context = frozen_context(name)
    if context is not None:
        return f"model {count_word(context)}"
    number = re.fullmatch(r"answer_(\d+)", name)
    return f"answer {count_word(int(number[1]))}" if number else _DRAFT_WORDS.get(name, "other")


def _tenths(amount: float) -> str:
    return count_word(round(PARTS * abs(amount)))


def _direction(change: float) -> str:
    return "up" if change > 0 else "down"


def _own_moment(moment: Moment) -> str:
    if moment.clock is None:
        return f"step {count_word(moment.step)}"
    return f"hour {count_word(int(moment.clock[:2]))}"


def _own_choice(finding: Choice) -> str:
    words = [f"draft {_draft_words(finding.draft)}"]
    words.append("error unknown" if finding.error is None else f"error {_tenths(finding.error)}")
    if finding.best_other is not None and finding.best_error is not None:
        words.append(f"other {_draft_words(finding.best_other)} error")
        words.append(_tenths(finding.best_error))
    return " ".join(words)


_OWN: dict[type, Callable[..., str]] = {
    Choice: _own_choice,
    Spread: lambda f: f"spread {_tenths(f.distance)}",
    LevelJump: lambda f: f"level {_direction(f.change)} {_tenths(f.change)}",
    Amplitude: lambda f: f"amplitude {_tenths(f.ratio)}",
    Trend: lambda f: f"trend {_direction(f.change)} {_tenths(f.change)}",
    Offset: lambda f: f"draft {'below' if f.change > 0 else 'above'} {_tenths(f.change)}",
    MissedPeak: lambda f: (
        f"peak {_own_moment(f.at)} missed {_direction(f.miss)} {_tenths(f.miss)} "
        f"{count_word(f.seasons)}"
    ),
    Excess: lambda f: f"range {f.side} {_tenths(f.amount)} {_own_moment(f.at)}",
}


def _deviations(amount: float) -> str:
    return f"{abs(amount):.2f} standard deviations"


def _plain_moment(moment: Moment) -> str:
    if moment.clock is None:
        return f"step {moment.step + 1} of {moment.season}"
    hour, minute = moment.clock.split(":")
    return f"{int(hour)} h" if minute == "00" else moment.clock


def _running(finding: MissedPeak) -> str:
    """Return on how many days in a row, or seasons where the season is not known to be a day."""
    unit = "season" if finding.at.clock is None else "day"
    if finding.seasons == 1:
        return f"on the last {unit}"
    count = finding.seasons
    name = NUMBER_NAMES[count] if count < len(NUMBER_NAMES) else str(count)
    return f"on {name} {unit}s running"


def _plain_choice(finding: Choice) -> str:
    begin = f"The draft is {draft_title(finding.draft)}"
    if finding.error is None:
        return f"{begin}; it has no backtest."
    text = (
        f"{begin}; over the last {finding.steps} known steps it was off by "
        f"{_deviations(finding.error)} on average"
    )
    if finding.best_other is None or finding.best_error is None:
        return f"{text}."
    return f"{text}, the best other one, {draft_title(finding.best_other)}, by " + (
        f"{finding.best_error:.2f}."
    )


def _plain_peak(finding: MissedPeak) -> str:
    verb = "missed" if finding.miss > 0 else "forecast too high"
    average = " on average" if finding.seasons > 1 else ""
    return (
        f"The peak at {_plain_moment(finding.at)} was {verb} {_running(finding)}, by "
        f"{_deviations(finding.miss)}{average}."
    )


_PLAIN: dict[type, Callable[..., str]] = {
    Choice: _plain_choice,
    Spread: lambda f: (
        f"The {f.drafts} drafts lie {_deviations(f.distance)} apart on average, from the lowest to "
        "the highest."
    ),
    LevelJump: lambda f: (
        f"The last season lies {_deviations(f.change)} {'above' if f.change > 0 else 'below'} the "
        "one before."
    ),
    Amplitude: lambda f: (
        f"The last season's range is {f.ratio:.2f} times the mean range of the seasons before."
    ),
    Trend: lambda f: (
        f"The level {'rises' if f.change > 0 else 'falls'} by {_deviations(f.change)} per season."
    ),
    Offset: lambda f: (
        f"Over the last {f.steps} known steps the forecasts were {_deviations(f.change)} too "
        f"{'low' if f.change > 0 else 'high'} on average."
    ),
    MissedPeak: _plain_peak,
    Excess: lambda f: (
        f"The draft goes {_deviations(f.amount)} {f.side} the range of the history, at "
        f"{_plain_moment(f.at)}."
    ),
}
