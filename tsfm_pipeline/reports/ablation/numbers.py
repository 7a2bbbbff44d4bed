"""What each part of the search adds, step by step from the median to the whole search.

What belongs here: the contents of `ablation_report`. What does not: single scores (`steps.scores`),
the losses that are compared (`losses`) and how (`comparison`), mean weights (`selection`), deciding
again with something taken away (`replays`), statistics (`evaluation`).
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.headroom import cross_fitted_losses
from tsfm_pipeline.evaluation.methods import (
    ARGMIN,
    CONFIG_PREFIX,
    FIXED,
    FIXED_MEDIAN,
    SEARCH,
    SEARCH_UNCORRECTED,
    SHRUNKEN_ARGMIN,
    method_of,
)
from tsfm_pipeline.evaluation.statistics import (
    label_swap_rejection_rate,
    two_way_bootstrap,
    two_way_bootstrap_mean,
)
from tsfm_pipeline.reports.ablation import replays
from tsfm_pipeline.reports.ablation.comparison import (
    draws_of,
    few_draws_of,
    limits_of,
    loss_ratio,
    mean_loss,
    verdict_of,
)
from tsfm_pipeline.reports.ablation.events import event_rows
from tsfm_pipeline.reports.ablation.losses import (
    Grouping,
    by_group,
    by_method,
    every_request,
    per_replay,
    replays_of,
)
from tsfm_pipeline.reports.ablation.model import (
    AblationOfTier,
    AblationReport,
    ControlRow,
    DimensionRow,
    FloorRow,
    RivalRow,
    StepRow,
    ViolationRow,
)
from tsfm_pipeline.reports.ablation.selection import selection_rows
from tsfm_pipeline.reports.shared.headroom import tenant_headroom
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.headline import request_losses

LADDER: dict[str, str] = {
    FIXED_MEDIAN: "median of the best fixed configuration",
    FIXED: "emit the tier's quantile",
    ARGMIN: "choose per request",
    SHRUNKEN_ARGMIN: "shrink toward other tenants",
    SEARCH_UNCORRECTED: "average (the default rule)",
    SEARCH: "correct the level",
}
"""The steps in order: the method with all steps up to this one, and what this step adds."""
HARMED_ABOVE = 1.02

Methods = Mapping[str, pl.DataFrame]


def ablation_report(fleet: Fleet) -> AblationReport:
    """Compute steps, rivals, selection, headroom, controls, dimensions, floor and violations.

    Raises ValueError if the scores lack a method of the steps.
    """
    tiers = fleet.protocol.tiers
    overall = every_request(fleet)
    everything = Grouping(
        "all", by_method(overall.with_columns(pl.lit("").alias("group")), list(tiers))
    )
    groups = by_group(fleet, overall)
    missing = set(LADDER) - set(overall["method"])
    if missing:
        raise ValueError(
            f"no scores of {', '.join(sorted(missing))} for fleet {fleet.name!r}; materialise "
            "scored_forecasts again"
        )
    replayed = per_replay(
        replays.replayed_losses(fleet), request_losses(fleet, [FIXED], [next(iter(tiers))])
    )
    steps = [row for grouping in (everything, groups) for row in _step_rows(grouping, fleet)]
    harmed = [f"{row.scope_value} at {row.tier}" for row in steps if row.harmed]
    floor = floor_losses(fleet)
    return AblationReport(
        fleet=fleet.name,
        group_scope=groups.scope,
        n_configs=len(fleet.configs),
        harmed_groups=tuple(harmed),
        n_harmed_groups=len(harmed),
        tiers={
            tier: _of_tier(fleet, overall, floor, everything.frames[tier, ""], tier)
            for tier in tiers
        },
        table_steps=tuple(steps),
        table_rivals=tuple(_rival_rows(everything, fleet)),
        table_selection=tuple(selection_rows(fleet, groups.scope)),
        table_violations=tuple(_violation_rows(everything, fleet)),
        table_controls=tuple(_control_rows(replayed, fleet)),
        table_dimensions=tuple(_dimension_rows(everything, replayed, fleet)),
        table_events=tuple(event_rows(everything, fleet)),
        table_floor=tuple(_floor_rows(floor, everything, groups, fleet)) if floor.height else (),
    )


def _step_rows(grouping: Grouping, fleet: Fleet) -> list[StepRow]:
    """Return every step's ratio to the step before it and to the fixed configuration."""
    rows = []
    draws = draws_of(fleet) if grouping.scope == "all" else few_draws_of(fleet)
    for (tier, group), methods in grouping.frames.items():
        before: pl.DataFrame | None = None
        for position, (method, adds) in enumerate(LADDER.items()):
            frame = methods[method]
            ratio = loss_ratio(frame, methods[FIXED], draws)
            is_group = grouping.scope != "all" and method == SEARCH
            rows.append(
                StepRow(
                    tier=tier,
                    scope=grouping.scope,
                    scope_value=group,
                    step=position,
                    method=method,
                    adds=adds,
                    mean_scaled_loss=mean_loss(frame),
                    step_ratio=loss_ratio(frame, before, draws)
                    if before is not None
                    else Estimate(),
                    ratio=ratio,
                    harmed=is_group and ratio.figure > HARMED_ABOVE and ratio.low > 1,
                    n_requests=frame["request_id"].n_unique(),
                    n_failed=int(frame["scaled_loss"].is_nan().sum()),
                )
            )
            before = frame
    return rows


