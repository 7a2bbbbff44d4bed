"""Promotion: whether a policy that was kept becomes the policy in force.

What belongs here: the rules of promotion on the folds that chose nothing, the record of every
verdict, and the way from a kept experiment to an adopted policy. What does not: the interval of a
gain (`verdict`), the file of the adopted policy (`adoption`), test tenants (`final_look`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsfm_pipeline.catalogue.records import held
from tsfm_pipeline.files import append_file, appended_at, is_intact
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.adoption import adopt, policy_in_force
from tsfm_pipeline.studies.policy_search.apart import ApartError, call_apart
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.promotion_records import (
    Look,
    Promotion,
    PromotionRecords,
)
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.tables import FOLDER
from tsfm_pipeline.studies.policy_search.verdict import (
    Effect,
    FleetVerdict,
    Verdict,
    paired_gain,
)

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.ledger import Ledger
    from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

MEASURE = "tsfm_pipeline.studies.policy_search.timing:measured_p95"
LOOK = "tsfm_pipeline.studies.policy_search.final_look:final_look"
"""What times a policy's requests and what looks at test tenants, each in a process of its own."""
LOCK_FILE = ".promoting"
"""Held by the one process that considers a promotion."""
ERROR_RATE = 0.05
"""Of all experiments of a yardstick together, divided among them (Bonferroni)."""
LEAST_EXPERIMENTS = 20
"""Experiments that the error rate is divided among at least. Few tenants cannot show a rare harm,
so that the first experiments of a study would be promoted too easily (`test_promotion_statistics`).
"""
HARM_CONFIDENCE = 0.95
LEAST_FLEETS = 2
"""Fleets that must gain: one fleet alone may reward what suits it and nobody else."""
LEAST_GROUP = 5
"""Confirming tenants of an archetype from which on it can be harmed as a group."""
TOLERANCE = 0.01
"""Relative loss that no tier of a fleet may show, however wide its interval is."""


def judge_promotion(
    challenger: Sequence[FleetResult],
    incumbent: Sequence[FleetResult],
    n_experiments: int,
    budget_ms: float,
    p95_ms: float,
    *,
    p95_measured: bool = False,
) -> Verdict:
    """Return whether the challenger replaces the incumbent, by results on the confirming folds.

    It does if, at the headline tier, the interval of its gain lies above 0 on at least two fleets,
    with a confidence of 1 - .05 / n_experiments, or / 20 if there were fewer (Bonferroni over all
    experiments so far, although most of them never reached the confirming folds), and nothing is
    harmed: no tier of any fleet and no archetype with five confirming tenants or more has a 95 %
    interval below 0, no tier of any fleet is worse by more than 1 %, every tenant still has a
    forecast, and p95_ms, of one request, lies within the budget. Raises ValueError if the two were
    not scored on the same tenants of the same fleets, or if n_experiments is below 1.
    """
    if n_experiments < 1:
        raise ValueError(f"n_experiments is {n_experiments}; it counts the experiment itself")
    confidence = corrected_confidence(n_experiments)
    fleets = tuple(
        _fleet_verdict(own, other, confidence) for own, other in _pairs(challenger, incumbent)
    )
    gains = [fleet for fleet in fleets if fleet.corrected.is_gain]
    objections = [harm for fleet in fleets for harm in _harms(fleet)]
    if len(gains) < LEAST_FLEETS:
        found = "; ".join(f"{fleet.fleet}: {fleet.corrected}" for fleet in fleets)
        objections.insert(
            0,
            f"{len(gains)} of {len(fleets)} fleets show a gain whose interval excludes 0, and "
            f"{LEAST_FLEETS} must ({found})",
        )
    if not p95_ms <= budget_ms:
        how = "measured" if p95_measured else "predicted"
        objections.append(f"p95 is {p95_ms:.0f} ms ({how}); allowed: {budget_ms:.0f} ms")
    reasons = objections or [f"{fleet.fleet}: {fleet.corrected}" for fleet in gains]
    return Verdict(
        promoted=not objections,
        reasons=tuple(reasons),
        n_experiments=n_experiments,
        confidence=confidence,
        fleets=fleets,
        p95_ms=p95_ms,
        budget_ms=budget_ms,
        p95_measured=p95_measured,
    )


