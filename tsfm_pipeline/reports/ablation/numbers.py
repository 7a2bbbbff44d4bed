"""What each part of the search adds: from the median of one good context, step by step, to the whole search; rivals, controls and floor.

What belongs here: the contents of `ablation_report`. What does not: single scores (`steps.scores`), the headline
(`reports.headline.numbers`), deciding again with something taken away (`reports.ablation.replays`), statistics (`evaluation`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.headroom import cross_fitted_losses
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.evaluation.statistics import RatioInterval, label_swap_rejection_rate, two_way_bootstrap, two_way_bootstrap_mean
from tsfm_pipeline.reports.ablation import replays
from tsfm_pipeline.reports.headline.numbers import tenant_headroom
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.headline import compared, per_request, request_losses, series_losses

LADDER: dict[str, str] = {
    "fixed_median": "median of the best fixed configuration",
    FIXED: "emit the tier's quantile",
    "rule:argmin": "choose per request",
    "rule:shrunken_argmin": "shrink toward other tenants",
    "search_uncorrected": "average (the default rule)",
    SEARCH: "correct the level",
}
"""The steps in their order: the method that has everything up to this step, and what the step adds."""
GROUP_COLUMNS = {"archetype": "m.archetype", "tenant": "r.tenant_id", "metric": "f.metric"}
HARMED_ABOVE = 1.02
MOST_TENANTS_LISTED = 30
ROUNDING = 1e-6
"""Equal forecasts, stored in float32 or summed in another order, are no effect."""
NOTHING = (float("nan"), float("nan"), float("nan"))

Methods = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Grouping:
    """The losses of one scope: `scope` names it, and each (tier, group) has a frame per method."""

    scope: str
    frames: dict[tuple[str, str], dict[str, pl.DataFrame]]


def ablation_report(fleet: Fleet) -> dict[str, Any]:
    """The report's JSON: steps, rivals, selection, headroom, controls, dimensions, floor and violations, each with its interval."""
    overall = every_request(fleet)
    everything = Grouping("all", _by_method(overall.with_columns(pl.lit("").alias("group"))))
    groups = by_group(fleet, overall)
    missing = set(LADDER) - set(overall["method"])
    if missing:
        raise ValueError(f"no scores of {', '.join(sorted(missing))} for fleet {fleet.name!r}; materialise scored_forecasts again")
    replayed = per_replay(replays.replayed_losses(fleet), request_losses(fleet, [FIXED], [next(iter(TIERS))]))
    steps = [row for grouping in (everything, groups) for row in _step_rows(grouping, fleet)]
    report: dict[str, Any] = {
        "fleet": fleet.name,
        "group_scope": groups.scope,
        "n_configs": len(fleet.configs),
        "harmed_groups": [f"{row['scope_value']} at {row['tier']}" for row in steps if row["harmed"]],
    }
    report["n_harmed_groups"] = len(report["harmed_groups"])
    for tier in TIERS:
        report |= {f"{tier}_{name}": figure for name, figure in _tier_figures(fleet, overall, tier).items()}
    report |= {
        "table_steps": steps,
        "table_rivals": _rival_rows(everything, fleet),
        "table_selection": selection_rows(fleet, groups.scope),
        "table_violations": _violation_rows(everything, fleet),
        "table_controls": _control_rows(replayed, fleet),
    }
    if dimensions := _dimension_rows(everything, replayed, fleet):
        report["table_dimensions"] = dimensions
    floor = floor_losses(fleet)
    if floor.height:
        report |= _floor(floor, everything, groups, fleet)
    return report


def every_request(fleet: Fleet, by_metric: bool = False) -> pl.DataFrame:
    """`per_request` of all losses; only some methods' are in memory by metric at a time, unless asked for so."""
    batches = (some for tier in sorted(TIERS) for some in series_losses(fleet, tier))
    return pl.concat([some if by_metric else per_request(some) for some in batches])


