"""Test the rules on single series: what load may look like passes, and every fault is found."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.fleets.suspects import Observed, breaks, counter, markers, spikes

DAY = 288
N = 20 * DAY
T = np.arange(N)
Series = NDArray[np.float32]
Maker = Callable[[np.random.Generator], NDArray[np.float64]]


def observed(values: NDArray[np.float64]) -> Observed:
    return Observed(values.astype(np.float32), np.arange(values.size))


def load(rng: np.random.Generator) -> NDArray[np.float64]:
    """Five cores with a daily cycle."""
    return 5 + 2 * np.sin(2 * np.pi * T / DAY) + 0.3 * rng.normal(size=N)


def rules_that_fire(values: NDArray[np.float64]) -> set[str]:
    series = observed(values)
    answers = {
        "counter": counter(series, DAY),
        "spikes": spikes(series),
        "markers": markers(series),
        "breaks": breaks(series, DAY),
    }
    return {rule for rule, answer in answers.items() if answer}


def cleaned_up(baseline: float) -> Maker:
    """A disk that fills for days and is cleaned up to a baseline."""

    def make(rng: np.random.Generator) -> NDArray[np.float64]:
        used, series = baseline, []
        for written in rng.gamma(0.5, 0.2, N):
            used = used + written if used < baseline + 200 else baseline * (1 + 0.1 * rng.random())
            series.append(used)
        return np.array(series)

    return make


def idle_and(burst: Callable[[np.random.Generator], NDArray[np.float64]], every: int) -> Maker:
    def make(rng: np.random.Generator) -> NDArray[np.float64]:
        return np.where(every - 1 - T % every < 2, burst(rng), 0.001 * (1 + rng.random(N)))

    return make


LEGITIMATE: dict[str, Maker] = {
    "load": load,
    "a batch job that is on and off": lambda rng: np.where(T % DAY < 90, 600 + rng.random(N), 0),
    "a nightly job that ramps up": lambda rng: np.where(
        T % DAY < 100, T % DAY * 6 + rng.random(N), 0
    ),
    "a daily job over idle noise": idle_and(lambda rng: 1.2 + 0.1 * rng.random(N), DAY),
    "a job every four days over idle noise": idle_and(lambda rng: 8 + rng.random(N), 4 * DAY),
    "a disk that is cleaned up": cleaned_up(100),
    "a leak that restarts mend": cleaned_up(50),
    "a disk that only grows": lambda rng: 400 + np.cumsum(rng.gamma(0.5, 0.02, N)),
    "requests since midnight": lambda rng: np.cumsum(
        rng.poisson(50, (N // DAY, DAY)), axis=1
    ).ravel(),
    "requests of the whole day": lambda rng: np.repeat(rng.poisson(1e5, N // DAY), DAY),
    "a saw of an hour": lambda rng: T % 12 * 10 + rng.random(N),
    "bytes with a heavy tail": lambda rng: rng.pareto(1.2, N) * 1e4,
    "bytes that vary over decades": lambda rng: np.exp(rng.normal(0, 3, N)),
    "bursts from zero": lambda rng: np.where(rng.random(N) < 0.003, 1e6 * rng.pareto(1.5, N), 0),
    "rare errors": lambda rng: rng.poisson(0.01, N),
    "changes of a replica count": lambda rng: rng.choice([0] * 11 + [1, -1], N),
    "a limit that is raised to 2 GiB": lambda rng: np.where(T < 999, 2.0**24, 2.0**31),
    "a new service": lambda rng: np.where(T < 999, 0.001 * (1 + rng.random(N)), 3 * load(rng)),
    "temperatures below zero": lambda rng: load(rng) - 5,
    "a percentage that saturates": lambda rng: np.clip(25 * load(rng), 0, 99),
    "a constant": lambda rng: np.full(N, 9999.0),
    "zeros": lambda rng: np.zeros(N),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_load_as_it_may_be_is_not_suspected(name: str) -> None:
    for seed in range(5):
        assert rules_that_fire(LEGITIMATE[name](np.random.default_rng(seed))) == set(), seed


def counted(
    rng: np.random.Generator, n_resets: int, start: float = 0, idle_steps: int = 0
) -> NDArray[np.float64]:
    """A counter whose process starts anew so many times, and counts nothing for the first steps of
    each day.
    """
    resets = set(rng.choice(np.arange(1, N), n_resets, replace=False).tolist())
    total, series = start, []
    increases = 60 * load(rng)
    increases[np.isin(T % DAY, range(idle_steps))] = 0
    for step, increase in enumerate(increases):
        total = increase * rng.random() if step in resets else total + increase
        series.append(total)
    return np.array(series)


@pytest.mark.parametrize(("n_resets", "start"), [(0, 0), (1, 1e8), (4, 0), (150, 0)])
def test_a_cumulative_counter_is_found_with_its_first_fall(n_resets: int, start: float) -> None:
    values = counted(np.random.default_rng(1), n_resets, start)
    found = counter(observed(values), DAY)
    falls = np.flatnonzero(np.diff(values) < 0) + 1
    assert found is not None
    assert found.n_falls == falls.size
    assert found.first == (falls[0] if falls.size else None)


def test_a_counter_that_is_idle_at_night_and_has_gaps_is_found() -> None:
    rng = np.random.default_rng(2)
    series = observed(counted(rng, 3, idle_steps=120))
    assert counter(series.at(rng.random(N) < 0.9), DAY) is not None


def test_a_sum_over_counters_is_taken_for_one_by_its_name_only() -> None:
    rng = np.random.default_rng(3)
    summed = counted(rng, 2) + counted(rng, 2) + counted(rng, 2)
    assert counter(observed(summed), DAY) is None
    assert counter(observed(summed), DAY, counter_name=True) is not None
    assert counter(observed(load(rng)), DAY, counter_name=True) is None


@pytest.mark.parametrize(("factor", "n_values"), [(1e6, 1), (1e6, 12), (-1e6, 1), (2000, 1)])
def test_a_value_far_above_all_others_is_found_where_it_is(factor: float, n_values: int) -> None:
    values = load(np.random.default_rng(4))
    values[3000 : 3000 + n_values] *= factor
    found = spikes(observed(values))
    assert found is not None
    assert (found.first, found.number, found.value) == (3000, n_values, np.float32(values[3000]))
    assert 5 < found.usual < 9


def test_a_spike_is_found_among_zeros() -> None:
    values = np.where(T % 50 == 0, load(np.random.default_rng(5)), 0)
    values[77] = 1e7
    found = spikes(observed(values))
    assert found is not None
    assert found.first == 77


def test_the_largest_of_ever_larger_bursts_is_no_spike() -> None:
    values = load(np.random.default_rng(11))
    values[[100, 900, 3000]] = 9_000, 15_000, 1e6
    assert spikes(observed(values)) is None
    values[[100, 900]] = 60
    assert spikes(observed(values)) is not None


@pytest.mark.parametrize(
    "marker",
    [
        *(-1, -99, -999, -9999, 999, 9999, 99999, 32767, 65535, -32768, 2**31 - 1, 2**32 - 1),
        *(9223372036854771712, 2**64 - 1, -(2**63)),
    ],
)
def test_a_marker_for_missing_values_is_found_and_counted(marker: int) -> None:
    values = load(np.random.default_rng(6))
    values[[40, 41, 2000]] = marker
    (found,) = markers(observed(values))
    assert (found.first, found.number, found.value) == (40, 3, np.float32(marker))


def test_two_markers_are_both_found_and_no_limit_at_all_is_one_too() -> None:
    values = load(np.random.default_rng(7))
    values[[10, 20]], values[[30, 40]] = -1, 9999
    assert [marker.value for marker in markers(observed(values))] == [-1, 9999]
    (only,) = markers(observed(np.full(N, 9223372036854771712.0)))
    assert (only.number, only.nearest) == (N, None)


@pytest.mark.parametrize("marker", [-1, -999, 999, 9999, 65535])
def test_a_number_among_others_of_its_size_is_no_marker(marker: int) -> None:
    values = marker * load(np.random.default_rng(8)) / 4
    values[[40, 41, 2000]] = marker
    assert markers(observed(values)) == []


@pytest.mark.parametrize("factor", [1000, 1024, 1e6, 2**20, 1e9, 2**30, 1 / 1000, 1 / 2**20])
def test_a_change_of_unit_is_found_where_it_is(factor: float) -> None:
    values = load(np.random.default_rng(9))
    values[3000:] *= factor
    values[[100, 2999, 4000]] = 0
    values[5000] = 1e14
    (found,) = breaks(observed(values), DAY)
    assert (found.first, found.same_shape) == (3000, True)
    assert found.shift == pytest.approx(np.log10(factor), abs=0.05)
    assert found.power == round(abs(np.log10(factor)) / 3)


def test_another_unit_for_two_days_has_a_break_on_either_side() -> None:
    values = load(np.random.default_rng(10))
    values[1000 : 1000 + 2 * DAY] *= 1000
    first, second = breaks(observed(values), DAY)
    assert (first.first, second.first) == (1000, 1000 + 2 * DAY)
    assert first.shift > 0 > second.shift


def test_load_of_another_shape_a_thousand_times_larger_is_told_from_another_unit() -> None:
    rng = np.random.default_rng(12)
    values = np.where(T < 3000, 0.005 + 0.0001 * rng.random(N), load(rng))
    (found,) = breaks(observed(values), DAY)
    assert (found.first, found.same_shape) == (3000, False)


def test_a_service_that_is_switched_on_and_off_changes_no_unit() -> None:
    values = load(np.random.default_rng(13))
    values[T // DAY % 4 == 0] /= 1000
    assert breaks(observed(values), DAY) == []


def test_too_few_values_are_not_judged() -> None:
    assert rules_that_fire(np.arange(20.0)) == set()
    assert rules_that_fire(np.array([1.0])) == set()