def corrected_confidence(n_experiments: int) -> float:
    """Return the confidence of a gain's interval after so many experiments."""
    return 1 - ERROR_RATE / max(n_experiments, LEAST_EXPERIMENTS)


def _pairs(
    challenger: Sequence[FleetResult], incumbent: Sequence[FleetResult]
) -> Iterator[tuple[FleetResult, FleetResult]]:
    """Yield both results of each fleet. Raises ValueError unless they can be compared."""
    others = {result.fleet: result for result in incumbent}
    if not challenger or [result.fleet for result in challenger] != list(others):
        raise ValueError(
            f"the challenger was scored on {[result.fleet for result in challenger]}, the policy "
            f"that it would replace on {list(others)}; both must be scored on the same fleets"
        )
    for own in challenger:
        other = others[own.fleet]
        if (own.tenants, own.folds, own.share) != (other.tenants, other.folds, other.share):
            raise ValueError(
                f"fleet {own.fleet!r}: the challenger was scored on {len(own.tenants)} tenants of "
                f"folds {own.folds} (share {own.share:g}), the policy that it would replace on "
                f"{len(other.tenants)} of folds {other.folds} (share {other.share:g}); both must "
                "be scored on the same tenants and requests"
            )
        yield own, other


def _fleet_verdict(own: FleetResult, other: FleetResult, confidence: float) -> FleetVerdict:
    names = np.array(own.groups, dtype=str)
    sizes = {str(name): int((names == name).sum()) for name in np.unique(names) if name}
    standard, replaced = own.loss(), other.loss()
    return FleetVerdict(
        fleet=own.fleet,
        corrected=paired_gain(standard, replaced, confidence),
        tiers={
            tier: paired_gain(own.loss(tier), other.loss(tier), HARM_CONFIDENCE)
            for tier in own.losses
        },
        groups={
            name: paired_gain(standard[names == name], replaced[names == name], HARM_CONFIDENCE)
            for name, size in sizes.items()
            if size >= LEAST_GROUP
        },
    )


def _harms(verdict: FleetVerdict) -> Iterator[str]:
    """Yield a sentence for every harm on one fleet."""
    for tier, effect in verdict.tiers.items():
        yield from _harm(f"{verdict.fleet}, tier {tier}", effect, TOLERANCE)
    for group, effect in verdict.groups.items():
        yield from _harm(f"{verdict.fleet}, group {group}", effect, None)


def _harm(where: str, effect: Effect, tolerance: float | None) -> Iterator[str]:
    if effect.n_lost:
        yield f"{where}: {effect.n_lost} tenants lose their forecast"
    if effect.is_harm:
        yield f"{where} is harmed: {effect}"
    elif tolerance is not None and not effect.gain >= -tolerance:
        yield f"{where} is worse by more than {100 * tolerance:g} %: {effect}"


RunPolicy = Callable[..., Outcome]
"""As `process.run_experiment`."""
Measure = Callable[[Settings, "Yardstick", Policy], float]
"""Returns the 95th percentile of a request's time under a policy, in ms, on the slowest fleet."""
TakeLook = Callable[[Settings, "Yardstick", Policy, Policy], Sequence[Look]]
"""As `final_look.final_look`; raises `ApartError` for what goes wrong in a process of its own."""


