"""Review: the outcome of earlier recommendations, and the tenants that changed since the last run.

What belongs here: the contents of `recommendation_review`, from the dated copies of earlier runs.
What does not: keeping these copies (`reports.recommendations.publication`), scoring constants
(`evaluation.blocks`), the backtest (`steps.blocks`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.blocks import score_constants
from tsfm_pipeline.evaluation.losses import series_scale
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap
from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.reports.recommendations.model import (
    DriftRow,
    MissRow,
    RecommendationReview,
    ReviewOfTier,
    RunRow,
)
from tsfm_pipeline.reports.recommendations.publication import (
    TIME,
    Run,
    past_runs,
    spanned,
    with_money,
)
from tsfm_pipeline.reports.shared.model import Estimate

RIVALS = ("fixed", "last_block")
"""Constants of rivals that every run stores for comparison."""
REVIEW_SCHEMA: dict[str, Any] = {
    "run": pl.Int64,
    "tenant_id": pl.String,
    "metric": pl.String,
    "tier": pl.String,
    "own_tier": pl.Boolean,
    "block_start": pl.Datetime("us", "UTC"),
    "block_end": pl.Datetime("us", "UTC"),
    "n_observed": pl.Int64,
    "scale": pl.Float64,
    "reservation": pl.Float32,
    "expected_violation_rate": pl.Float32,
    "violation_rate": pl.Float32,
    "slack": pl.Float32,
    "shortfall": pl.Float32,
    "loss": pl.Float32,
    **{f"loss_{rival}": pl.Float32 for rival in RIVALS},
    "reservation_max": pl.Float32,
    "covered": pl.Float32,
}
DRIFT_SCHEMA: dict[str, Any] = {
    "tenant_id": pl.String,
    "metric": pl.String,
    "what": pl.String,
    "old": pl.String,
    "new": pl.String,
    "old_weight": pl.Float32,
    "new_weight": pl.Float32,
}
SHOWN = 20
"""Maximum number of rows of long tables in the JSON; the Parquet files hold all rows."""


@dataclass(frozen=True)
class Drift:
    """What changed between the previous run and this one: rows with DRIFT_SCHEMA, and how much
    could be compared.

    previous: the run compared with; None in a fleet's first run. n_series: tenant x metric with a
    recommendation in both runs.
    """

    rows: pl.DataFrame
    previous: Run | None
    n_series: int
    n_new_tenants: int
    n_gone_tenants: int


def recommendation_review(fleet: Fleet) -> RecommendationReview:
    """Judge earlier recommendations, and compare this run with the previous one.

    Also writes `recommendation_review.parquet` and `tenant_drift.parquet` below the fleet's
    reports.
    """
    runs = past_runs(fleet)
    reviewed, changed = review(fleet, runs), drift(fleet, runs)
    write_atomically(fleet.reports_dir / "recommendation_review.parquet", reviewed.write_parquet)
    write_atomically(fleet.reports_dir / "tenant_drift.parquet", changed.rows.write_parquet)
    figures = {**_reviewed(fleet, reviewed), **_drifted(changed)}
    return RecommendationReview(
        fleet=fleet.name, n_runs=len(runs), n_reviewed=reviewed.height, **figures
    )


def review(fleet: Fleet, runs: Sequence[Run]) -> pl.DataFrame:
    """Return every earlier recommendation with its cost, if the telemetry now holds at least half
    of the steps of its block.

    One row per tenant, metric, tier and block, REVIEW_SCHEMA. If several runs recommended for the
    same block, the latest counts. Losses, slack and shortfall are in units of the metric; scale as
    in `request_targets`, from before the series' first reviewed block.
    """
    keys = ["tenant_id", "metric", "tier", "block_start"]
    copies = [
        run.read().filter("made").with_columns(pl.lit(run.number, pl.Int64).alias("run"))
        for run in runs
    ]
    if not copies:
        return pl.DataFrame(schema=REVIEW_SCHEMA)
    earlier = pl.concat(copies, how="diagonal_relaxed").unique(
        keys, keep="last", maintain_order=True
    )
    known = fleet.manifest.select("tenant_id", "tenant_number")
    earlier = earlier.drop("tenant_number").join(known, on="tenant_id", maintain_order="left")
    earlier = earlier.filter(
        pl.col("metric").is_in(fleet.grid.metrics)
        & pl.col("tier").is_in(list(fleet.protocol.tiers))
    )
    parts = [
        _reviewed_shard(fleet, shard, earlier.filter(pl.col("tenant_number").is_in(shard)))
        for shard in fleet.shards
    ]
    return pl.concat(parts).sort("run", *keys)


def _reviewed_shard(fleet: Fleet, shard: Sequence[int], rows: pl.DataFrame) -> pl.DataFrame:
    if not rows.height:
        return pl.DataFrame(schema=REVIEW_SCHEMA)
    values = fleet.arrays.values(shard)
    tenant = rows["tenant_number"].to_numpy() - shard[0]
    metric = np.array([fleet.grid.metrics.index(name) for name in rows["metric"]])
    # Convert times, not step numbers: the grid may have begun elsewhere in that run.
    first, last = (
        np.ceil(_step_of(fleet, rows["block_start"])),
        np.floor(_step_of(fleet, rows["block_end"])),
    )
    first, last = first.astype(np.int64), last.astype(np.int64)
    steps = first[:, None] + np.arange(int((last - first).max()) + 1)
    inside = (steps >= 0) & (steps <= np.minimum(last, values.shape[-1] - 1)[:, None])
    actual = np.where(
        inside,
        values[tenant[:, None], metric[:, None], np.clip(steps, 0, values.shape[-1] - 1)],
        np.nan,
    )
    n_observed = (~np.isnan(actual)).sum(axis=-1)
    due = 2 * n_observed >= last - first + 1
    rows, actual, tenant, metric, first = (
        rows.filter(pl.Series(due)),
        actual[due],
        tenant[due],
        metric[due],
        first[due],
    )
    if not rows.height:
        return pl.DataFrame(schema=REVIEW_SCHEMA)
    before = np.full(values.shape[:2], values.shape[-1])
    np.minimum.at(before, (tenant, metric), first)
    scale = series_scale(values.reshape(-1, values.shape[-1]), before.ravel()).reshape(
        before.shape
    )[tenant, metric]
    alphas = fleet.protocol.tiers
    steps_scores = _scores(rows, actual, "reservation", alphas)
    columns = {
        name: steps_scores[name] for name in ("violation_rate", "slack", "shortfall", "loss")
    }
    columns |= {
        f"loss_{rival}": _scores(rows, actual, f"reservation_{rival}", alphas)["loss"]
        for rival in RIVALS
    }
    columns |= {
        "covered": _scores(rows, actual, "reservation_max", alphas)["covered"],
        "n_observed": n_observed[due],
        "scale": scale,
    }
    scored = rows.with_columns(pl.Series(name, column) for name, column in columns.items())
    return scored.select(pl.col(name).cast(dtype) for name, dtype in REVIEW_SCHEMA.items())


def _step_of(fleet: Fleet, times: pl.Series) -> NDArray[np.float64]:
    """Return times as steps of the fleet's grid."""
    elapsed = (times - fleet.grid.time_of(0)).dt.total_microseconds().to_numpy()
    return np.asarray(elapsed / round(fleet.grid.step_minutes * 60_000_000))