def by_group(fleet: Fleet, overall: pl.DataFrame) -> Grouping:
    """Losses by archetype; without known archetypes by tenant, if there are few; else by metric.

    One tenant's losses are compared series by series, and its interval resamples its series (in place of tenants) and days.
    """
    if (overall["archetype"] != "").any():
        return Grouping("archetype", _by_method(overall.filter(pl.col("archetype") != "").rename({"archetype": "group"})))
    by_metric = every_request(fleet, by_metric=True)
    if by_metric["tenant_number"].n_unique() > MOST_TENANTS_LISTED:
        return Grouping("metric", _by_method(by_metric.with_columns(pl.col("metric").alias("group"))))
    names = pl.Series(fleet.manifest["tenant_id"].to_list(), dtype=pl.String)
    series = pl.col("metric").rank("dense").cast(pl.Int32).alias("tenant_number")
    named = by_metric.with_columns(names.gather(by_metric["tenant_number"]).alias("group"), series)
    return Grouping("tenant", _by_method(named))


def _by_method(table: pl.DataFrame) -> dict[tuple[str, str], dict[str, pl.DataFrame]]:
    frames: dict[tuple[str, str], dict[str, pl.DataFrame]] = {}
    for (tier, group, method), frame in table.partition_by("tier", "group", "method", as_dict=True, maintain_order=True).items():
        frames.setdefault((tier, group), {})[method] = frame
    return {key: frames[key] for key in sorted(frames, key=lambda key: (_order(key[0]), key[1]))}


def _step_rows(grouping: Grouping, fleet: Fleet) -> list[dict[str, Any]]:
    """Every step's ratio to the step before it and to the fixed configuration."""
    rows = []
    draws = _draws(fleet) if grouping.scope == "all" else _few_draws(fleet)
    for (tier, group), methods in grouping.frames.items():
        before: pl.DataFrame | None = None
        for position, (method, adds) in enumerate(LADDER.items()):
            frame = methods[method]
            ratio = _ratio("ratio", frame, methods[FIXED], draws)
            rows.append(
                {
                    "tier": tier,
                    "scope": grouping.scope,
                    "scope_value": group,
                    "step": position,
                    "method": method,
                    "adds": adds,
                    "mean_scaled_loss": _mean(frame),
                    **(_ratio("step_ratio", frame, before, draws) if before is not None else _named("step_ratio", NOTHING)),
                    **ratio,
                    "harmed": grouping.scope != "all" and method == SEARCH and ratio["ratio"] > HARMED_ABOVE and ratio["ratio_low"] > 1,
                    "n_requests": frame["request_id"].n_unique(),
                    "n_failed": int(frame["scaled_loss"].is_nan().sum()),
                }
            )
            before = frame
    return rows


def _rival_rows(everything: Grouping, fleet: Fleet) -> list[dict[str, Any]]:
    """All rules and rivals beside each other, and the search's ratio to each of them; single configurations are in the headline."""
    rows = []
    scores = fleet.tables.read("headline_scores").filter(pl.col("scope") == "all")
    known = {(row["tier"], row["method"]): row for row in scores.iter_rows(named=True)}
    for (tier, _), methods in everything.frames.items():
        for method, frame in methods.items():
            if not method.startswith(CONFIG_PREFIX):
                search = _ratio("search_ratio", methods[SEARCH], frame, _draws(fleet))
                rows.append(
                    {
                        "tier": tier,
                        "method": method,
                        "forecasts": forecasts_of(method),
                        "mean_scaled_loss": _mean(frame),
                        **{key: known[tier, method][key] for key in ("ratio", "ratio_low", "ratio_high")},
                        **search,
                        "beaten": _verdict(search["search_ratio_low"], search["search_ratio_high"], ("yes", "no", "undecided")),
                        "n_failed": int(frame["scaled_loss"].is_nan().sum()),
                    }
                )
    return sorted(rows, key=lambda row: (_order(row["tier"]), row["mean_scaled_loss"], row["method"]))