def consider(
    settings: Settings,
    yardstick: "Yardstick",
    ledger: "Ledger",
    row: Mapping[str, Any],
    run: RunPolicy,
    *,
    measure: Measure | None = None,
    look: TakeLook | None = None,
    log: Callable[[str], Any] = lambda _: None,
) -> Promotion:
    """Decide whether the policy of a ledger's row replaces the policy in force; if so, adopt it and
    look at the test tenants once.

    row: a kept experiment (`ledger.SCHEMA`). run: evaluates a policy in a process of its own;
    results on the confirming folds are kept, so that the policy in force is not evaluated again.
    measure: times the policy's requests, only if nothing else stands against it. One verdict is
    reached per yardstick and pair of policies: asked again, it returns the first. Once more is
    decided if only the measured time stood against the policy, which may have been that of a busy
    machine, and always if one of the two could not be evaluated. The policy
    in force itself is refused without a record. Of several processes that call it, one proceeds at
    a time. A promotion that was interrupted after its verdict is completed first; a look that fails
    (`ApartError`) is logged, and taken by a later call.
    """
    measure, look = measure or _measured_apart, look or _looked_at_apart
    records = PromotionRecords(settings)
    with held(records.folder / LOCK_FILE):
        _try_to_complete(settings, yardstick, look, log)
        policy, replaced = policy_of(json.loads(row["changes"])), policy_in_force(settings)

        def promotion_with(verdict: Verdict) -> Promotion:
            return Promotion(
                yardstick=yardstick.digest,
                experiment=row["experiment"],
                commit=row["commit"],
                policy=policy,
                replaced=replaced,
                verdict=verdict,
            )

        if policy.digest == replaced.digest:
            return promotion_with(_refusal(yardstick, 1, ["it is the policy in force"]))
        asked = yardstick.digest, policy.digest, replaced.digest
        settled = _settled(records.read(), asked)
        if settled is not None:
            return settled
        promotion = promotion_with(
            _verdict(settings, yardstick, ledger, (policy, replaced), run, measure)
        )
        records.add(promotion)
        # Whoever drives the loop reads its log, and must not see figures of the confirming folds.
        said = "promoted" if promotion.promoted else "kept, but not promoted"
        log(f"policy {policy.digest} is {said}; the report has the reasons")
        _try_to_complete(settings, yardstick, look, log)
        return next(own for own in records.read() if own.promotion == promotion.promotion)


def _settled(verdicts: Iterable[Promotion], asked: tuple[str, str, str]) -> Promotion | None:
    """Return the verdict that answers what is asked now; None if it must be reached again: after a
    comparison that could not be made, and after the first measured time that was too long.

    asked: the digests of the yardstick, the challenger and the policy in force.
    """
    n_slow = 0
    for one in verdicts:
        of_one = one.yardstick, one.policy.digest, one.replaced.digest
        if of_one != asked or not one.verdict.fleets:
            continue
        n_slow += one.verdict.p95_measured and not one.promoted
        if n_slow != 1:
            return one
    return None


def complete(
    settings: Settings,
    yardstick: "Yardstick",
    look: TakeLook | None = None,
    log: Callable[[str], Any] = lambda _: None,
) -> None:
    """Adopt the last promoted policy and look at the test tenants, for every promotion that has not
    had its look. Raises what `look` raises, after the policy is adopted.

    A promotion is complete when its look stands in the record. From then on the file of the policy
    in force is the user's: whoever goes back to another policy is not overruled. The verdict of an
    earlier yardstick stands: it is completed too, with a look at the fleets of this one.
    """
    look = look or _looked_at_apart
    records = PromotionRecords(settings)
    promoted = [promotion for promotion in records.read() if promotion.promoted]
    due = [promotion for promotion in promoted if not promotion.looks]
    if due and due[-1] is promoted[-1]:
        log(f"adopted policy {due[-1].policy.digest}: {adopt(settings, due[-1])}")
    for promotion in due:
        looks = look(settings, yardstick, promotion.policy, promotion.replaced)
        records.add_looks(promotion, looks)


def complete_interrupted(
    settings: Settings,
    yardstick: "Yardstick",
    log: Callable[[str], Any] = lambda _: None,
) -> None:
    """Complete promotions that were interrupted after their verdict; a look that fails is logged
    and stays due. Of several processes that call it, one proceeds at a time.
    """
    with held(PromotionRecords(settings).folder / LOCK_FILE):
        _try_to_complete(settings, yardstick, _looked_at_apart, log)