def _scores(
    rows: pl.DataFrame,
    actual: NDArray[np.floating],
    column: str,
    alphas: Mapping[str, float],
) -> dict[str, NDArray[np.floating]]:
    """Return scores [M] of the constants in a column, each at its row's tier: actual [M, H]."""
    constant = rows[column].fill_null(np.nan).to_numpy()
    scores: dict[str, NDArray[np.floating]] = {}
    for tier, alpha in alphas.items():
        of_tier = (rows["tier"] == tier).to_numpy()
        for name, part in score_constants(
            actual[of_tier][:, None], constant[of_tier][:, None, None], (alpha,)
        ).items():
            scores.setdefault(name, np.full(len(constant), np.nan, dtype=np.float32))[of_tier] = (
                part[:, 0, 0]
            )
    return scores


def drift(fleet: Fleet, runs: Sequence[Run]) -> Drift:
    """Return the tenants whose heaviest configuration (per metric, at their own tier) or archetype
    changed since the previous run.

    Where a fleet has no archetypes, the most similar tenant takes their place. The previous run is
    the latest one of another table than the present.
    """
    empty = pl.DataFrame(schema=DRIFT_SCHEMA)
    present = fleet.tables.expected["recommendations"]
    previous = next((run for run in reversed(runs) if run.fingerprint != present), None)
    if previous is None:
        return Drift(empty, None, 0, 0, 0)
    now, then = fleet.tables.read("recommendations"), previous.read()
    tenants_now, tenants_then = set(now["tenant_id"]), set(then["tenant_id"])
    compared = ["config", "config_weight", "archetype", "look_alike", "made"]
    keys = ["tenant_id", "metric", "tier"]
    pairs = now.filter("own_tier").join(
        then.select(*keys, *compared), on=keys, suffix="_then", maintain_order="left"
    )
    both = pairs.filter(pl.col("made") & pl.col("made_then"))
    configs = both.filter(pl.col("config") != pl.col("config_then")).select(
        "tenant_id",
        "metric",
        what=pl.lit("configuration"),
        old="config_then",
        new="config",
        old_weight="config_weight_then",
        new_weight="config_weight",
    )
    group = "archetype" if now["archetype"].null_count() < now.height else "look_alike"
    regrouped = pairs.unique("tenant_id", keep="first", maintain_order=True).filter(
        pl.col(group) != pl.col(f"{group}_then")
    )
    groups = regrouped.select(
        "tenant_id", what=pl.lit(group.replace("_", "-")), old=f"{group}_then", new=group
    )
    rows = pl.concat([empty, groups, configs], how="diagonal_relaxed").sort(
        "tenant_id", "metric", nulls_last=False
    )
    new_tenants, gone_tenants = len(tenants_now - tenants_then), len(tenants_then - tenants_now)
    return Drift(
        rows.cast(pl.Schema(DRIFT_SCHEMA)), previous, both.height, new_tenants, gone_tenants
    )


