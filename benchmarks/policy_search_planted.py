"""Measure how many experiments the outer loop takes to find and promote a planted better policy.

`python benchmarks/policy_search_planted.py [--seeds 3] [--experiments 200] [--driver random]`
prints one JSON object (minutes of processor time). The real loop, ledger, judge and promotion run
in an empty folder over two small fleets of simulated rows. In these, validation origins two and
three days back tell which candidate is right, and the default policy does not look at them.

`everywhere`: they tell the truth to all tenants. The loop ends when a policy that looks at them is
promoted, and `experiments` says after how many that was. `choosing`: they tell the truth to tenants
of the choosing folds and the opposite to those of the confirming ones. The loop ends when
`MOST_REFUSED` such policies were kept and refused, and no policy that looks at them may have been
promoted. The exit status is 1 unless every seed shows both.

What belongs here: the two searches and their counts. What does not: the rows
(`tsfm_pipeline_tests.studies.policy_search.planted`). Each policy is evaluated in this process, by
the stages of an experiment, because a process of its own would take most of the time. No test
requests exist, so that the look after a promotion is left out.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.drivers import Driver, Options, Proposal, driver
from tsfm_pipeline.studies.policy_search.evaluation import evaluate
from tsfm_pipeline.studies.policy_search.experiment import Job, Measure, run
from tsfm_pipeline.studies.policy_search.ledger import Ledger
from tsfm_pipeline.studies.policy_search.loop import run_loop
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.promotion import consider
from tsfm_pipeline.studies.policy_search.promotion_records import Promotion
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.rows import FleetRows
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick
from tsfm_pipeline_tests.studies.policy_search import planted

N_TENANTS = 60
MOST_REFUSED = 3
P95_MS = 100.0
"""What the timing of a promotion finds; the rows have no requests that could be timed."""
MEASURE = f"{Path(__file__).stem}:measure_of"
BASE = {name: value for name, value in planted.QUICK.items() if name != "portfolio_size"}
"""What every policy has unless it says otherwise, so that an experiment takes a second."""


@cache
def rows_of(fleet: str) -> FleetRows:
    """Return the rows of a fleet `<where>-<seed>`."""
    where, seed = fleet.split("-")
    return planted.rows_told_by_origins(
        where,  # type: ignore[arg-type]
        seed=int(seed),
        fleet=fleet,
        n_tenants=N_TENANTS,
    )


def measure_of(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """As `experiment.measure_of`, on planted rows."""
    search = policy_of({**BASE, **policy.search}).settings

    def measure(fleet: str, folds: Sequence[int], share: float) -> FleetResult:
        return evaluate(rows_of(fleet), search, folds, share, yardstick.line)

    return measure


def run_here(
    settings: Settings,
    yardstick: Yardstick,
    policy: Policy,
    incumbent: Outcome | None,
    folds: Sequence[int],
    screen: bool = True,
) -> Outcome:
    """As `process.run_experiment`, in this process."""
    job = Job(
        settings=settings.model_dump_json(),
        yardstick=yardstick,
        search=policy.search,
        folds=tuple(folds),
        screen=screen,
        incumbent=None if incumbent is None else incumbent.screening,
        measure=MEASURE,
    )
    outcomes: list[Outcome] = []
    with suppress(MemoryError, ValueError):  # the outcome says so
        run(job, outcomes.append)
    return outcomes[-1]


def looks_at_the_planted_origins(policy: Policy) -> bool:
    """Return whether a policy uses what was planted."""
    return bool({*policy.settings.daily_origins} & {*planted.TOLD_BY})


@dataclass
class Watch:
    """A driver that has no more proposals once the planted policy was promoted, or refused
    `most_refused` times; it watches every comparison.
    """

    driver: Driver
    ledger: Ledger
    most_refused: int
    experiments: int | None = None
    gains: dict[str, float] = field(default_factory=dict)
    n_refused: int = 0
    name: str = "watched"

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal | None:
        """Return the driver's next policy, None when there is nothing more to see."""
        if self.experiments is not None or self.n_refused >= self.most_refused:
            return None
        return self.driver.propose(incumbent, history)

    def consider(self, *arguments: Any) -> Promotion:
        """Consider a kept policy, and note the verdict if it uses what was planted."""
        promotion = consider(*arguments, measure=lambda *_: P95_MS, look=lambda *_: [])
        if looks_at_the_planted_origins(promotion.policy):
            self.gains = {
                fleet.fleet: round(fleet.corrected.gain, 4) for fleet in promotion.verdict.fleets
            }
            self.n_refused += not promotion.promoted
            if promotion.promoted:
                self.experiments = self.ledger.read().height
        return promotion


def searched(where: str, seed: int, name: str, experiments: int) -> dict[str, Any]:
    """Run one search and return what became of the planted policy."""
    with tempfile.TemporaryDirectory(prefix="policy-search-planted-") as folder:
        settings = Settings(data_dir=Path(folder), policy_file="none")
        yardstick = Yardstick(
            fleets=(f"{where}-{2 * seed}", f"{where}-{2 * seed + 1}"),
            line=planted.LINE,
            defaults={},
            settings={},
            code="",
            definitions={},
            data={},
        )
        options = Options(seed=seed, budget_ms=yardstick.budget_ms)
        most_refused = MOST_REFUSED if where == "choosing" else experiments
        watch = Watch(driver(name, options), Ledger(settings), most_refused)
        began = time.process_time()
        end = run_loop(
            settings,
            yardstick,
            watch,
            run=run_here,
            check=lambda *_: None,
            consider=partial(watch.consider),
            experiments=experiments,
        )
        if end.reason.startswith("interrupted"):  # the loop turns a signal into an end
            raise SystemExit(end.reason)
        rows = watch.ledger.read()
    return {
        "seed": seed,
        "promoted_after": watch.experiments,
        "refused": watch.n_refused,
        "experiments": rows.height,
        "best_objective": round(float(rows.filter(pl.col("status") == "keep")["objective"][-1]), 4),
        "gain_on_confirming_folds": watch.gains,
        "cpu_s": round(time.process_time() - began, 1),
    }


def main() -> int:
    """Run every search and print the figures; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--experiments", type=int, default=200, help="of the driver, at most")
    parser.add_argument("--driver", choices=("random", "optuna"), default="random")
    options = parser.parse_args()
    found = {
        where: [
            searched(where, seed, options.driver, options.experiments)
            for seed in range(options.seeds)
        ]
        for where in ("everywhere", "choosing")
    }
    print(json.dumps({"driver": options.driver, **found}, indent=1))
    promoted = all(one["promoted_after"] is not None for one in found["everywhere"])
    refused = all(one["promoted_after"] is None and one["refused"] for one in found["choosing"])
    return 0 if promoted and refused else 1


if __name__ == "__main__":
    sys.exit(main())
