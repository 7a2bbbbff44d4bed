"""The sample of requests: tuning and test tenants, the test period, forecast origins, and validity.

What belongs here: every rule of the protocol that determines the sample before any forecast exists;
the rules are seeded and use no values of the telemetry. What does not: forecasting, scoring, and
the use of forecasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Role = Literal["tuning", "test"]
ROLES: tuple[Role, ...] = ("tuning", "test")

TUNING_FOLD = -1
OUTSIDE = -2
"""The fold of tenants outside of the cohort: they neither tune nor are tested."""
LONG_HISTORY_DAYS = 21
TEST_DAYS = 7
SHORT_HISTORY_TEST_SHARE = 0.2
LEAST_TEST_STEPS = 24
"""Seven days with fewer steps than this are too few for a test period."""
LEAST_POINTS = 32
"""Values up to and including its origin that a request needs: one patch of the model."""
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def split_tenants(
    tenant_ids: Sequence[str],
    strata: Sequence[str],
    seed: int,
    tuning_share: float = 0.5,
    min_disjoint: int = 30,
    n_folds: int = 5,
) -> NDArray[np.int64]:
    """Return the fold of each tenant, which decides whether it tunes or is tested.

    tenant_ids [N] (unique), strata [N] (the archetype, or "" where it is unknown) -> int64 [N],
    independent of the tenants' order. With `min_disjoint` tenants or more: -1 for tuning tenants, 0
    for test tenants, with `tuning_share` of each stratum tuning (largest remainder). With fewer:
    K-fold cross-fitting, folds 0 to n_folds - 1, with each stratum spread over the folds; n_folds
    is at most N. A fleet of one tenant has the single fold 0, and that tenant is its own tuning
    tenant; its choices are still made before the test period. Use `tuning_mask` and `tested_folds`
    to read the result. Raises ValueError for ids that repeat, a missing stratum, and shares or
    folds out of range.
    """
    n_tenants = len(tenant_ids)
    if len(strata) != n_tenants:
        raise ValueError(
            f"{n_tenants} tenant ids but {len(strata)} strata; there must be one stratum per tenant"
        )
    if len(set(tenant_ids)) != n_tenants:
        raise ValueError("tenant ids repeat; the split needs each tenant once")
    if not 0.0 < tuning_share < 1.0 or n_folds < 2:
        raise ValueError(
            f"tuning_share {tuning_share!r} must lie between 0 and 1, and n_folds {n_folds!r} "
            "must be at least 2"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    members: dict[str, list[int]] = {}
    for index in sorted(range(n_tenants), key=lambda i: (strata[i], tenant_ids[i])):
        members.setdefault(strata[index], []).append(index)
    shuffled = [rng.permutation(indices) for indices in members.values()]

    fold = np.zeros(n_tenants, dtype=np.int64)
    if n_tenants >= min_disjoint:
        quotas = tuning_share * np.array([len(indices) for indices in shuffled])
        for indices, n_tuning in zip(shuffled, _largest_remainder(quotas), strict=True):
            fold[indices[:n_tuning]] = TUNING_FOLD
    elif n_tenants > 1:
        order = np.concatenate(shuffled)
        fold[order] = np.arange(n_tenants) % min(n_folds, n_tenants)
    return fold


def tested_folds(fold: NDArray[np.int64]) -> list[int]:
    """Return the folds whose tenants are tested: [0] for a disjoint split, 0 to K - 1 for
    cross-fitting.
    """
    return [int(f) for f in np.unique(fold) if f >= 0]


def tuning_mask(fold: NDArray[np.int64], test_fold: int) -> NDArray[np.bool_]:
    """Return which tenants may tune what `test_fold` is tested with: all tenants of other folds,
    except those outside of the cohort.

    fold [N] -> bool [N]. Only the tenant of a fleet of one tunes on itself.
    """
    if len(fold) == 1:
        return np.ones(1, dtype=bool)
    return (fold != test_fold) & (fold != OUTSIDE)


def test_period(first_step: int, last_step: int, steps_per_day: int) -> int:
    """Return the first step of the test period.

    It is the last seven days, or the last 20 % where history is shorter than 21 days or seven days
    have fewer than 24 steps. Steps are indices on the fleet's grid, `last_step` included.
    """
    n_steps = last_step - first_step + 1
    if n_steps < 2 or steps_per_day < 1:
        raise ValueError(
            f"steps {first_step} to {last_step} at {steps_per_day} steps per day hold no test "
            "period; "
            "at least two steps, and one step per day, are needed"
        )
    week = TEST_DAYS * steps_per_day
    if n_steps >= LONG_HISTORY_DAYS * steps_per_day and week >= LEAST_TEST_STEPS:
        return last_step + 1 - week
    return last_step + 1 - max(1, round(SHORT_HISTORY_TEST_SHARE * n_steps))


def minimum_history(first_step: ArrayLike, last_step: ArrayLike) -> int:
    """Return the number of values up to and including its origin that a request needs: 32, or a
    third of the longest history where that is less; first_step, last_step [N].
    """
    longest = np.max(np.asarray(last_step) - np.asarray(first_step) + 1, initial=0)
    return max(1, min(LEAST_POINTS, int(longest) // 3))


@dataclass(frozen=True)
class RequestSpans:
    """The steps that may be origins of N tenants' requests, by role: int64 [N, 2], the first step
    and the one after the last.

    A span may be empty; its begin is still a step of the grid. test_start [N]: the first step of
    each test period. No test period begins before `tuning_end`, where the tuning requests of all
    tenants end.
    """

    tuning_end: int
    test_start: NDArray[np.int64]
    steps: dict[Role, NDArray[np.int64]]

    def later(self, steps: NDArray[np.int64], last_step: NDArray[np.int64]) -> "RequestSpans":
        """Return the spans moved by as many steps per tenant [N], none beyond its last step [N];
        `tuning_end` stays.
        """
        moved = {
            role: np.minimum(span + steps[:, None], np.maximum(last_step, 0)[:, None])
            for role, span in self.steps.items()
        }
        start = np.minimum(self.test_start + steps, last_step + 1)
        return RequestSpans(self.tuning_end, start, moved)

    def n_askable(
        self, role: Role, first_step: ArrayLike, minimum_history: int
    ) -> NDArray[np.int64]:
        """Return how many steps of each span [N] have the minimum history; first_step [N]: the
        tenants' first observed steps.
        """
        begin, stop = self.steps[role].T
        return np.maximum(0, stop - np.maximum(begin, np.asarray(first_step) + minimum_history - 1))


def request_spans(
    first_step: ArrayLike,
    last_step: ArrayLike,
    *,
    steps_per_day: int,
    horizon: int,
    minimum_history: int,
) -> RequestSpans:
    """Return where the requests of N tenants may have their origins; first_step, last_step [N]: the
    first and the last observed step.

    A tenant's test period is its `test_period`. Its tuning requests lie in a stretch of the same
    length, which ends with its telemetry or at `tuning_end`, whichever is earlier, so that no
    choice shared across tenants uses any test day. `tuning_end` is the begin of one tenant's test
    period, and of the earliest one if all tenants have room before it. A tenant that left the fleet
    early could move it to a time at which no other tenant has a history. `tuning_end` is therefore
    the begin that leaves the most steps for requests of all tenants and both roles, and test
    periods that would begin earlier are cut short. The earliest origin of a stretch is the step
    before its first one.
    """
    first, last = np.asarray(first_step, dtype=np.int64), np.asarray(last_step, dtype=np.int64)
    pairs = zip(first.tolist(), last.tolist(), strict=True)
    own_start = np.array(
        [test_period(*pair, steps_per_day) if pair[0] < pair[1] else pair[1] + 1 for pair in pairs],
        dtype=np.int64,
    )
    length = last + 1 - own_start
    known_from = first + minimum_history

    def stretches(end: int) -> tuple[NDArray[np.int64], ...]:
        tuning_stop, start = np.minimum(end, last + 1), np.maximum(own_start, end)
        return np.maximum(first, tuning_stop - length), tuning_stop, start, last + 1

    def n_steps(end: int) -> int:
        tuning_start, tuning_stop, start, stop = stretches(end)
        in_tuning, in_test = (
            tuning_stop - np.maximum(tuning_start, known_from),
            stop - np.maximum(start, known_from),
        )
        return int(np.maximum(in_tuning, 0).sum() + np.maximum(in_test, 0).sum())

    tuning_end = max(np.unique(own_start).tolist(), key=n_steps)  # the earliest of equals
    tuning_start, tuning_stop, start, stop = stretches(tuning_end)
    tuning = np.stack([np.maximum(tuning_start - 1, 0), tuning_stop - horizon], axis=1)
    empty = tuning[:, 0] >= tuning[:, 1]
    tuning[empty] = np.maximum(tuning_stop - horizon - 1, 0)[empty, None]
    test = np.stack([np.maximum(start - 1, 0), stop - horizon], axis=1)
    test[:, 1] = test.max(axis=1)
    return RequestSpans(tuning_end, start, {"tuning": tuning, "test": test})


def sample_origins(
    n: int, first: int, last: int, tenant_number: int, seed: int, *, steps_per_day: int
) -> NDArray[np.int64]:
    """Return `n` distinct, sorted forecast origins in [first, last] that cover hours and weekdays
    evenly.

    The origins are a Hammersley set on (day of the period) x (time of the day), rotated by an
    offset per tenant: the i-th origin falls on the day at (i + u) / n of the period, at the time of
    day v + i * golden ratio, with u and v drawn from SeedSequence((seed, tenant_number)). A
    tenant's days therefore differ by at most one origin, the golden ratio spreads its hours, and
    over tenants every minute is equally likely. Raises ValueError where [first, last] holds fewer
    than `n` steps.
    """
    n_steps = last - first + 1
    if n < 1 or steps_per_day < 1:
        raise ValueError(f"n is {n} and steps_per_day is {steps_per_day}; both must be at least 1")
    if n_steps < n:
        raise ValueError(
            f"{n} distinct origins do not fit into steps {first} to {last} ({max(n_steps, 0)} "
            "steps)"
        )
    u, v = np.random.default_rng(np.random.SeedSequence((seed, tenant_number))).random(2)
    along = (np.arange(n) + u) / n * (n_steps / steps_per_day)  # in days since `first`
    day_start = np.floor(along).astype(np.int64) * steps_per_day
    day_length = np.minimum(steps_per_day, n_steps - day_start)  # the last day may be cut short
    time_of_day = (v + np.arange(n) * _GOLDEN_RATIO) % 1.0
    steps = np.unique(day_start + np.floor(time_of_day * day_length).astype(np.int64))
    n_missing = n - len(steps)
    if n_missing:
        unused = np.setdiff1d(np.arange(n_steps), steps, assume_unique=True)
        spread = (np.arange(n_missing) + 0.5) * len(unused) / n_missing
        steps = np.sort(np.concatenate([steps, unused[spread.astype(np.int64)]]))
    return first + steps


def request_origins(
    n: int,
    begin: int,
    stop: int,
    tenant_number: int,
    seed: int,
    *,
    steps_per_day: int,
    askable: ArrayLike | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a tenant's `n` origins within [begin, stop), sorted, and which of them have a step of
    their own: int64 [n], bool [n].

    askable bool [T]: the steps that can be origins (`askable_steps`), all by default; the others
    are passed over, as if the span were shorter. Where the span has fewer than `n` such steps, each
    of them is an origin. The remaining requests are given its begin and are marked False: they are
    counted, but never forecast.
    """
    steps = np.arange(begin, stop)
    if askable is not None:
        steps = steps[np.asarray(askable, dtype=bool)[begin:stop]]
    n_placed = min(n, len(steps))
    placed = np.arange(n) >= n - n_placed
    origins = np.full(n, begin, dtype=np.int64)
    if n_placed:
        within = sample_origins(
            n_placed, 0, len(steps) - 1, tenant_number, seed, steps_per_day=steps_per_day
        )
        origins[placed] = steps[within]
    return origins, placed


