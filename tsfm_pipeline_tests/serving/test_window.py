"""Test the window that counts calls and failures."""

from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.serving.window import BUCKETS, Window

CALLS = st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=60)


@given(calls=CALLS, seconds=st.floats(0.5, 400), wait=st.floats(0, 500))
def test_it_holds_the_calls_of_its_seconds_to_a_hundredth(
    calls: list[tuple[float, bool]], seconds: float, wait: float
) -> None:
    window, now, times = Window(seconds), 5.0, []
    for pause, failed in calls:
        now += pause
        window.add(now, failed=failed)
        times.append((now, failed))
    now += wait
    slack = 1e-9 * now
    surely = [f for t, f in times if now - t < seconds * (1 - 1 / BUCKETS) - slack]
    at_most = [f for t, f in times if now - t <= seconds + slack]
    n, failures = window.counts(now)
    assert len(surely) <= n <= len(at_most)
    assert sum(surely) <= failures <= sum(at_most)


def test_its_memory_is_bounded_however_many_calls_come_d4_d5() -> None:
    window = Window(30)
    for i in range(50_000):
        window.add(i / 1_000, failed=i % 2 == 0)
    assert len(window._buckets) <= BUCKETS
    n, failures = window.counts(49.999)
    assert 29_700 <= n <= 30_000
    assert abs(failures - n / 2) <= 1


def test_nothing_is_left_after_clearing() -> None:
    window = Window(30)
    window.add(1.0, failed=True)
    window.clear()
    assert window.counts(1.0) == (0, 0)