def forecasts_of(method: str) -> str:
    """What a method computes per request: matched compute means K forecasts, with or without their validation."""
    if method in DIRECT_BASELINES:
        return "none"
    if method in ("uniform_average", "static_ensemble"):
        return "K"
    if method in (SEARCH, "search_uncorrected", "last_window_winner") or method.startswith("rule:"):
        return "K, validated"
    return "1, validated" if method == "fixed_corrected" else "1"


def selection_rows(fleet: Fleet, scope: str) -> list[dict[str, Any]]:
    """Mean weight of each configuration, and the share of series-requests at which it weighs most; overall and by group."""
    sql = f"""
        SELECT f.tier, f.chosen, f.weights,
               {GROUP_COLUMNS[scope]} AS "group"
        FROM autoresearch_forecasts f
        JOIN forecast_requests r USING (request_id)
        JOIN tenant_manifest m ON m.tenant_number = f.tenant_number
        WHERE r.valid AND f.chosen <> ''
    """
    table = fleet.tables.query(sql, "autoresearch_forecasts", "forecast_requests", "tenant_manifest")
    frames = table.partition_by("tier", "group", as_dict=True)
    whole = table.partition_by("tier", as_dict=True)
    rows = []
    for tier in TIERS:
        groups = {("all", ""): whole[(tier,)]} if (tier,) in whole else {}
        groups |= {(scope, group): frame for (own, group), frame in sorted(frames.items(), key=str) if own == tier and group is not None}
        for (name, group), frame in groups.items():
            weights = frame["weights"].to_numpy().mean(axis=0)
            for config, weight in zip(fleet.configs, weights.tolist(), strict=True):
                share = float((frame["chosen"] == config.name).to_numpy().mean())
                names = {"tier": tier, "scope": name, "scope_value": group, "config": config.name}
                rows.append({**names, "mean_weight": weight, "share_chosen": share, "n_series_requests": frame.height})
    return rows


def _tier_figures(fleet: Fleet, overall: pl.DataFrame, tier: str) -> dict[str, Any]:
    """Headroom beside its null, what the search leaves of it, and the label-swap control."""
    headroom, table = tenant_headroom(fleet, overall, tier)
    fixed_index = table.losses.shape[2] - 1
    requests = overall.filter((pl.col("tier") == tier) & (pl.col("method") == SEARCH)).sort("tenant_number", "origin_step")
    clusters = requests["tenant_number"].to_numpy(), requests["day"].cast(pl.Int32).to_numpy()
    search = requests["scaled_loss"].to_numpy()
    fixed, oracle = table.rows(table.losses[:, :, fixed_index]), table.rows(cross_fitted_losses(table.losses, fixed_index))
    few = _few_draws(fleet)
    left = _limits(two_way_bootstrap(oracle, fixed, *clusters, **few))
    regret = _limits(two_way_bootstrap(search - oracle, fixed, *clusters, **few))
    captured: tuple[float, ...] = NOTHING
    if headroom.cross_fitted > 0:
        captured = _limits(two_way_bootstrap(fixed - search, fixed - oracle, *clusters, **few))
        # A share of something that may be nothing has no interval.
        captured = captured if left[2] < 1 else (captured[0], *NOTHING[1:])
    defaults = dict.fromkeys(policy.tiers[tier].default for policy in read_policies(fleet).values())
    return {
        "headroom_cross_fitted": headroom.cross_fitted,
        "headroom_low": 1 - left[2],
        "headroom_high": 1 - left[1],
        "headroom_null_low": headroom.null_low,
        "headroom_null_high": headroom.null_high,
        "headroom_p_value": headroom.p_value,
        "headroom_oracle_tenant": headroom.oracle_per_tenant,
        "headroom_oracle_request": headroom.oracle_per_request,
        **_named("headroom_captured", captured),
        **_named("regret", regret),
        "label_swap_rejection_rate": label_swap_rejection_rate(search, fixed, *clusters, **fleet.settings.evaluation.control),
        "default_rule": ", ".join(defaults),
    }


