"""Test what a known event may be in a fleet file, and which validation origins count beside it."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tsfm_pipeline.evaluation.events import Event, EventSteps

DAY = timedelta(days=1)
MIDNIGHT = datetime(2024, 3, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-03-08", MIDNIGHT, MIDNIGHT + DAY),
        ("{start: 2024-03-08, end: 2024-03-08}", MIDNIGHT, MIDNIGHT + DAY),
        ("{start: 2024-03-08, end: 2024-03-10, name: sale}", MIDNIGHT, MIDNIGHT + 3 * DAY),
        (
            "{start: 2024-03-08T06:30, end: 2024-03-08T08:00}",
            MIDNIGHT + 6.5 * HOUR,
            MIDNIGHT + 8 * HOUR,
        ),
        (
            "{start: 2024-03-08T06:30:00+02:00, end: 2024-03-08}",
            MIDNIGHT + 4.5 * HOUR,
            MIDNIGHT + DAY,
        ),
    ],
)
def test_an_event_is_a_day_days_or_a_time(text: str, start: datetime, end: datetime) -> None:
    event = Event.model_validate(yaml.safe_load(text))
    assert (event.start, event.end) == (start, end)
    assert Event.model_validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2024-02-30", "event"),
        ({"start": "2024-03-08"}, "end"),
        ({"start": date(2024, 3, 8), "end": date(2024, 3, 7)}, "not after its start"),
        ({"start": "2024-03-08T06:00", "end": "2024-03-08T06:00"}, "not after its start"),
        ({"start": date(2024, 3, 8), "end": date(2024, 3, 8), "metric": "cpu"}, "metric"),
    ],
)
def test_anything_else_is_refused_by_name(value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Event.model_validate(value)


def steps_of(*events: tuple[float, float], step: timedelta = HOUR) -> EventSteps:
    """Events from and to before these hours after midnight, on a grid that begins at midnight."""
    return EventSteps.of(
        [Event(start=MIDNIGHT + a * HOUR, end=MIDNIGHT + b * HOUR) for a, b in events],
        MIDNIGHT,
        step,
    )


def test_a_step_belongs_to_an_event_that_touches_it() -> None:
    steps = steps_of((2, 4), (9.5, 9.6), (-3, -1))
    assert steps.first.tolist() == [2, 9, -3]
    assert steps.after.tolist() == [4, 10, -1]
    # A horizon of one step shows the steps of the events themselves.
    single = [origin + 1 for origin in range(-6, 12) if steps.touch(np.array([origin]), 1)[0]]
    assert single == [-3, -2, 2, 3, 9]


def test_marked_steps_that_follow_each_other_are_one_event() -> None:
    marked = EventSteps.of_marked(np.array([2, 3, 7, 9, 10, 11]))
    assert (marked.first.tolist(), marked.after.tolist()) == ([2, 7, 9], [4, 8, 12])
    both = steps_of((20, 22)).with_more(marked)
    inside = [step for step in range(25) if both.touch(np.array([step - 1]), 1)[0]]
    assert inside == [2, 3, 7, 9, 10, 11, 20, 21]
    assert EventSteps.of_marked(np.array([], dtype=np.int32)).first.size == 0


def test_requests_hear_only_origins_of_their_own_kind_and_all_where_none_is() -> None:
    steps = steps_of((10, 12))
    offsets, horizon = (2, 4, 6), 2
    origins = np.array([12, 9, 30])  # after the event, inside it, and long after it
    # Origins 10, 8, 6 of the first: the steps 11 and 12, 9 and 10, 7 and 8.
    assert steps.comparable(origins, offsets, horizon).tolist() == [
        [False, False, True],
        [True, True, True],  # nothing before it was like the event
        [True, True, True],
    ]
    # The second day of an event is compared with the first.
    assert steps_of((8, 12)).comparable(np.array([9]), (2, 4), horizon).tolist() == [[True, False]]


@given(
    events=st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 12)), max_size=4),
    horizon=st.integers(1, 9),
    origin=st.integers(-20, 60),
)
def test_a_window_touches_an_event_exactly_if_they_share_a_step(
    events: list[tuple[int, int]], horizon: int, origin: int
) -> None:
    steps = steps_of(*((first, first + length) for first, length in events))
    inside = {first + i for first, length in events for i in range(length)}
    window = set(range(origin + 1, origin + horizon + 1))
    assert bool(steps.touch(np.array([origin]), horizon)[0]) == bool(window & inside)


def test_without_events_every_origin_counts() -> None:
    assert steps_of().comparable(np.arange(5), (1, 2), 3).all()
