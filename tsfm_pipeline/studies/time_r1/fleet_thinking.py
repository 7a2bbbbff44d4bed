"""What slow thinking did on a fleet that asked for it, as figures for the fleet's page.

What belongs here: its scores beside those of the other methods, and a few requests that are thought
about again, because a fleet's tables keep the deciles of a forecaster and nothing else. What does
not: sentences and figures (`report.fleet`), and forecasting (`forecaster`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_ratios
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.reports.quality.model import ALL_TIERS
from tsfm_pipeline.reports.quality.numbers import compared
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.time_r1.drafts import mean_of_known
from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.fleet import FleetExampleRow, FleetThinking, RivalRow
from tsfm_pipeline.studies.time_r1.slow_thought import SlowThought, joined
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

MOST_AGAIN = 48
"""Forecasts that are made again at most, so that the page is written within minutes."""
N_EXAMPLES = 2
"""Forecasts of the gallery on either side: the largest gains and the largest losses."""


@dataclass(frozen=True)
class Again:
    """M forecasts that were made again: one request of each of some tenants, all metrics.

    thought: of the M. tenants: int64 [M], their numbers. names: tenant and metric [M]. origins:
    int64 [M], steps of the last known values. history: float64 [M, L]. truth: float64 [M, H], NaN
    where nothing was observed. scale: float64 [M], what MASE divides by, NaN without one.
    """

    thought: SlowThought
    tenants: Ints
    names: tuple[str, ...]
    origins: Ints
    history: Floats
    truth: Floats
    scale: Floats

    def mase(self, forecast: Floats) -> Floats:
        """Return the scaled error [M] of forecasts [M, H]; NaN where there is none."""
        return mean_of_known(np.abs(forecast - self.truth)) / self.scale


def fleet_thinking(
    fleet: Fleet, quality: pl.DataFrame, forecaster: SlowThinkingForecaster
) -> FleetThinking:
    """Return the figures of the section.

    quality: rows of `request_quality`. forecaster: the one that the fleet's tables were made with.
    Raises LakeError where these tables were made without slow thinking.
    """
    own = quality.filter(method=SLOW_THINKING)
    if own.is_empty():
        raise LakeError(
            f"the scores of fleet {fleet.name!r} were made without {SLOW_THINKING}; run the fleet "
            "again"
        )
    complete = own.group_by("request_id", maintain_order=True).agg(
        pl.col("quantile_loss_sum").is_finite().all()
    )
    asked = complete.filter("quantile_loss_sum")["request_id"]
    known = {
        "fleet": fleet.name,
        "look_back_steps": forecaster.look_back,
        "n_requests": len(asked),
        "n_requests_without": complete.height - len(asked),
    }
    if asked.is_empty():
        counts = dict.fromkeys(("n_again", "n_tenants_again", "n_answers", "n_failures"), 0)
        estimates = dict.fromkeys(("gate_rate", "mase_over_draft"), Estimate())
        tables = dict.fromkeys(("table_rivals", "table_gallery"), ())
        return FleetThinking.model_validate(known | counts | estimates | tables)
    again = made_again(fleet, forecaster, own.filter(pl.col("request_id").is_in(asked.to_list())))
    gate_rate, mase_over_draft = _estimates(fleet, again)
    return FleetThinking(
        **known,
        n_again=len(again.names),
        n_tenants_again=len(np.unique(again.tenants)),
        gate_rate=gate_rate,
        mase_over_draft=mase_over_draft,
        n_answers=int(again.thought.answers.sum()),
        n_failures=int(again.thought.failures.sum()),
        table_rivals=rival_rows(fleet, quality, asked),
        table_gallery=gallery_rows(fleet, again),
    )


def rival_rows(fleet: Fleet, quality: pl.DataFrame, asked: pl.Series) -> tuple[RivalRow, ...]:
    """Return the scores of every method at some requests, lowest WQL first, and slow thinking's
    over them.

    quality: rows of `request_quality`. asked: ids of requests.
    """
    paired = quality.filter(
        pl.col("request_id").is_in(asked.to_list())
        & pl.col("tier").is_in([ALL_TIERS, fleet.protocol.headline_tier])
        & ~pl.col("method").str.starts_with(CONFIG_PREFIX)
    )
    rows = compared(
        paired,
        sorted(fleet.grid.metrics),
        fleet.settings.evaluation.group_bootstrap,
        (SLOW_THINKING, ALL_TIERS),
    )
    return tuple(
        RivalRow(
            method=row.method,
            wql=row.wql,
            mase=row.mase,
            wql_ratio=_over(row.wql_skill),
            mase_ratio=_over(row.mase_skill),
        )
        for row in rows
    )


def _over(skill: Estimate) -> Estimate:
    """Return slow thinking's score over another method's, whose skill is 1 minus the inverse."""
    figure, low, high = (1 / (1 - each) if each < 1 else math.nan for each in skill)
    return Estimate(figure, low, high)


def made_again(fleet: Fleet, forecaster: SlowThinkingForecaster, own: pl.DataFrame) -> Again:
    """Think again about one request of each of some tenants, drawn with the evaluation's seed.

    own: rows of `request_quality` of the requests that may be drawn, of one method.
    """
    metrics = list(fleet.grid.metrics)
    requests = _drawn(fleet, own, max(1, MOST_AGAIN // len(metrics)))
    tenants, ids = requests["tenant_number"].to_numpy(), requests["request_id"].to_list()
    steps = fleet.arrays.requests("test")
    at = {
        int(i): int(step) for i, step in zip(steps.ids.ravel(), steps.origins.ravel(), strict=True)
    }
    origins = np.array([at[i] for i in ids], np.int64)
    scales = {
        (request, metric): scale
        for request, metric, scale in own.select(
            "request_id", "metric", "seasonal_error"
        ).iter_rows()
    }
    titles = dict(fleet.manifest.select("tenant_number", "tenant_id").iter_rows())
    thoughts: list[SlowThought] = []
    series: list[Ints] = []
    history: list[Floats] = []
    truth: list[Floats] = []
    for in_shard, values in fleet.arrays.values_by_shard(tenants):
        panel = fleet.arrays.panel(values)
        first = len(metrics) * int(np.flatnonzero(in_shard)[0])
        of_series = np.repeat(origins[in_shard], len(metrics))
        for rows, _, thought in forecaster.thoughts(panel, of_series[:, None], fleet.spec.horizon):
            at_rows = of_series[rows, None]
            shown = at_rows + np.arange(1 - forecaster.look_back, 1)
            ahead = at_rows + np.arange(1, fleet.spec.horizon + 1)
            thoughts.append(thought)
            series.append(first + rows)
            history.append(panel.filled[rows[:, None], shown].astype(np.float64))
            truth.append(panel.values[rows[:, None], ahead].astype(np.float64))
    request, metric = np.divmod(np.concatenate(series), len(metrics))
    pairs = list(zip(request.tolist(), metric.tolist(), strict=True))
    return Again(
        thought=joined(thoughts),
        tenants=tenants[request],
        names=tuple(f"{titles[int(tenants[r])]}, {metrics[m]}" for r, m in pairs),
        origins=origins[request],
        history=np.concatenate(history),
        truth=np.concatenate(truth),
        scale=np.array([scales[ids[r], metrics[m]] for r, m in pairs]),
    )


def _drawn(fleet: Fleet, own: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return tenant and id of one request of each of at most so many tenants, by tenant."""
    rng = np.random.default_rng(fleet.settings.evaluation.seed)
    requests = own.select("tenant_number", "request_id").unique(maintain_order=True)
    shuffled = requests[rng.permutation(requests.height)]
    one_each = shuffled.unique("tenant_number", keep="first", maintain_order=True)
    return one_each[:most].sort("tenant_number")