def _reviewed(fleet: Fleet, reviewed: pl.DataFrame) -> dict[str, Any]:
    """Return the review's fields on earlier recommendations: tiers, runs, and the worst misses."""
    if not reviewed.height:
        return {
            "status": "nothing to review yet: no telemetry of a recommended block has arrived "
            "since",
            "tiers": {},
        }
    scaled = [
        (pl.col(name) / pl.col("scale")).fill_nan(None).alias(f"scaled_{name}")
        for name in ("loss", *(f"loss_{r}" for r in RIVALS))
    ]
    per_block = (
        reviewed.with_columns(*scaled)
        .group_by("run", "tier", "tenant_id", "block_start", maintain_order=True)
        .agg(
            pl.col("^scaled_.*$").mean(),
            pl.col("violation_rate", "covered", "expected_violation_rate").fill_nan(None).mean(),
        )
    )
    alphas, draws = fleet.protocol.tiers, fleet.settings.evaluation.group_bootstrap
    runs = per_block.group_by("run", "tier", maintain_order=True).agg(
        pl.col("block_start").min().alias("first_block"),
        pl.len().alias("n_blocks"),
        pl.col("violation_rate", "expected_violation_rate", "covered").mean(),
        *(
            (pl.col("scaled_loss").sum() / pl.col(f"scaled_loss_{rival}").sum()).alias(
                f"ratio_{rival}"
            )
            for rival in RIVALS
        ),
    )
    runs = runs.sort("run", "tier", descending=[True, False]).head(len(alphas) * SHOWN)
    misses = reviewed.filter(pl.col("own_tier") & (pl.col("shortfall") > 0)).sort(
        pl.col("shortfall") / pl.col("scale"), descending=True
    )
    first, last = spanned(reviewed)
    return {
        "status": "earlier recommendations were reviewed",
        "n_runs_reviewed": reviewed["run"].n_unique(),
        "first_block_start": first,
        "last_block_start": last,
        "tiers": {
            tier: _of_tier(per_block.filter(pl.col("tier") == tier), alpha, draws)
            for tier, alpha in alphas.items()
        },
        "table_runs": RunRow.from_rows(_times_as_text(runs)),
        "table_misses": MissRow.from_rows(
            _times_as_text(misses.head(SHOWN).select(list(MissRow.model_fields)))
        ),
        **(_costs(fleet, reviewed.filter("own_tier")) if fleet.spec.prices else {}),
    }


