"""Test how drivers draw values, move between them, and write them as numbers.

What belongs here: properties of every kind of field. What does not: which fields there are.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.studies.policy_search.moves import Coefficients, Kind, OneOf, SomeOf, word

INF = float("inf")
SIZES = OneOf((2, 4, 8, 16))
WORDS = OneOf(("gate", "softmax", "argmin"), ordered=False)
DAYS = SomeOf((1, 2, 3, 7), least=0)
GRID = SomeOf((0.0, 0.1, 0.2, 0.4, INF), numeric=True)
TRAITS = SomeOf(("spread", "fleet", "posterior"), least=2, all_is_none=True)
GATE = Coefficients({"spread": -1.0, "fleet": -2.5}, ("spread", "fleet", "posterior"))
KINDS = (SIZES, WORDS, DAYS, GRID, TRAITS, GATE)

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 10_000)


@given(kinds, seeds)
def test_what_is_drawn_can_be_written_as_numbers_and_read_again(kind: Kind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = kind.sample(rng)
    for value in (drawn, kind.neighbour(drawn, rng)):
        numbers = kind.encode(value)
        assert numbers is not None
        axes = kind.axes()
        assert set(numbers) == set(axes)
        assert all(0 <= number < axes[name].size for name, number in numbers.items())
        if kind is not GATE:  # which rounds to steps
            assert kind.decode(numbers) == value


@given(kinds, seeds)
def test_all_numbers_on_the_axes_stand_for_a_value(kind: Kind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = {name: int(rng.integers(axis.size)) for name, axis in kind.axes().items()}
    value = kind.decode(numbers)
    assert kind.decode(kind.encode(value)) == value


@given(kinds, seeds)
def test_a_neighbour_differs_from_the_value(kind: Kind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = kind.sample(rng)
    assert kind.neighbour(value, rng) != value


def neighbours(kind: Kind, value: object) -> list[object]:
    """All neighbours that 500 draws reach."""
    rng = np.random.default_rng(0)
    found: list[object] = []
    for _ in range(500):
        if (one := kind.neighbour(value, rng)) not in found:
            found.append(one)
    return found


def test_the_neighbours_of_one_of_a_scale_are_those_beside_it() -> None:
    assert sorted(neighbours(SIZES, 4)) == [2, 8]
    assert neighbours(SIZES, 16) == [8]
    assert sorted(neighbours(SIZES, 5)) == [2, 4, 8, 16]  # not on the scale: from anywhere
    assert sorted(neighbours(WORDS, "gate")) == ["argmin", "softmax"]


def test_the_neighbours_of_a_grid_are_longer_shorter_shifted_swapped_or_a_single_value() -> None:
    found = neighbours(GRID, (0.1, 0.2))
    assert (0.0, 0.1, 0.2) in found  # longer
    assert (0.1,) in found  # shorter, and a single value
    assert (0.0, 0.1) in found  # shifted
    assert (0.2, 0.4) in found
    assert (0.2, INF) in found  # one swapped
    assert len(found) == 3 + 2 + 2 + 4


def test_a_subset_keeps_its_least_size_and_its_order() -> None:
    assert all(value is None or len(value) == 2 for value in neighbours(TRAITS, None))
    assert all(
        value is None or len(value) >= 2 for value in neighbours(TRAITS, ("fleet", "spread"))
    )
    assert TRAITS.decode({"spread": 1, "fleet": 1, "posterior": 1}) is None
    assert TRAITS.decode({"spread": 0, "fleet": 0, "posterior": 1}) == ("spread", "posterior")
    assert () in neighbours(DAYS, (3,))
    assert TRAITS.encode(("posterior", "spread")) is None  # in another order: another policy


def test_coefficients_are_scaled_as_a_whole_or_one_is_moved() -> None:
    found = neighbours(GATE, {"spread": -1.0, "fleet": -2.5})
    assert {"spread": -0.8, "fleet": -2.0} in found
    assert {"spread": -1.25, "fleet": -3.125} in found
    assert {"spread": -1.0, "fleet": -2.25} in found
    assert {"spread": -1.0, "fleet": -2.5, "posterior": 0.25} in found
    assert len(found) == 2 + 6
    assert GATE.decode(GATE.encode({"spread": -0.3, "fleet": -90.0})) == {
        "spread": -0.25,
        "fleet": -6.0,
    }
    assert GATE.encode({"unknown": 1.0}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (INF, ".inf"),
        (1.5e-5, "1.5e-05"),
        ((1, 7), "[1, 7]"),
        ("gate", "gate"),
        (tuple(range(9)), "[0 to 8, 9 values]"),
    ],
)
def test_values_are_written_as_in_a_policy_file(value: object, text: str) -> None:
    assert word(value) == text