def _values_around(
    observed: NDArray[np.bool_], horizon: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each step as an origin, how many values are observed up to and including it, and
    how many in the `horizon` steps after it: int64 [T] each.
    """
    seen = np.concatenate([[0], np.cumsum(observed)])
    ends = np.minimum(np.arange(1, len(seen)) + horizon, len(observed))
    return seen[1:], seen[ends] - seen[1:]


def askable_steps(observed: ArrayLike, horizon: int, minimum_history: int) -> NDArray[np.bool_]:
    """Return the steps of one tenant from which a forecast can be made and scored, by the rules of
    `request_validity`: observed bool [T] -> bool [T].
    """
    n_history, n_targets = _values_around(np.asarray(observed, dtype=bool), horizon)
    return np.asarray((n_history >= minimum_history) & (2 * n_targets >= horizon))


def request_validity(
    observed: ArrayLike, origins: ArrayLike, horizon: int, minimum_history: int
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which requests of one tenant can be forecast and scored, and why the others cannot.

    observed bool [T], origins int [O] -> (valid bool [O], reasons [O], "" where valid). A request
    is invalid in two cases: fewer than `minimum_history` values are observed up to and including
    the origin, or fewer than half of the `horizon` targets are observed (targets after the end of
    the telemetry are not). Raises ValueError for arguments of another shape or out of range.
    """
    observed = np.asarray(observed, dtype=bool)
    origins = np.asarray(origins, dtype=np.int64)
    if observed.ndim != 1 or origins.ndim != 1:
        raise ValueError(
            f"observed {observed.shape} and origins {origins.shape} must both be one-dimensional"
        )
    if origins.size and (origins.min() < 0 or origins.max() >= len(observed)):
        raise ValueError(
            f"origins {origins.min()}..{origins.max()} lie outside the telemetry's steps "
            f"0..{len(observed) - 1}"
        )
    if horizon < 1 or minimum_history < 1:
        raise ValueError(
            f"horizon {horizon} and minimum_history {minimum_history} must be at least 1 step"
        )
    reasons = []
    for n_history, n_targets in np.stack(_values_around(observed, horizon), axis=1)[origins]:
        if n_history < minimum_history:
            reasons.append(
                f"history too short: {n_history} of the {minimum_history} values up to the origin"
            )
        elif 2 * n_targets < horizon:
            reasons.append(f"fewer than half of the targets observed: {n_targets} of {horizon}")
        else:
            reasons.append("")
    return np.array([reason == "" for reason in reasons], dtype=bool), reasons


Basis = Literal["full", "shortened", "cold"]
BASES: tuple[Basis, ...] = ("full", "shortened", "cold")
"""What the answer to a request rests on. `full`: the history that the longest context sees, or all
that the fleet has. `shortened`: less, because of a gap, a late start, or an origin within a gap
that is too long. `cold`: nothing of the tenant's own past can be validated, so other tenants'
experience decides.
"""


def request_bases(
    known: NDArray[np.integer],
    possible: NDArray[np.integer],
    stale: NDArray[np.bool_],
    validation: NDArray[np.integer],
    *,
    lookback: int,
    shortest: int,
) -> list[Basis]:
    """Return what the answers to O requests rest on.

    known [O]: steps of history that a window may use; possible [O]: those that it could use in an
    unbroken fleet; stale [O]: whether the origin lies in a gap that is too long; validation [O]:
    the most steps of history known at a validation origin whose outcome was observed; lookback:
    steps that the longest context sees; shortest: steps that the shortest one sees.
    """
    full = (known >= np.minimum(lookback, possible)) & ~stale
    bases = np.where(validation < shortest, "cold", np.where(full, "full", "shortened"))
    return bases.tolist()


def _largest_remainder(quotas: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round the quotas to integers whose sum is the rounded sum of the quotas; ties go to the
    earlier quota.
    """
    counts = np.floor(quotas).astype(np.int64)
    n_left = round(float(quotas.sum())) - int(counts.sum())
    counts[np.argsort(counts - quotas, kind="stable")[:n_left]] += 1
    return counts