def _of_tier(blocks: pl.DataFrame, alpha: float, draws: Mapping[str, int]) -> ReviewOfTier:
    """Return one tier's figures over all reviewed blocks."""
    return ReviewOfTier(
        violation_rate=blocks["violation_rate"].mean(),
        violation_rate_target=round(1 - alpha, 10),
        covered=blocks["covered"].mean(),
        covered_target=alpha,
        n_blocks=blocks.height,
        ratio_fixed=_ratio(blocks, "fixed", draws),
        ratio_last_block=_ratio(blocks, "last_block", draws),
    )


def _ratio(blocks: pl.DataFrame, rival: str, draws: Mapping[str, int]) -> Estimate:
    """Return the reviewed loss over a rival's, with the 95 % interval over tenants and days (none
    for a single tenant or day).
    """
    paired = blocks.drop_nulls(["scaled_loss", f"scaled_loss_{rival}"])
    if not paired.height:
        return Estimate()
    day = paired["block_start"].cast(pl.Date).cast(pl.Int32).to_numpy()
    reviewed, rival_losses = (
        paired[name].to_numpy() for name in ("scaled_loss", f"scaled_loss_{rival}")
    )
    interval = two_way_bootstrap(
        reviewed, rival_losses, paired["tenant_id"].to_numpy(), day, **draws
    )
    return Estimate(interval.ratio, interval.low, interval.high)


def _costs(fleet: Fleet, own: pl.DataFrame) -> dict[str, Any]:
    """Return the review's fields on money, from rows at every tenant's own tier."""
    priced = with_money(own, fleet, slack="slack", shortfall="shortfall")
    cost = priced.group_by("tenant_id", "block_start").agg(
        pl.col("slack_cost_per_day", "sla_cost_per_day").sum()
    )
    means = {
        f"{name}_per_tenant_day": cost[f"{name}_per_day"].mean()
        for name in ("slack_cost", "sla_cost")
    }
    return {**means, "currency": fleet.spec.currency}


def _drifted(changed: Drift) -> dict[str, Any]:
    """Return the review's fields on changes since the last run."""
    if changed.previous is None:
        return {
            "drift_status": "nothing to compare yet: this is the fleet's first run",
            "n_configs_changed": 0,
            "n_tenants_changed": 0,
        }
    rows = changed.rows
    return {
        "drift_status": f"compared with run {changed.previous.number}",
        "n_series_compared": changed.n_series,
        "n_configs_changed": rows.filter(pl.col("what") == "configuration").height,
        "n_tenants_changed": rows["tenant_id"].n_unique(),
        "n_groups_changed": rows.filter(pl.col("what") != "configuration").height,
        "n_new_tenants": changed.n_new_tenants,
        "n_gone_tenants": changed.n_gone_tenants,
        "table_drift": DriftRow.from_rows(rows.head(SHOWN)),
    }


def _times_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    times = [name for name, dtype in frame.schema.items() if dtype == pl.Datetime]
    return frame.with_columns(pl.col(times).dt.strftime(TIME))
