import dataclasses

import jinja2
import numpy as np
import pytest

from tsfm_pipeline.studies.time_r1 import prompts
from tsfm_pipeline.studies.time_r1.codecs import Codec, NumberCodec, TextCodec
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.prompts import About, kind_word, render, step_words
from tsfm_pipeline.studies.time_r1.vocabulary import STEPS, WORDS
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.text_windows import drawn, hand_made

CODECS: dict[str, Codec] = {"own": NumberCodec(), "hub": TextCodec()}
ETT = About(
    "Electricity transformer temperature 1, hourly",
    {"OT": "oil temperature of a transformer", "HUFL": "high useful load of a transformer"},
)
PAST = np.array([[10.0, 14.0, 10.0, 14.0]])  # mean 12, deviation 2
TRUTH = np.array([[99.0, 98.0]])
DRAFT = np.array([[12.0, 14.0]])
ETTH1 = hand_made(PAST, TRUTH)
FLEET = hand_made(
    np.array([[0.0, np.nan, 0.25, 0.125]]),
    TRUTH,
    data_set="demo",
    step="5 minutes",
    season=288,
    channels=("tenant-0012/cpu",),
)
NO_CLOCK = hand_made(
    PAST, TRUTH, times=False, data_set="corpus", step="1 step", season=1, channels=("series 3",)
)


def rendered(windows: Windows, template: str, draft=None, about=None) -> list[str]:
    return render(windows, frames_of(windows, draft), CODECS[template], template, draft, about)


# Checked by hand: one deviation above the mean is n143, since 10 sinh(4 * .43) / sinh(4) = .990 is
# nearer than the next number, 1.033; 1.2247 deviations of the fleet's values are n148 (1.223).
OWN = {
    "ETTh1 with a draft": (
        ETTH1,
        DRAFT,
        ETT,
        "task forecast 2 data 1 hour season 24 channel temperature test friday 5 "
        "draft n100 n143 past n57 n143 n57 n143 format think answer",
    ),
    "a fleet without meaning": (
        FLEET,
        None,
        None,
        "task forecast 2 data 5 minute season 288 channel other test friday 5 "
        "past n52 missing n148 n100 format think answer",
    ),
    "without a clock": (
        NO_CLOCK,
        None,
        About("Synthetic corpus", {"series 3": "a synthetic series"}),
        "task forecast 2 data 1 step season 1 channel other test none none "
        "past n57 n143 n57 n143 format think answer",
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_the_own_prompt_is_this_line(case):
    windows, draft, about, line = OWN[case]
    assert rendered(windows, "own", draft, about) == [line]


HUB_ETTH1 = """\
# Task
Forecast the next 2 values of one channel of a time series from its last 4 values.

# Data set
ETTh1: Electricity transformer temperature 1, hourly. The values are 1 hour apart; 24 of them make one season.

# Channel
It measures: oil temperature of a transformer.

# Test data
time, value
2016-07-01 02:00, 10.00
2016-07-01 03:00, 14.00
2016-07-01 04:00, 10.00
2016-07-01 05:00, 14.00

A draft of the next 2 values, by another forecaster, in order of time:
12.00
14.00

# Format
First write your reasons between <think> and </think>: what the level, the season and the last values say, and where the draft should be corrected.
Then write the forecast between <answer> and </answer>: exactly 2 numbers in order of time, one per line, without times, header, units or separators of thousands. Write nothing before, between or after these two parts."""
HUB_FLEET = """\
# Task
Forecast the next 2 values of one channel of a time series from its last 4 values.

# Data set
demo. The values are 5 minutes apart; 288 of them make one season.

# Channel
What it measures is not known.

# Test data
time, value
2016-07-01 02:00, 0.000
2016-07-01 03:00, missing
2016-07-01 04:00, 0.250
2016-07-01 05:00, 0.125

# Format
First write your reasons between <think> and </think>: what the level, the season and the last values say.
Then write the forecast between <answer> and </answer>: exactly 2 numbers in order of time, one per line, without times, header, units or separators of thousands. Write nothing before, between or after these two parts."""
HUB_NO_CLOCK = """\
# Task
Forecast the next 2 values of one channel of a time series from its last 4 values.

# Data set
corpus. The values are 1 step apart.

# Channel
What it measures is not known.

# Test data
row, value
1, 10.00
2, 14.00
3, 10.00
4, 14.00

# Format
First write your reasons between <think> and </think>: what the level, the season and the last values say.
Then write the forecast between <answer> and </answer>: exactly 2 numbers in order of time, one per line, without times, header, units or separators of thousands. Write nothing before, between or after these two parts."""


@pytest.mark.parametrize(
    ("windows", "draft", "about", "page"),
    [
        (ETTH1, DRAFT, ETT, HUB_ETTH1),
        (FLEET, None, None, HUB_FLEET),
        (NO_CLOCK, None, None, HUB_NO_CLOCK),
    ],
    ids=OWN,
)
def test_the_hub_prompt_is_this_page(windows, draft, about, page):
    assert rendered(windows, "hub", draft, about) == [page]


PARTS = {
    "own": ("task ", "data ", "channel ", "test ", "format "),
    "hub": ("# Task\n", "# Data set\n", "# Channel\n", "# Test data\n", "# Format\n"),
}


@pytest.mark.parametrize("template", CODECS)
@pytest.mark.parametrize("windows", [ETTH1, FLEET, NO_CLOCK], ids=OWN)
@pytest.mark.parametrize("draft", [None, DRAFT], ids=["no draft", "draft"])
def test_a_prompt_has_its_five_parts_once_and_in_order(template, windows, draft):
    prompt = rendered(windows, template, draft, ETT)[0]
    assert [prompt.count(part) for part in PARTS[template]] == [1] * 5
    assert sorted(PARTS[template], key=prompt.index) == list(PARTS[template])


@pytest.mark.parametrize("template", CODECS)
def test_a_prompt_is_the_same_bytes_each_time_and_alone(template):
    windows = drawn(6, 96, 24)
    draft = windows.history[:, -24:]
    once = rendered(windows, template, draft, ETT)
    prompts._template.cache_clear()
    again = rendered(windows, template, draft, ETT)
    alone = rendered(windows.at([4]), template, draft[[4]], ETT)
    assert [text.encode() for text in once] == [text.encode() for text in again]
    assert alone == [once[4]]
    assert len(set(once)) == 6


@pytest.mark.parametrize("template", CODECS)
def test_nothing_after_the_origin_and_nothing_before_the_look_back_is_in_a_prompt(template):
    windows = dataclasses.replace(drawn(6, 96, 24), look_back=48)
    noise = np.random.default_rng(9)
    changed = dataclasses.replace(
        windows,
        truth=noise.normal(-1e6, 1e5, windows.truth.shape),
        past=np.hstack([noise.normal(1e6, 1e5, (6, 48)), windows.history]),
    )
    assert rendered(windows, template) == rendered(changed, template)
    shown = rendered(dataclasses.replace(windows, past=windows.past + np.arange(96)), template)
    assert all(a != b for a, b in zip(shown, rendered(windows, template), strict=True))


def test_the_last_time_that_a_prompt_shows_is_the_last_known_one():
    prompt = rendered(drawn(1, 96, 24), "hub", drawn(1, 96, 24).truth)[0]
    times = [line.split(",")[0] for line in prompt.splitlines() if line.startswith("2016-")]
    assert (times[0], times[-1], len(times)) == ("2016-06-27 06:00", "2016-07-01 05:00", 96)


@pytest.mark.parametrize("template", CODECS)
def test_no_channel_name_is_in_a_prompt_since_it_may_be_a_tenant(template):
    channels = ("acme-corp/cpu", "globex/mem", "initech/cpu")
    windows = dataclasses.replace(drawn(3, 96, 24), data_set="demo", channels=channels)
    about = About("Fleet", {"acme-corp/cpu": "cpu", "globex/mem": "mem"})
    text = "\n".join(rendered(windows, template, None, about))
    assert not any(tenant in text for tenant in ("acme", "globex", "initech"))


@pytest.mark.parametrize("with_draft", [False, True])
def test_every_word_of_an_own_prompt_is_in_the_vocabulary_and_all_prompts_are_equally_long(
    with_draft,
):
    windows = drawn(20, 96, 24)
    found = rendered(windows, "own", windows.truth if with_draft else None, ETT)
    words = [prompt.split(" ") for prompt in found]
    assert {word for row in words for word in row} <= set(WORDS)
    # The look-back, the draft, and at most 18 words around them: tokens cost time.
    assert {len(row) for row in words} == {96 + 24 * with_draft + 17 + with_draft}


def test_times_are_shown_to_the_second_only_where_they_need_it():
    half_minutes = np.datetime64("2016-07-01T00:00:30") + np.arange(4) * np.timedelta64(30, "s")
    windows = dataclasses.replace(ETTH1, times=half_minutes[None])
    assert "2016-07-01 00:01:30, 10.00" in rendered(windows, "hub")[0]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        *((f"1 {unit}", f"1 {unit}") for unit in STEPS),
        ("15 minutes", "15 minute"),
        ("1 trading day", "1 day"),
        ("0.5 minutes", "many minute"),
        ("12345 seconds", "many second"),
    ],
)
def test_a_step_is_two_words(step, words):
    assert step_words(step) == words
    assert set(words.split()) <= set(WORDS)