def _try_to_complete(
    settings: Settings, yardstick: "Yardstick", look: TakeLook, log: Callable[[str], Any]
) -> None:
    """Complete what is incomplete; an unattended loop goes on if that fails."""
    try:
        complete(settings, yardstick, look, log)
    except ApartError as error:
        log(f"the look at test tenants failed ({error}); it is still due")


def _verdict(
    settings: Settings,
    yardstick: "Yardstick",
    ledger: "Ledger",
    policies: tuple[Policy, Policy],
    run: RunPolicy,
    measure: Measure,
) -> Verdict:
    """Return the verdict on a challenger and the policy in force, in this order."""
    # The confirming folds hold the same tenants under every yardstick.
    n_experiments = max(1, ledger.read().height)
    outcomes = [_confirmed(settings, yardstick, policy, run) for policy in policies]
    unfinished = [
        f"policy {policy.digest} ended with a {outcome.status} on the confirming folds: "
        f"{outcome.message}"
        for policy, outcome in zip(policies, outcomes, strict=True)
        if outcome.status is not None
    ]
    if unfinished:
        return _refusal(yardstick, n_experiments, unfinished)
    challenger, incumbent = (outcome.results for outcome in outcomes)
    predicted_ms = max(result.p95_ms for result in challenger)
    allowed_ms = max(yardstick.budget_ms, *(result.p95_ms for result in incumbent))
    compared = (challenger, incumbent, n_experiments)
    verdict = judge_promotion(*compared, allowed_ms, predicted_ms)
    if not verdict.promoted:
        return verdict
    allowed_ms = yardstick.budget_ms
    measured_ms = measure(settings, yardstick, policies[0])
    if measured_ms > allowed_ms:
        # Where the policy in force exceeds the budget too, its successor may not be slower.
        allowed_ms = max(allowed_ms, measure(settings, yardstick, policies[1]))
    return judge_promotion(*compared, allowed_ms, measured_ms, p95_measured=True)


def _refusal(yardstick: "Yardstick", n_experiments: int, reasons: Sequence[str]) -> Verdict:
    """Return the verdict on a policy that could not be compared."""
    return Verdict(
        promoted=False,
        reasons=tuple(reasons),
        n_experiments=n_experiments,
        confidence=corrected_confidence(n_experiments),
        p95_ms=float("nan"),
        budget_ms=yardstick.budget_ms,
    )


def _confirmed(
    settings: Settings, yardstick: "Yardstick", policy: Policy, run: RunPolicy
) -> Outcome:
    """Return the outcome of a policy on all requests of the confirming folds, from the study's lake
    if it was computed before. A crash or a timeout is not kept. The name of a kept file holds the
    digest of its content: one that was damaged or edited is not read, and is computed again.
    """
    folder = settings.lake_dir / FOLDER / "confirmed" / yardstick.digest
    for path in sorted(folder.glob(f"{policy.digest}-*.json")):
        if appended_at(path) is not None and is_intact(path):
            return Outcome.model_validate_json(path.read_text(encoding="utf-8"))
    outcome = run(settings, yardstick, policy, None, yardstick.confirming, screen=False)
    if outcome.status is None:

        def write(path: Path) -> None:
            path.write_text(outcome.model_dump_json(), encoding="utf-8")

        append_file(folder, write, suffix=".json", label=policy.digest)
    return outcome


def _measured_apart(settings: Settings, yardstick: "Yardstick", policy: Policy) -> float:
    measured_ms: float = call_apart(MEASURE, settings, yardstick, policy)
    return measured_ms


def _looked_at_apart(
    settings: Settings, yardstick: "Yardstick", challenger: Policy, replaced: Policy
) -> Sequence[Look]:
    looks: Sequence[Look] = call_apart(LOOK, settings, yardstick, challenger, replaced)
    return looks
