"""Prompts: what a policy reads before it answers.

What belongs here: the fields of the templates, and filling them. What does not: the sentences
(`templates/*.j2`), how numbers are written (`codecs`), and the chat form of a hub model (`hub`).

Every template has five parts, each once: task, data set, channel, test data and format. A prompt
is a function of the look-back, its times, the draft, the name of the data set and the descriptions
alone. The truth of the windows is never read, and names of channels are never shown, since those of
a fleet are tenants.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tsfm_pipeline.studies.time_r1.codecs import Codec
from tsfm_pipeline.studies.time_r1.frames import Frames
from tsfm_pipeline.studies.time_r1.vocabulary import (
    CHANNEL_KINDS,
    MANY,
    STEPS,
    TAGS,
    WEEKDAYS,
    count_word,
)
from tsfm_pipeline.studies.time_r1.windows import Floats, Times, Windows

NO_CLOCK = "none"
"""Stands for weekday and hour where a data set has no clock."""
OTHER_KIND = "other"
"""Kind of a channel whose description has none of the words of CHANNEL_KINDS."""


@dataclass(frozen=True)
class About:
    """What is known about a data set in words.

    title: what it holds, without a full stop; may be empty. channels: what each channel measures
    by its name, as part of a sentence; a channel may be left out.
    """

    title: str = ""
    channels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """Fields of the own template: words of the closed vocabulary."""

    horizon: str
    step: str
    season: str
    kind: str
    weekday: str
    hour: str


def render(
    windows: Windows,
    frames: Frames,
    codec: Codec,
    template: str,
    draft: Floats | None = None,
    about: About | None = None,
) -> list[str]:
    """Return the prompt of each of N windows.

    frames: units of the numbers. template: name of a file of the folder `templates`, without its
    ending. draft: float64 [N, H] in the units of the data; the template says where it stands.
    about: what the data set and its channels are; nothing is known about them without it.

    Raises jinja2.UndefinedError if the template asks for a field that is not given, and ValueError
    for a step that is not a number of one of `vocabulary.STEPS`.
    """
    about = about or About()
    filled = _template(template)
    pasts = codec.write(windows.history, frames)
    drafts = [None] * len(windows) if draft is None else codec.write(draft, frames)
    stamps = None if windows.times is None else windows.times[:, -windows.look_back :]
    step = step_words(windows.step)
    prompts = []
    for row, channel in enumerate(windows.channels):
        meaning = about.channels.get(channel, "")
        weekday, hour = (NO_CLOCK, NO_CLOCK) if stamps is None else clock_words(stamps[row])
        words = Words(
            horizon=count_word(windows.horizon),
            step=step,
            season=count_word(windows.season),
            kind=kind_word(meaning),
            weekday=weekday,
            hour=hour,
        )
        prompts.append(
            filled.render(
                words=words,
                data_set=windows.data_set,
                about=about,
                step=windows.step,
                season=windows.season,
                horizon=windows.horizon,
                look_back=windows.look_back,
                meaning=meaning,
                times=None if stamps is None else _shown(stamps[row]),
                past=pasts[row],
                draft=drafts[row],
                tags=TAGS,
            )
        )
    return prompts


def step_words(step: str) -> str:
    """Return a step such as "15 minutes" or "1 trading day" as two words of the vocabulary: number
    and unit. Raises ValueError for another form.
    """
    match = re.fullmatch(rf"([0-9.]+) ([a-z]+ )?({'|'.join(STEPS)})s?", step)
    if match is None:
        raise ValueError(
            f"step {step!r}; allowed is a number and one of {', '.join(STEPS)}, as in '15 minutes'"
        )
    count, unit = match[1], match[3]
    return f"{count_word(int(count)) if count.isdigit() else MANY} {unit}"


def kind_word(meaning: str) -> str:
    """Return the last word of a channel's description that is a kind of channel, or `other`: an
    air temperature is a temperature.
    """
    words = re.findall(r"[a-z]+", meaning.lower())
    return next((word for word in reversed(words) if word in CHANNEL_KINDS), OTHER_KIND)


def clock_words(times: Times) -> tuple[str, str]:
    """Return weekday and hour of the last of some times, which is that of the last known value."""
    last = times[-1]
    # Day 0 of the Unix epoch was a Thursday.
    days = last.astype("datetime64[D]").astype(int)
    hours = last.astype("datetime64[h]").astype(int)
    return WEEKDAYS[(days + 3) % 7], count_word(hours % 24)


def _shown(times: Times) -> list[str]:
    """Return times as people write them, to the minute, or to the second where they need it."""
    seconds = times.astype("datetime64[s]")
    unit = "m" if (seconds == times.astype("datetime64[m]")).all() else "s"
    return [text.replace("T", " ") for text in seconds.astype(f"datetime64[{unit}]").astype(str)]


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("tsfm_pipeline.studies.time_r1"),
        # A prompt is plain text: nothing in it is HTML to escape.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.j2")
