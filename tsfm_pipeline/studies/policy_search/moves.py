"""Kinds of fields in a policy: which values a driver tries, and how it moves between them.

What belongs here: one class per kind of value (one of a list, some of a list, coefficients). What
does not: which field is of which kind (`space`), and who chooses (`drivers`).

Every kind can also be written as numbers on axes, which is what a statistical driver needs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

LONGEST_LIST = 8
"""Values of a list that are all written out for people."""


class Axis(NamedTuple):
    """A whole number from 0 to `size` - 1; `ordered` if neighbouring numbers mean similar values.
    A yes or no is an axis of size 2.
    """

    size: int
    ordered: bool


class Kind(Protocol):
    """The values that a driver tries for one field. Values are those of `SearchSettings`."""

    def sample(self, rng: np.random.Generator) -> Any:
        """Return a random value."""
        ...

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        """Return a value near to `value`, which may be one that `sample` never returns."""
        ...

    def axes(self) -> dict[str, Axis]:
        """Return the axes by name; the name is "" for the only one."""
        ...

    def encode(self, value: Any) -> dict[str, int] | None:
        """Return the number on each axis that stands for a value, None if there is none."""
        ...

    def decode(self, numbers: Mapping[str, int]) -> Any:
        """Return the value that the numbers on the axes stand for."""
        ...

    def words(self) -> str:
        """Return the values as a phrase for people."""
        ...


def word(value: Any) -> str:
    """Return a value as it is written in a policy file: null, true, .inf, 0.5, a list. A long list
    is shortened to its ends and its length.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        if len(value) > LONGEST_LIST:
            return f"[{word(value[0])} to {word(value[-1])}, {len(value)} values]"
        return f"[{', '.join(word(part) for part in value)}]"
    if isinstance(value, float):
        return ".inf" if math.isinf(value) else f"{value:g}"
    return str(value)


@dataclass(frozen=True)
class OneOf:
    """One value of a list. ordered: the neighbours of a value are those beside it in the list;
    otherwise every other value is a neighbour. phrase: instead of the list, where it is long.
    """

    values: tuple[Any, ...]
    ordered: bool = True
    phrase: str = ""

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[rng.integers(len(self.values))]

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        if value not in self.values:
            return self.sample(rng)
        here = self.values.index(value)
        others = [n for n in range(len(self.values)) if n != here]
        if self.ordered:
            others = [n for n in others if abs(n - here) == 1]
        return self.values[rng.choice(others)]

    def axes(self) -> dict[str, Axis]:
        return {"": Axis(len(self.values), self.ordered)}

    def encode(self, value: Any) -> dict[str, int] | None:
        return {"": self.values.index(value)} if value in self.values else None

    def decode(self, numbers: Mapping[str, int]) -> Any:
        return self.values[numbers[""]]

    def words(self) -> str:
        return self.phrase or f"one of {', '.join(word(value) for value in self.values)}"


