"""Small experiments for tests of the ledger, of judging and of the loop, and a loop over them in a
process of its own, which tests may kill:

    python -m tsfm_pipeline_tests.studies.policy_search.looping DATA_DIR N [HANG]

What belongs here: outcomes whose figures are a plain function of the policy, a driver that proposes
portfolio sizes, and loops over these. What does not: measures of real experiments (`measures`), and
what is expected of any of them.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.drivers import Proposal, tried
from tsfm_pipeline.studies.policy_search.loop import LoopEnd, run_loop
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline_tests.studies.policy_search import measures

BEST_SIZE = 4
N_TENANTS = 6
YARDSTICK = measures.YARDSTICK.model_copy(update={"fleets": ("demo",)})


def result(level: float = 1.0, *, fleet: str = "demo", share: float = 1.0, **fields: Any) -> Any:
    """A fleet's result: losses at all tiers spread evenly about `level`, by up to a tenth of it."""
    losses = tuple(level * np.linspace(0.9, 1.1, N_TENANTS))
    tiers = {"premium": losses, "standard": losses, "basic": losses}
    plain: dict[str, Any] = {
        "fleet": fleet,
        "folds": (0, 1, 2),
        "share": share,
        "tenants": tuple(range(N_TENANTS)),
        "groups": ("",) * N_TENANTS,
        "losses": tiers,
        "fixed": tiers,
        "mae": level / 2,
        "tokens": 100.0,
        "p50_ms": 40.0,
        "p95_ms": 80.0,
    }
    return FleetResult(**(plain | fields))


def outcome(level: float = 1.0, *, screened_out: bool = False, **fields: Any) -> Outcome:
    """The outcome of an experiment that finished, on one fleet."""
    screening = result(level, share=1 / 3, **fields)
    return Outcome(
        status=None,
        results=() if screened_out else (result(level, **fields),),
        screening=(screening,),
        screened_out=screened_out,
        seconds=2.0,
        peak_mib=100.0,
    )


def sized(size: int) -> Policy:
    return Policy(search={"portfolio_size": size})


def cost(policy: Policy) -> float:
    """The mean loss of a policy: lowest for `BEST_SIZE` configurations; 1 for the default."""
    size = policy.settings.portfolio_size
    return 1 + 0.01 * (abs(size - BEST_SIZE) - abs(Policy().settings.portfolio_size - BEST_SIZE))


def run(_: Any, __: Any, policy: Policy, ___: Outcome | None, folds: Sequence[int]) -> Outcome:
    """An experiment on this yardstick, without a process of its own."""
    assert tuple(folds) == YARDSTICK.choosing
    return outcome(cost(policy), tokens=100.0 * policy.settings.portfolio_size)


@dataclass(frozen=True)
class Sizes:
    """Proposes portfolios of 1 to n configurations, one after the other."""

    n: int
    name: str = "sizes"

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal | None:
        known = tried(history)
        sizes = (size for size in range(1, self.n + 1) if sized(size).digest not in known)
        size = next(sizes, None)
        if size is None:
            return None
        return Proposal(sized(size), incumbent.digest, f"{size} configurations")


def loop(data: Path, driver: Any, **arguments: Any) -> LoopEnd:
    """Run the loop on this yardstick."""
    plain: dict[str, Any] = {"run": run, "check": lambda *_: None}
    return run_loop(Settings(data_dir=data), YARDSTICK, driver, **(plain | arguments))


def main(data: Path, n: int, hang: int | None = None) -> None:
    """Run a loop over `n` sizes. The experiment of size `hang` writes `<data>/hangs` and never
    ends, unless that file exists.
    """

    def hanging(*arguments: Any) -> Outcome:
        if arguments[2].settings.portfolio_size == hang and not (data / "hangs").exists():
            (data / "hangs").touch()
            time.sleep(3600)
        return run(*arguments)

    print(loop(data, Sizes(n), run=hanging).reason)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