def _rival_rows(everything: Grouping, fleet: Fleet) -> list[RivalRow]:
    """Return all rules and rivals side by side, and the search's ratio to each of them.

    Single configurations are in the headline.
    """
    rows = []
    scores = fleet.tables.read("headline_scores").filter(pl.col("scope") == "all")
    known = {(row["tier"], row["method"]): row for row in scores.iter_rows(named=True)}
    for (tier, _), methods in everything.frames.items():
        for method, frame in methods.items():
            if not method.startswith(CONFIG_PREFIX):
                search = loss_ratio(methods[SEARCH], frame, draws_of(fleet))
                rows.append(
                    RivalRow(
                        tier=tier,
                        method=method,
                        forecasts=method_of(method).forecasts,
                        mean_scaled_loss=mean_loss(frame),
                        ratio=Estimate(
                            *(
                                known[tier, method][key]
                                for key in ("ratio", "ratio_low", "ratio_high")
                            )
                        ),
                        search_ratio=search,
                        beaten=verdict_of(search, ("yes", "no", "undecided")),
                        n_failed=int(frame["scaled_loss"].is_nan().sum()),
                    )
                )
    order = list(fleet.protocol.tiers)
    return sorted(rows, key=lambda row: (order.index(row.tier), row.mean_scaled_loss, row.method))


def _of_tier(
    fleet: Fleet, overall: pl.DataFrame, floor: pl.DataFrame, methods: Methods, tier: str
) -> AblationOfTier:
    """Return headroom beside its null, the part that the search captures, the label-swap control,
    the floor.
    """
    headroom, table = tenant_headroom(fleet, overall, tier)
    fixed_index = table.losses.shape[2] - 1
    requests = overall.filter((pl.col("tier") == tier) & (pl.col("method") == SEARCH)).sort(
        "tenant_number", "origin_step"
    )
    clusters = requests["tenant_number"].to_numpy(), requests["day"].cast(pl.Int32).to_numpy()
    search = requests["scaled_loss"].to_numpy()
    fixed, oracle = (
        table.rows(table.losses[:, :, fixed_index]),
        table.rows(cross_fitted_losses(table.losses, fixed_index)),
    )
    few = few_draws_of(fleet)
    left = limits_of(two_way_bootstrap(oracle, fixed, *clusters, **few))
    regret = limits_of(two_way_bootstrap(search - oracle, fixed, *clusters, **few))
    captured = Estimate()
    if headroom.cross_fitted > 0:
        captured = limits_of(two_way_bootstrap(fixed - search, fixed - oracle, *clusters, **few))
        # If the headroom may be zero, the share of it has no meaningful interval.
        captured = captured if left.high < 1 else Estimate(captured.figure)
    defaults = dict.fromkeys(policy.tiers[tier].default for policy in read_policies(fleet).values())
    own_floor = floor.filter(pl.col("tier") == tier) if floor.height else None
    return AblationOfTier(
        headroom_cross_fitted=Estimate(headroom.cross_fitted, 1 - left.high, 1 - left.low),
        headroom_null_low=headroom.null_low,
        headroom_null_high=headroom.null_high,
        headroom_p_value=headroom.p_value,
        headroom_oracle_tenant=headroom.oracle_per_tenant,
        headroom_oracle_request=headroom.oracle_per_request,
        headroom_captured=captured,
        regret=regret,
        label_swap_rejection_rate=label_swap_rejection_rate(
            search, fixed, *clusters, **fleet.settings.evaluation.control
        ),
        default_rule=", ".join(defaults),
        **(_reducible(own_floor, methods, fleet) if own_floor is not None else {}),
    )


def _violation_rows(everything: Grouping, fleet: Fleet) -> list[ViolationRow]:
    """Return how often demand exceeds the decision, against 1 - alpha, before and after the
    correction.
    """
    rows = []
    for (tier, _), methods in everything.frames.items():
        target = round(1 - fleet.protocol.tiers[tier], 10)
        for method in (FIXED, SEARCH_UNCORRECTED, SEARCH):
            frame = methods[method]
            clusters = frame["tenant_number"].to_numpy(), frame["day"].cast(pl.Int32).to_numpy()
            rate = two_way_bootstrap_mean(frame["violation_rate"], *clusters, **few_draws_of(fleet))
            rows.append(
                ViolationRow(
                    tier=tier,
                    method=method,
                    violation_rate=Estimate(rate.mean, rate.low, rate.high),
                    target=target,
                    excess=rate.mean - target,
                )
            )
    return rows