@dataclass(frozen=True)
class SomeOf:
    """Some values of a list, in its order, at least `least` of them.

    numeric: the list is a scale, so that all chosen values may be shifted along it, and one may
    stand for all. all_is_none: None means the whole list.
    """

    values: tuple[Any, ...]
    least: int = 1
    numeric: bool = False
    all_is_none: bool = False
    phrase: str = ""

    def sample(self, rng: np.random.Generator) -> Any:
        size = rng.integers(self.least, len(self.values) + 1)
        return self._value(rng.permutation(len(self.values))[:size].tolist())

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        chosen = self._positions(value)
        moves = self._moves(chosen)
        return self._value(moves[rng.integers(len(moves))](rng))

    def axes(self) -> dict[str, Axis]:
        return {word(value): Axis(2, ordered=False) for value in self.values}

    def encode(self, value: Any) -> dict[str, int] | None:
        chosen = self._positions(value)
        if self._value(chosen) != value:
            return None
        return {word(one): int(n in chosen) for n, one in enumerate(self.values)}

    def decode(self, numbers: Mapping[str, int]) -> Any:
        chosen = [n for n, one in enumerate(self.values) if numbers[word(one)]]
        missing = [n for n in range(len(self.values)) if n not in chosen]
        return self._value([*chosen, *missing[: max(0, self.least - len(chosen))]])

    def words(self) -> str:
        count = {0: "any of", 1: "one or more of"}.get(self.least, f"{self.least} or more of")
        return f"{count} " + (self.phrase or ", ".join(word(value) for value in self.values))

    def _moves(self, chosen: list[int]) -> list[Callable[[np.random.Generator], list[int]]]:
        """Return what can be done with the chosen positions, each as likely as the others."""
        last = len(self.values) - 1
        absent = [n for n in range(last + 1) if n not in chosen]
        moves: list[Callable[[np.random.Generator], list[int]]] = []
        if absent:
            moves.append(lambda rng: [*chosen, rng.choice(absent)])
        if len(chosen) > self.least:
            moves.append(lambda rng: _without(chosen, rng))
        if absent and chosen:
            moves.append(lambda rng: [*_without(chosen, rng), rng.choice(absent)])
        if self.numeric and chosen and min(chosen) > 0:
            moves.append(lambda rng: [n - 1 for n in chosen])
        if self.numeric and chosen and max(chosen) < last:
            moves.append(lambda rng: [n + 1 for n in chosen])
        if self.numeric and len(chosen) > 1 and self.least <= 1:
            moves.append(lambda rng: [int(rng.choice(chosen))])
        return moves

    def _positions(self, value: Any) -> list[int]:
        """Return the positions of the values that are in the list, ascending."""
        if value is None:
            return list(range(len(self.values)))
        return [n for n, one in enumerate(self.values) if one in value]

    def _value(self, positions: Sequence[int]) -> Any:
        chosen = tuple(self.values[n] for n in sorted(positions))
        return None if self.all_is_none and len(chosen) == len(self.values) else chosen


def _without(chosen: Sequence[int], rng: np.random.Generator) -> list[int]:
    left_out = rng.integers(len(chosen))
    return [n for i, n in enumerate(chosen) if i != left_out]


@dataclass(frozen=True)
class Coefficients:
    """A number for each name, 0 if it is not listed: the default ones scaled as a whole, or one of
    them moved by a step.

    step: of a single move, and of the numbers that stand for a value on an axis, from `low` to
    `high`.
    """

    default: Mapping[str, float]
    names: tuple[str, ...]
    low: float = -6.0
    high: float = 2.0
    step: float = 0.25
    scales: tuple[float, ...] = field(default=(0.25, 0.5, 0.75, 1.25, 1.5, 2.0))

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        return self._scaled(self.default, rng.choice(self.scales))

    def neighbour(self, value: Any, rng: np.random.Generator) -> dict[str, float]:
        if rng.random() < 0.5:
            return self._scaled(value, rng.choice((0.8, 1.25)))
        name = self.names[rng.integers(len(self.names))]
        moved = value.get(name, 0.0) + rng.choice((-self.step, self.step))
        return self._value({**value, name: moved})

    def axes(self) -> dict[str, Axis]:
        size = round((self.high - self.low) / self.step) + 1
        return {name: Axis(size, ordered=True) for name in self.names}

    def encode(self, value: Any) -> dict[str, int] | None:
        if not set(value) <= set(self.names):
            return None
        clipped = {name: min(max(value.get(name, 0.0), self.low), self.high) for name in self.names}
        return {name: round((one - self.low) / self.step) for name, one in clipped.items()}

    def decode(self, numbers: Mapping[str, int]) -> dict[str, float]:
        return self._value({name: self.low + self.step * numbers[name] for name in self.names})

    def words(self) -> str:
        return f"a number for each trait, {self.low:g} to {self.high:g}"

    def _scaled(self, value: Mapping[str, float], scale: float) -> dict[str, float]:
        return self._value({name: one * scale for name, one in value.items()})

    def _value(self, value: Mapping[str, float]) -> dict[str, float]:
        rounded = {name: round(float(one), 4) for name, one in value.items()}
        return {name: one for name, one in rounded.items() if one}
