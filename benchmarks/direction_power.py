"""Measure how often the study of market direction finds a direction, where there is one or none.

`python benchmarks/direction_power.py [--quick] [--markets N]` prints one JSON object with a block
per correlation of the planted signal with the next day's return: 0, .05 and .10. Each has N = 20
simulated GJR markets of more than 4,000 test days (`--quick`: 2), which the base scorers, the
readings of the bundled model at a context of 80 days, the evaluation and the verdict treat as the
study does, on `sign` at horizons of 1 and 5 days and on `touch_up` at 1 day. The second market of
each is the next one of its block. One market takes about 17 seconds of processor
time, all sixty about a quarter of an hour on one core.

What belongs here: the rates of bars B2 and B3. What does not: the study (`studies.direction`).
"""

import argparse
import json
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.studies.direction.evaluation import evaluate
from tsfm_pipeline.studies.direction.options import (
    SplitOptions,
    StatisticsOptions,
    StudyOptions,
    ZeroShotOptions,
)
from tsfm_pipeline.studies.direction.problem import Target, together
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.references import UNTRAINED
from tsfm_pipeline.studies.direction.scorers.indicators import indicators
from tsfm_pipeline.studies.direction.scorers.untrained import untrained
from tsfm_pipeline.studies.direction.scorers.volatility import volatility
from tsfm_pipeline.studies.direction.scorers.zero_shot import zero_shot_forecasts, zero_shot_scores
from tsfm_pipeline.studies.direction.simulation import simulate
from tsfm_pipeline.studies.direction.spec import SyntheticMarket
from tsfm_pipeline.studies.direction.verdict import directions, verdict

CORRELATIONS = (0.0, 0.05, 0.1)
TARGETS = (Target("sign", 1), Target("sign", 5), Target("touch_up", 1))
DAYS = 5479
FIRST_SEED = 1000
"""Seeds below belong to the market files of the study."""
OPTIONS = StudyOptions(
    scorers=("base", "zero_shot"),
    splits=SplitOptions(training_years=5),
    zero_shot=ZeroShotOptions(contexts=(80,)),
    statistics=StatisticsOptions(draws=1000),
)


def evaluated_market(
    correlation: float, seed: int, options: StudyOptions, forecaster: GridForecaster
) -> pl.DataFrame:
    """Simulate a market and return its evaluation, as `evaluation.evaluate` does."""
    spec = SyntheticMarket(
        name="power", title="power", kind="synthetic", days=DAYS, correlation=correlation, seed=seed
    )
    problem = build_problem(simulate(spec), options)
    with threadpool_limits(limits=1):
        scorers = [*untrained(problem), *volatility(problem), *indicators(problem)]
        base = together([scorer.score(problem, each) for scorer in scorers for each in TARGETS])
    read = zero_shot_scores(problem, zero_shot_forecasts(problem, forecaster))
    return evaluate(
        problem, pl.concat([base, read.join(base, on=["label", "horizon"], how="semi")])
    )


def rates(markets: list[pl.DataFrame]) -> dict[str, Any]:
    """Return how often a direction is found on these markets, and by how much at most chance."""
    pairs = zip(markets, [*markets[1:], markets[0]], strict=True)
    sign = pl.concat(markets).filter(label="sign", horizon=1)
    touch = pl.concat(markets).filter(label="touch_up")
    trained = touch.filter(~pl.col("scorer").str.starts_with(UNTRAINED))
    by_scorer = sign.group_by("scorer", maintain_order=True).agg(
        pl.col("auc").mean().round(4).alias("mean"),
        pl.col("auc").std().round(4).alias("sd"),
        (pl.col("auc_low") > 0.5).mean().alias("interval_above_half"),
        (pl.col("auc_given_move_low") > 0.5).mean().alias("given_move_above_half"),
        pl.col("survives_stepm").mean().alias("survives_stepm"),
        pl.col("auc_within_folds").mean().round(4).alias("mean_within_folds"),
    )
    return {
        "n_markets": len(markets),
        "test_days": int(sign["n_days"].min()),  # type: ignore[arg-type]
        "verdict_direction": sum(verdict(a, b).kind == "direction" for a, b in pairs),
        "direction_on_one_market": sum(bool(directions(each)) for each in markets),
        "stepwise_test_names_any": sum(
            bool(each.filter(pl.col("label") == "sign")["survives_stepm"].any()) for each in markets
        ),
        "largest_sign_auc": round(float(sign["auc"].max()), 4),  # type: ignore[arg-type]
        "touch_up_auc_of_the_volatility_logit": round(
            float(np.mean(touch.filter(scorer="volatility_logit")["auc"].to_numpy())), 4
        ),
        "touch_up_minus_volatility": {
            scorer: round(float(rows["minus_volatility"].mean()), 4)  # type: ignore[arg-type]
            for (scorer,), rows in trained.partition_by(
                "scorer", as_dict=True, maintain_order=True
            ).items()
        },
        "sign": {row.pop("scorer"): row for row in by_scorer.to_dicts()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two markets per correlation")
    parser.add_argument("--markets", type=int, default=20, help="per correlation")
    arguments = parser.parse_args()
    n_markets = 2 if arguments.quick else arguments.markets
    forecaster = load_forecaster("bundled", device="cpu")
    result = {
        f"correlation_{correlation:g}": rates(
            [
                evaluated_market(correlation, FIRST_SEED + number, OPTIONS, forecaster)
                for number in range(n_markets)
            ]
        )
        for correlation in CORRELATIONS
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