def _control_rows(replayed: pl.DataFrame, fleet: Fleet) -> list[ControlRow]:
    """Return the gain of the neighbours' prior over a random tenant's and the whole fleet's.

    The gain is zero if any other tenant's prior is as good.
    """
    rows = []
    for tier in fleet.protocol.tiers:
        frames = replays_of(replayed, tier)
        for control in (replays.SHUFFLED, replays.FLEET_WIDE):
            ratio = loss_ratio(frames[replays.RETRIEVED], frames[control], few_draws_of(fleet))
            verdict = verdict_of(ratio, ("gains", "loses", "no effect shown"))
            rows.append(ControlRow(tier=tier, control=control, ratio=ratio, verdict=verdict))
    return rows


def _dimension_rows(
    everything: Grouping, replayed: pl.DataFrame, fleet: Fleet
) -> list[DimensionRow]:
    """Return the cost with against without each dimension of the search space: of the search, and
    of the best fixed configuration.
    """
    rows = []
    masks = replays.dimension_masks(fleet)
    chosen = {dimension: replays.restricted_fixed(fleet, mask) for dimension, mask in masks.items()}
    fold_of = dict(fleet.manifest.select("tenant_number", "fold").iter_rows())
    for tier in fleet.protocol.tiers:
        methods, frames = everything.frames[tier, ""], replays_of(replayed, tier)
        for dimension, mask in masks.items():
            without = {SEARCH: frames[f"{replays.WITHOUT}{dimension}"]}
            by_fold = [
                methods[f"{CONFIG_PREFIX}{name}"].filter(
                    pl.col("tenant_number").replace_strict(fold_of) == fold
                )
                for (fold, own_tier), name in chosen[dimension].items()
                if own_tier == tier
            ]
            if by_fold:
                without[FIXED] = pl.concat(by_fold).sort("request_id")
            for method, frame in without.items():
                with_it = methods[method].join(
                    frame.select("request_id"), on="request_id", how="semi", maintain_order="left"
                )
                ratio = loss_ratio(with_it, frame, few_draws_of(fleet))
                rows.append(
                    DimensionRow(
                        tier=tier,
                        dimension=dimension,
                        method=method,
                        n_configs=int(mask.sum()),
                        ratio=ratio,
                        verdict=verdict_of(ratio, ("earns its place", "harms", "no effect shown")),
                        n_failed=int(frame["scaled_loss"].is_nan().sum()),
                    )
                )
    return rows


def floor_losses(fleet: Fleet) -> pl.DataFrame:
    """Return the irreducible loss and its Monte-Carlo error over scale, means over a request's
    metrics; empty where the truth is unknown.
    """
    sql = """
        SELECT i.tier, i.request_id, avg(i.irreducible_loss / t.scale) AS scaled_loss,
               avg(i.monte_carlo_error / t.scale) AS scaled_error
        FROM irreducible_losses i
        JOIN request_targets t USING (request_id, metric)
        JOIN forecast_requests r USING (request_id)
        WHERE r.valid AND NOT isnan(t.scale)
        GROUP BY ALL ORDER BY ALL
    """
    return fleet.tables.query(sql, "irreducible_losses", "request_targets", "forecast_requests")


def _floor_rows(
    floor: pl.DataFrame, everything: Grouping, groups: Grouping, fleet: Fleet
) -> list[FloorRow]:
    """Return every method's loss as a multiple of the irreducible one.

    By group for the search and the fixed configuration.
    """
    rows = []
    for grouping in (everything, groups):
        for (tier, group), methods in grouping.frames.items():
            own = _floor_of(floor.filter(pl.col("tier") == tier), methods)
            shown = (
                methods
                if grouping is everything
                else {method: methods[method] for method in (FIXED, SEARCH)}
            )
            for method, frame in sorted(shown.items(), key=lambda item: mean_loss(item[1])):
                if not method.startswith(CONFIG_PREFIX):
                    multiple = loss_ratio(frame, own.sort("request_id"), few_draws_of(fleet))
                    rows.append(
                        FloorRow(
                            tier=tier,
                            scope=grouping.scope,
                            scope_value=group,
                            method=method,
                            multiple=multiple,
                        )
                    )
    return rows


def _floor_of(floor: pl.DataFrame, methods: Methods) -> pl.DataFrame:
    """Return the irreducible losses of the requests that the methods are scored on."""
    return floor.join(methods[FIXED].select("request_id"), on="request_id", how="semi")


def _reducible(floor: pl.DataFrame, methods: Methods, fleet: Fleet) -> dict[str, Any]:
    """Return the floor, what the finite number of paths adds to it, and the share of the loss above
    it that the search saves.
    """
    floor = _floor_of(floor, methods)
    search, fixed = methods[SEARCH], methods[FIXED]
    clusters = search["tenant_number"].to_numpy(), search["day"].cast(pl.Int32).to_numpy()
    lowest, saved = (
        floor["scaled_loss"].to_numpy(),
        fixed["scaled_loss"].to_numpy() - search["scaled_loss"].to_numpy(),
    )
    above = fixed["scaled_loss"].to_numpy() - lowest
    share = two_way_bootstrap(saved, above, *clusters, **few_draws_of(fleet))
    error = float(floor["scaled_error"].to_numpy().mean() / lowest.mean())
    return {
        "floor_mean_scaled_loss": mean_loss(floor),
        "floor_monte_carlo_share": error,
        "reducible_captured": limits_of(share),
    }