@pytest.mark.parametrize("step", ["", "hour", "1", "1 fortnight", "1hour", "one hour"])
def test_a_step_of_another_form_is_refused(step):
    with pytest.raises(ValueError, match=r"allowed is a number and one of second, minute, hour"):
        step_words(step)


@pytest.mark.parametrize(
    ("meaning", "kind"),
    [
        ("high useful load of a transformer", "load"),
        ("forecast of the air temperature", "temperature"),
        ("daily exchange rate of the Swiss franc", "rate"),
        ("cpu_r", "cpu"),
        ("Wind power", "power"),
        ("overloaded", "other"),
        ("", "other"),
    ],
)
def test_the_kind_of_a_channel_is_the_last_known_word_of_its_description(meaning, kind):
    assert kind_word(meaning) == kind


def test_a_field_that_a_template_asks_for_but_is_not_given_is_an_error(monkeypatch):
    source = jinja2.DictLoader({"own.j2": "task {{ horizon }} {{ truth }}"})
    monkeypatch.setattr(prompts, "PackageLoader", lambda package: source)
    prompts._template.cache_clear()
    try:
        with pytest.raises(jinja2.UndefinedError, match="truth"):
            rendered(ETTH1, "own")
    finally:
        prompts._template.cache_clear()


def test_an_unknown_template_is_an_error():
    with pytest.raises(jinja2.TemplateNotFound, match=r"other\.j2"):
        render(ETTH1, frames_of(ETTH1), NumberCodec(), "other")