def _violation_rows(everything: Grouping, fleet: Fleet) -> list[dict[str, Any]]:
    """How often demand exceeds the decision, against 1 - alpha, before and after the level is corrected."""
    rows = []
    for (tier, _), methods in everything.frames.items():
        for method in (FIXED, "search_uncorrected", SEARCH):
            frame = methods[method]
            clusters = frame["tenant_number"].to_numpy(), frame["day"].cast(pl.Int32).to_numpy()
            rate = two_way_bootstrap_mean(frame["violation_rate"], *clusters, **_few_draws(fleet))
            target = round(1 - TIERS[tier], 10)
            figures = _named("violation_rate", (rate.mean, rate.low, rate.high))
            rows.append({"tier": tier, "method": method, **figures, "target": target, "excess": rate.mean - target})
    return rows


def per_replay(rows: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    """Replayed losses as means over a request's metrics, on the requests and metrics that the scores of a method have."""
    joined = rows.join(scored.select("request_id", "metric", "day"), on=["request_id", "metric"])
    means = joined.group_by("tier", "method", "request_id").agg(pl.col("scaled_loss").mean(), pl.col("tenant_number", "day").first())
    return means.sort("tier", "method", "request_id")


def _control_rows(replayed: pl.DataFrame, fleet: Fleet) -> list[dict[str, Any]]:
    """What the neighbours' prior gains over a stranger's and over the whole fleet's: where any tenant's would do as well, nothing."""
    rows = []
    for tier in TIERS:
        frames = _replays_of(replayed, tier)
        for control in (replays.SHUFFLED, replays.FLEET_WIDE):
            ratio = _ratio("ratio", frames[replays.RETRIEVED], frames[control], _few_draws(fleet))
            verdict = _verdict(ratio["ratio_low"], ratio["ratio_high"], ("gains", "loses", "no effect shown"))
            rows.append({"tier": tier, "control": control, **ratio, "verdict": verdict})
    return rows


def _dimension_rows(everything: Grouping, replayed: pl.DataFrame, fleet: Fleet) -> list[dict[str, Any]]:
    """With against without each dimension of the search space: the search, and the best fixed configuration."""
    rows = []
    masks = replays.dimension_masks(fleet)
    chosen = {dimension: replays.restricted_fixed(fleet, mask) for dimension, mask in masks.items()}
    fold_of = dict(fleet.manifest.select("tenant_number", "fold").iter_rows())
    for tier in TIERS:
        methods, frames = everything.frames[tier, ""], _replays_of(replayed, tier)
        for dimension, mask in masks.items():
            without = {SEARCH: frames[f"{replays.WITHOUT}{dimension}"]}
            by_fold = [
                methods[f"{CONFIG_PREFIX}{name}"].filter(pl.col("tenant_number").replace_strict(fold_of) == fold)
                for (fold, own_tier), name in chosen[dimension].items()
                if own_tier == tier
            ]
            if by_fold:
                without[FIXED] = pl.concat(by_fold).sort("request_id")
            for method, frame in without.items():
                with_it = methods[method].join(frame.select("request_id"), on="request_id", how="semi", maintain_order="left")
                ratio = _ratio("ratio", with_it, frame, _few_draws(fleet))
                verdict = _verdict(ratio["ratio_low"], ratio["ratio_high"], ("earns its place", "harms", "no effect shown"))
                names = {"tier": tier, "dimension": dimension, "method": method, "n_configs": int(mask.sum())}
                rows.append({**names, **ratio, "verdict": verdict, "n_failed": int(frame["scaled_loss"].is_nan().sum())})
    return rows


def floor_losses(fleet: Fleet) -> pl.DataFrame:
    """Irreducible loss and its Monte-Carlo error over scale, means over a request's metrics; empty where the truth is unknown."""
    sql = """
        SELECT i.tier, i.request_id, avg(i.irreducible_loss / t.scale) AS scaled_loss, avg(i.monte_carlo_error / t.scale) AS scaled_error
        FROM irreducible_losses i
        JOIN request_targets t USING (request_id, metric)
        JOIN forecast_requests r USING (request_id)
        WHERE r.valid AND NOT isnan(t.scale)
        GROUP BY ALL ORDER BY ALL
    """
    return fleet.tables.query(sql, "irreducible_losses", "request_targets", "forecast_requests")


def _floor(floor: pl.DataFrame, everything: Grouping, groups: Grouping, fleet: Fleet) -> dict[str, Any]:
    """Every method's loss as a multiple of the irreducible one; by archetype for the search and the fixed configuration."""
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for grouping in (everything, groups):
        for (tier, group), methods in grouping.frames.items():
            own = floor.filter(pl.col("tier") == tier).join(methods[FIXED].select("request_id"), on="request_id", how="semi")
            shown = methods if grouping is everything else {method: methods[method] for method in (FIXED, SEARCH)}
            for method, frame in sorted(shown.items(), key=lambda item: _mean(item[1])):
                if not method.startswith(CONFIG_PREFIX):
                    names = {"tier": tier, "scope": grouping.scope, "scope_value": group, "method": method}
                    rows.append({**names, **_ratio("multiple", frame, own.sort("request_id"), _few_draws(fleet))})
            if grouping is everything:
                figures |= {f"{tier}_{name}": figure for name, figure in _reducible(own, methods, fleet).items()}
    return {**figures, "table_floor": rows}


def _reducible(floor: pl.DataFrame, methods: Methods, fleet: Fleet) -> dict[str, float]:
    """The floor itself, what the finite number of paths adds to it, and which share of the loss above it the search takes away."""
    search, fixed = methods[SEARCH], methods[FIXED]
    clusters = search["tenant_number"].to_numpy(), search["day"].cast(pl.Int32).to_numpy()
    lowest, saved = floor["scaled_loss"].to_numpy(), fixed["scaled_loss"].to_numpy() - search["scaled_loss"].to_numpy()
    above = fixed["scaled_loss"].to_numpy() - lowest
    share = two_way_bootstrap(saved, above, *clusters, **_few_draws(fleet))
    error = float(floor["scaled_error"].to_numpy().mean() / lowest.mean())
    return {"floor_mean_scaled_loss": _mean(floor), "floor_monte_carlo_share": error, **_named("reducible_captured", _limits(share))}


def _replays_of(replayed: pl.DataFrame, tier: str) -> dict[str, pl.DataFrame]:
    own = replayed.filter(pl.col("tier") == tier)
    return {str(name): frame for (name,), frame in own.partition_by("method", as_dict=True, maintain_order=True).items()}


def _order(tier: str) -> int:
    return list(TIERS).index(tier)


def _ratio(name: str, a: pl.DataFrame, b: pl.DataFrame, draws: Mapping[str, int]) -> dict[str, float]:
    """Loss of a over loss of b with its interval, under these names."""
    return _named(name, _limits(compared(a, b, "scaled_loss", **draws)))


def _draws(fleet: Fleet) -> dict[str, int]:
    """Of the bootstrap for steps and rivals over all tenants."""
    return fleet.settings.evaluation.bootstrap


def _few_draws(fleet: Fleet) -> dict[str, int]:
    """Of the bootstrap for groups and secondary figures."""
    return fleet.settings.evaluation.group_bootstrap


def _limits(interval: RatioInterval) -> tuple[float, ...]:
    """Ratio and limits, at 1 where they differ from it by rounding alone."""
    return tuple(1.0 if abs(figure - 1) < ROUNDING else figure for figure in (interval.ratio, interval.low, interval.high))


def _named(name: str, figures: Iterable[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), figures, strict=True))


def _verdict(low: float, high: float, words: tuple[str, str, str]) -> str:
    """Of (below 1, above 1, neither) the one that an interval shows."""
    below, above, neither = words
    return below if high < 1 else above if low > 1 else neither


def _mean(frame: pl.DataFrame) -> float:
    losses = frame["scaled_loss"].to_numpy()
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")
