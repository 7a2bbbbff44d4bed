"""The loop: propose, claim, run, judge, write a line, and consider what was kept.

What belongs here: the order of these steps, when the loop ends, and what it leaves for the next
one. What does not: proposing (`drivers`), running (`process`), judging (`judging`), and the files
(`ledger`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from signal import SIG_DFL, SIGINT, SIGTERM, Signals, default_int_handler, getsignal, signal
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import tsfm_pipeline
from tsfm_pipeline import distribution
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.claims import Claim, claim_of
from tsfm_pipeline.studies.policy_search.drivers import Driver, Proposal, tried
from tsfm_pipeline.studies.policy_search.judging import (
    Standing,
    default_of,
    incumbent_of,
    judge,
)
from tsfm_pipeline.studies.policy_search.ledger import Ledger
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError
from tsfm_pipeline.studies.policy_search.process import run_experiment
from tsfm_pipeline.studies.policy_search.promotion import RunPolicy
from tsfm_pipeline.studies.policy_search.results import Outcome
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick, require_untouched

DEFAULT_POLICY = Proposal(Policy(), "", "the default policy")
MOST_REPEATS = 50
"""A driver that proposes so many policies in a row that were tried already is out of ideas."""
MOST_UNUSABLE = 5
"""A driver whose proposals are unusable so often in a row is at fault, and the loop ends."""
MOST_DEATHS = 3
"""An experiment that so many loops ended with is a crash, and is not run again."""
_POLL_SECONDS = 0.5
_RECENT = 20
_N_HEX = 12


class LoopError(RuntimeError):
    """The loop cannot go on; the message says why and what to do."""


class LoopEnd(NamedTuple):
    """How a loop ended.

    experiments: those that it wrote lines of, in order; orphans of other loops and the default
    policy are among them. reason: why it ended, in words.
    """

    experiments: tuple[str, ...]
    reason: str


def run_loop(
    settings: Settings,
    yardstick: Yardstick,
    driver: Driver,
    *,
    hours: float | None = None,
    experiments: int | None = None,
    log: Callable[[str], Any] = lambda _: None,
    run: RunPolicy = run_experiment,
    check: Callable[[Settings, Yardstick], Any] = require_untouched,
    consider: Callable[..., Any] | None = None,
) -> LoopEnd:
    """Run experiments until the time is up, the driver has no more, or somebody interrupts.

    Orphans of loops that were killed come first, then the default policy if the yardstick has no
    line yet, then what the driver proposes. Several loops may run at once.
    hours: no experiment is begun that would not end in time if it takes as long as recent ones did.
    experiments: how many proposals of the driver are tried, at most. log: is told of every line.
    run: evaluates a policy. check: is called before every experiment. consider: is called with the
    row of each policy that was kept, as `promotion.consider`.

    SIGINT and SIGTERM end the loop; the experiment that was running is an orphan, which the next
    loop runs. Where the process handles these signals itself, its handler's exception is raised
    after that. Raises what `check` raises, before anything is written; `LoopError` if the default
    policy does not finish; `StorageError` if the ledger cannot be read or written.
    """
    deadline = None if hours is None else time.monotonic() + 3600 * hours
    loop = _Loop(settings, yardstick, driver, run, check, consider, log, Ledger(settings), deadline)
    try:
        with _interruptible():
            reason = loop.go(experiments)
    except _Interrupted as interrupted:
        reason = f"interrupted by {Signals(interrupted.args[0]).name}"
    log(f"the loop ends: {reason}")
    return LoopEnd(tuple(loop.written), reason)


@dataclass
class _Loop:
    """The arguments of `run_loop`, and what it has done so far."""

    settings: Settings
    yardstick: Yardstick
    driver: Driver
    run: RunPolicy
    check: Callable[[Settings, Yardstick], Any]
    consider: Callable[..., Any] | None
    log: Callable[[str], Any]
    ledger: Ledger
    deadline: float | None
    written: list[str] = field(default_factory=list)
    n_proposed: int = 0
    n_unusable: int = 0

    def go(self, experiments: int | None) -> str:
        """Run experiments; return the reason for which the loop ends."""
        self.check(self.settings, self.yardstick)
        self.ledger.catch_up()
        self._consider(incumbent_of(self._history()))
        while not self._is_too_late():
            found: Claim | str | None = self._orphan() or self._default_policy()
            if found is None:
                if default_of(self._history()) is None:
                    time.sleep(_POLL_SECONDS)  # another loop runs it
                    continue
                if experiments is not None and self.n_proposed >= experiments:
                    return f"{experiments} policies have been tried"
                found = self._propose()
            if isinstance(found, str):
                return found
            if isinstance(found, Claim):
                self._finish(found)
        return "the time is up"

    def _orphan(self) -> Claim | None:
        """Take over the oldest experiment whose process is gone."""
        where = (self.yardstick.digest, self.yardstick.hard_seconds)
        if not self.ledger.orphans(*where):
            return None
        self.check(self.settings, self.yardstick)
        return self.ledger.take_over(*where)

    def _history(self) -> pl.DataFrame:
        return self.ledger.read(self.yardstick.digest)

    def _is_too_late(self) -> bool:
        """Return whether an experiment that takes as long as recent ones would end too late."""
        if self.deadline is None:
            return False
        seconds = self._history()["seconds"].tail(_RECENT)
        typical = float(np.median(seconds)) if seconds.len() else 0.0
        return time.monotonic() + typical >= self.deadline

    def _default_policy(self) -> Claim | None:
        """Claim the default policy, unless it has finished or another loop runs it. One that
        crashed is run again.
        """
        if default_of(self._history()) is not None:
            return None
        self.check(self.settings, self.yardstick)
        with self.ledger.locked():
            if default_of(self._history()) is not None:
                return None
            digest = self.yardstick.digest
            return self.ledger.claim(
                DEFAULT_POLICY, yardstick=digest, driver="default", repeat=True
            )

    def _propose(self) -> Claim | str | None:
        """Return a claim on a new policy of the driver, or the reason why there is none; None if
        its proposal was unusable, which has become a line.
        """
        if self.n_unusable >= MOST_UNUSABLE:
            return f"driver {self.driver.name} proposed {MOST_UNUSABLE} unusable policies in a row"
        refused: list[str] = []
        while len(refused) < MOST_REPEATS:
            history = self._history()
            incumbent = _existing(incumbent_of(history))
            began = time.monotonic()
            try:
                proposal = self.driver.propose(incumbent.policy, history)
            except PolicyError as error:
                self._write_unusable(incumbent, error, time.monotonic() - began)
                return None
            if proposal is None:
                return f"driver {self.driver.name} has no more policies{_tried_before(refused)}"
            self.n_unusable = 0
            digest = proposal.policy.digest
            claim = None if digest in tried(history) else self._claim(proposal)
            if claim is not None:
                return claim
            self.log(f"policy {digest} was tried before: {proposal.description}")
            refused.append(digest)
        return f"driver {self.driver.name} is out of ideas{_tried_before(refused)}"

    def _claim(self, proposal: Proposal) -> Claim | None:
        self.check(self.settings, self.yardstick)  # a driver may take its time
        claim = self.ledger.claim(
            proposal, yardstick=self.yardstick.digest, driver=self.driver.name
        )
        self.n_proposed += claim is not None
        return claim

    def _finish(self, claim: Claim) -> None:
        """Run a claimed experiment, write its line, and consider it if it was kept.

        Raises `LoopError` if it was the default policy and did not finish.
        """
        try:
            row = self._write(claim, self._outcome(claim))
        except BaseException as error:
            self.ledger.give_back(claim, failed=isinstance(error, Exception))
            raise
        history = self._history()
        if default_of(history) is None:
            raise LoopError(
                f"{row['description']}. No policy can be compared with it: remove the cause, then "
                "start the loop again"
            )
        if row["status"] == "keep":
            self._consider(incumbent_of(history))

    def _outcome(self, claim: Claim) -> Outcome:
        if claim.n_deaths >= MOST_DEATHS:
            message = f"{claim.n_deaths} loops ended while they ran it"
            return Outcome(status="crash", seconds=0, peak_mib=0, message=message)
        incumbent = incumbent_of(self._history())
        self.log(f"{claim.experiment} begins: {claim.description}")
        return self.run(
            self.settings,
            self.yardstick,
            claim.policy,
            None if incumbent is None else incumbent.outcome,
            self.yardstick.choosing,
        )

    def _write(self, claim: Claim, outcome: Outcome, **changes: Any) -> dict[str, Any]:
        """Judge an outcome and append its line, with some columns changed; return the row."""
        with self.ledger.locked():
            judged = judge(claim.policy, outcome, self._history(), self.yardstick.budget_ms)
            row = row_of(claim, judged) | changes
            self.ledger.append(row)
        self.written.append(claim.experiment)
        figure = "no figures" if row["objective"] is None else f"{row['objective']:.4f}"
        self.log(
            f"{claim.experiment} {row['status']}, {figure}, {row['seconds']:.0f} s: "
            f"{row['description']}"
        )
        return row

    def _write_unusable(self, incumbent: Standing, error: PolicyError, seconds: float) -> None:
        """Write a line for a proposal that is no policy, so that its driver can read why."""
        self.check(self.settings, self.yardstick)
        self.n_unusable += 1
        self.n_proposed += 1
        parent = incumbent.policy.digest
        proposal = Proposal(Policy(), parent, "a proposal that is no policy")
        claim = claim_of(proposal, yardstick=self.yardstick.digest, driver=self.driver.name)
        outcome = Outcome(status="crash", seconds=seconds, peak_mib=0, message=str(error))
        self._write(claim, outcome, policy="")

    def _consider(self, kept: Standing | None) -> None:
        """Consider a kept policy for promotion. An error of files, of processes or of values is
        logged and does not end the loop: the next loop considers the incumbent when it starts.
        """
        if self.consider is None or kept is None or not kept.policy.n_changes:
            return
        self.check(self.settings, self.yardstick)
        try:
            self.consider(self.settings, self.yardstick, self.ledger, kept.row, self.run)
        except (OSError, RuntimeError, ValueError) as error:
            self.log(
                f"{kept.experiment} could not be considered for promotion "
                f"({type(error).__name__}: {error}); the next loop tries again"
            )


class _Interrupted(BaseException):
    """The process was asked to end; the argument is the signal."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `_Interrupted`; a second one ends the process.

    A handler that somebody else has set stays. Only the main thread receives signals.
    """
    own = threading.current_thread() is threading.main_thread()
    before = {number: getsignal(number) for number in (SIGINT, SIGTERM)} if own else {}
    unset = {
        n: handler for n, handler in before.items() if handler in (SIG_DFL, default_int_handler)
    }

    def restore() -> None:
        for number, handler in unset.items():
            signal(number, handler)

    def interrupt(number: int, _: Any) -> None:
        restore()
        raise _Interrupted(number)

    for number in unset:
        signal(number, interrupt)
    try:
        yield
    finally:
        restore()


def row_of(claim: Claim, judged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger's row of an experiment, with the columns of `ledger.SCHEMA`; `judged` is
    what `judging.judge` says of it. The description of a crash or a timeout says how it ended.
    """
    status, description = judged["status"], claim.description
    if status in ("crash", "timeout"):
        message = Outcome.model_validate_json(judged["outcome"]).message
        description = f"{description} ({status}: {message})"
    return {
        "time": datetime.now(UTC),
        "experiment": claim.experiment,
        "yardstick": claim.yardstick,
        "commit": _commit(),
        "parent": claim.parent,
        "driver": claim.driver,
        "description": description,
        **judged,
    }


def _existing(standing: Standing | None) -> Standing:
    if standing is None:
        raise LoopError("the ledger has no policy to begin with: the default policy comes first")
    return standing


def _tried_before(refused: Iterable[str]) -> str:
    digests = sorted(set(refused))
    return f"; tried before: {', '.join(digests)}" if digests else ""


def _commit() -> str:
    """Return the code's commit, shortened, with `+` if tracked files differ; else its version."""
    commit = distribution.commit()
    if commit is None:
        return tsfm_pipeline.__version__
    return commit[:_N_HEX] + ("+" if commit.endswith("+") else "")