def _estimates(fleet: Fleet, again: Again) -> tuple[Estimate, Estimate]:
    """Return how often the gate kept the refined answer, and MASE over that of the drafts."""
    thought = again.thought
    own, draft = again.mase(thought.forecast), again.mase(thought.draft)
    known = np.isfinite(own) & np.isfinite(draft)
    rows = two_way_bootstrap_ratios(
        np.array([thought.gate.astype(np.float64), np.where(known, own, 0.0)]),
        np.array([np.ones(len(known)), np.where(known, draft, 0.0)]),
        again.tenants,
        again.origins,
        **fleet.settings.evaluation.group_bootstrap,
    )
    gate, ratio = (Estimate(*row) for row in rows.tolist())
    return gate, ratio


def gallery_rows(fleet: Fleet, again: Again) -> tuple[FleetExampleRow, ...]:
    """Return the forecasts whose error the answer lowers most, and those where it raises it most;
    the gate is not heard.
    """
    refined, thought = again.thought.last_refined, again.thought
    draft_mase, refined_mase = again.mase(thought.draft), again.mase(refined)
    difference = np.nan_to_num(refined_mase - draft_mase)
    order = np.argsort(difference, kind="stable").tolist()
    best = [row for row in order[:N_EXAMPLES] if difference[row] < 0]
    worst = [row for row in order[::-1][:N_EXAMPLES] if difference[row] > 0]
    return tuple(
        FleetExampleRow(
            kind=kind,
            channel=again.names[row],
            origin=int(again.origins[row]),
            time=f"{fleet.grid.time_of(int(again.origins[row])):%Y-%m-%d %H:%M}",
            history=_listed(again.history[row]),
            truth=_listed(again.truth[row]),
            draft=_listed(thought.draft[row]),
            refined=_listed(refined[row]),
            kept=bool(thought.gate[row]),
            reason=thought.reasons[row],
            draft_mase=float(draft_mase[row]),
            refined_mase=float(refined_mase[row]),
        )
        for kind, rows in (("best", best), ("worst", worst))
        for row in rows
    )


def _listed(values: Floats) -> Sequence[float]:
    return tuple(float(f"{value:.6g}") for value in values)
