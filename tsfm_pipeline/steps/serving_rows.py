"""Past forecasts of single series with what happened after them, from the backtest and from what
was served.

What belongs here: reading them from tables into one kind of arrays. What does not: calibrating
(`steps.serving_calibration`) and judging them (`reports.served`).
Axes: R forecasts of one series each, H steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.conformal import segments_of
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.quantiles import TARGETS, quantiles_at
from tsfm_pipeline.evaluation.requests import Role
from tsfm_pipeline.evaluation.served import SERVED_POINTS
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, N_COLUMNS, ForecastConfig
from tsfm_pipeline.forecaster.registry import find_checkpoint
from tsfm_pipeline.steps.bundle import open_bundle

Floats = NDArray[np.floating]

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
"""Quantiles that are kept of a forecast: the ends of both intervals, and the median."""
_ENDS = {0.8: (1, 3), 0.9: (0, 4)}
MEDIAN = 2
MOST_FORECASTS = 20_000
"""Served forecasts that are read at most; a seeded sample of more."""
assert tuple(_ENDS) == TARGETS


@dataclass(frozen=True)
class Answering:
    """The model whose intervals are calibrated, as the service names it."""

    runtime: Literal["local", "tollama"]
    model: str
    version: str
    step_minutes: float


@dataclass(frozen=True, eq=False)
class PastForecasts:
    """R forecasts of one series each.

    tenant, metric, origin int [R]: numbers of tenant and metric, and the last step before the
    forecast. quantiles [R, H, 5] at `LEVELS`, actual [R, H], NaN where unknown. segments [R]: of
    each forecast.
    """

    tenant: NDArray[np.int64]
    metric: NDArray[np.int64]
    origin: NDArray[np.int64]
    quantiles: Floats
    actual: Floats
    segments: Sequence[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.tenant)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "PastForecasts":
        """Return some of the forecasts: a mask [R] or positions."""
        positions = np.arange(len(self))[rows]
        return PastForecasts(
            self.tenant[positions],
            self.metric[positions],
            self.origin[positions],
            self.quantiles[positions],
            self.actual[positions],
            [self.segments[row] for row in positions.tolist()],
        )

    def until(self, horizon: int) -> "PastForecasts":
        """Return the same forecasts without the steps beyond a horizon."""
        return replace(self, quantiles=self.quantiles[:, :horizon], actual=self.actual[:, :horizon])

    def with_deciles(self, deciles: Floats) -> "PastForecasts":
        """Return the same requests with other deciles [R, H, 9]."""
        return replace(self, quantiles=quantiles_at(DECILES, deciles, LEVELS).astype(np.float32))

    def interval(self, target: float) -> tuple[Floats, Floats]:
        """Return the raw ends [R, H] of a central interval, as `quantiles.raw_interval` does."""
        low, high = _ENDS[target]
        return self.quantiles[..., low], self.quantiles[..., high]

    @property
    def intervals(self) -> dict[float, tuple[Floats, Floats]]:
        """The raw ends of every target."""
        return {target: self.interval(target) for target in TARGETS}

    @property
    def usual_horizon(self) -> int:
        """The median of the forecasts' horizons; 0 of none."""
        steps = np.count_nonzero(~np.isnan(self.quantiles[..., MEDIAN]), axis=1)
        return int(np.quantile(steps, 0.5, method="lower")) if len(self) else 0

    @property
    def available(self) -> NDArray[np.bool_]:
        """Which of them have quantiles at every known step [R]."""
        missing = np.isnan(self.quantiles).any(axis=2) & ~np.isnan(self.actual)
        return ~np.asarray(missing.any(axis=1), dtype=bool)

    @property
    def last_known(self) -> NDArray[np.int64]:
        """The last step of each whose value is known [R]; -1 where none is."""
        known = ~np.isnan(self.actual)
        last = known.shape[1] - known[:, ::-1].argmax(axis=1)
        return np.where(known.any(axis=1), self.origin + last, -1)

    @property
    def newest(self) -> int:
        """The last step whose value is known; -1 where none is."""
        return int(self.last_known.max(initial=-1))


def local_model(fleet: Fleet) -> Answering:
    """Return the model that the fleet's own tables were made with, as the service names it."""
    checkpoint, dtype = find_checkpoint(fleet.settings.checkpoint)[0], fleet.settings.dtype
    suffix = "" if dtype == "float32" else f"-{dtype}"
    version = checkpoint.sha256[:12] + suffix
    return Answering("local", checkpoint.name, version, fleet.grid.step_minutes)


def backtest_forecasts(fleet: Fleet, role: Role, tenants: NDArray[np.bool_]) -> PastForecasts:
    """Return the deciles of the configurations that the service uses, or of those in the grid that
    come nearest to them, at the valid requests of a role (see `served_configurations`).

    tenants bool [N]: whose requests are wanted.
    """
    configs = served_configurations(open_bundle(fleet))
    parts = [
        part
        for shard in fleet.cohort_shards
        if (part := _of_shard(fleet, role, shard, tenants, configs))
    ]
    return _joined(parts, fleet.spec.horizon)


def served_configurations(bundle: SearchBundle) -> tuple[str, ...]:
    """Return the configurations whose forecasts stand for the service's, the preferred one first.

    These are the live search's fixed choice of the tier nearest to the median and its stand-in, if
    the values of a request fill them. A request that does not fill them is forecast with a plain
    context of its own length, which the grid does not have; the plain contexts in the grid stand
    for it, longest first. If there is none, the fixed choice does.
    """
    choice, seasons = bundle.median_choice, bundle.facts.seasons
    fixed = [ForecastConfig.from_name(name) for name in (choice.member, choice.stand_in)]
    members = [ForecastConfig.from_name(member.name) for member in bundle.facts.members]
    plain = [config for config in members if config.name == f"ctx{config.context_len}"]
    plain.sort(key=lambda config: -config.context_len)
    usable = [
        config.name for config in (*fixed, *plain) if config.lookback(seasons) <= SERVED_POINTS
    ]
    return tuple(dict.fromkeys(usable)) or (choice.member, choice.stand_in)


def _of_shard(
    fleet: Fleet,
    role: Role,
    shard: Sequence[int],
    tenants: NDArray[np.bool_],
    configs: tuple[str, ...],
) -> PastForecasts | None:
    wanted = [number for number in shard if tenants[number]]
    requests = fleet.arrays.requests(role, shard, only=wanted)
    if not requests.ids.size:
        return None
    n_metrics, horizon = len(fleet.grid.metrics), fleet.spec.horizon
    shape = (requests.ids.size, n_metrics, horizon)
    deciles = np.full((*shape, len(DECILES)), np.nan, dtype=np.float32)
    rows = fleet.arrays.rows("forecast_grid", requests).select("config", "forecast")
    grid = rows.filter(pl.col("config").is_in(configs)).collect()
    for config in configs:
        forecast = grid.filter(pl.col("config") == config)["forecast"].to_numpy()
        own = forecast.reshape(*shape, N_COLUMNS)[..., DECILE_COLUMNS]
        deciles = np.where(np.isnan(deciles), own, deciles)
    (actual,) = fleet.arrays.of("request_targets", requests, ["actual"], (n_metrics,))
    valid = np.repeat(requests.valid.ravel(), n_metrics)
    tenant = np.repeat(requests.tenants, n_metrics)
    metric = np.tile(np.arange(n_metrics), requests.ids.size)
    return PastForecasts(
        tenant,
        metric,
        np.repeat(requests.origins.ravel(), n_metrics),
        quantiles_at(DECILES, deciles.reshape(-1, horizon, len(DECILES)), LEVELS).astype(
            np.float32
        ),
        actual.reshape(-1, horizon),
        [{"metric": fleet.grid.metrics[d]} for d in metric],
    ).take(valid)


def served_answering(fleet: Fleet) -> Answering | None:
    """Return the model that gave most answers of the last day that had any; None where none has.

    A client may ask for another model, so that the last answer alone says little.
    """
    names = ("runtime", "model", "version", "freq_minutes")
    answers = _model_answers(fleet)
    recent = answers.filter(pl.col("received") > pl.col("received").max() - timedelta(days=1))
    if recent.is_empty():
        return None
    counts = recent.group_by(names).agg(n=pl.len(), last=pl.col("received").max())
    runtime, model, version, step_minutes = counts.sort("n", "last").select(names).row(-1)
    return Answering(runtime, model, version, step_minutes)


def served_forecasts_since(
    fleet: Fleet, answering: Answering, since: datetime | None, seed: int
) -> PastForecasts:
    """Return a model's served forecasts with a known outcome whose as-of time is not before
    `since`: one per series and time, and a seeded sample of `MOST_FORECASTS`.
    """
    rows = _model_answers(fleet).filter(
        (pl.col("runtime") == answering.runtime)
        & (pl.col("model") == answering.model)
        & (pl.col("version") == answering.version)
        & (pl.col("n_known") > 0)
    )
    if since is not None:
        rows = rows.filter(pl.col("as_of") >= since)
    if rows.height > MOST_FORECASTS:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(rows.height, MOST_FORECASTS, replace=False))
        rows = rows[chosen.tolist()]
    return past_forecasts(fleet, rows)


def past_forecasts(fleet: Fleet, rows: pl.DataFrame) -> PastForecasts:
    """Return rows of `served_outcomes` as arrays; shorter horizons are NaN at the end."""
    horizon = int(rows["horizon"].max() or 1) if rows.height else 1  # type: ignore[arg-type]
    deciles = _padded(rows["served_deciles"], horizon * len(DECILES))
    actual = _padded(rows["outcome"], horizon)
    metrics = {metric: d for d, metric in enumerate(fleet.grid.metrics)}
    known = [segments_of(key) for key in rows["segment"].fill_null("").to_list()]
    return PastForecasts(
        rows["tenant_number"].to_numpy().astype(np.int64),
        np.array([metrics[metric] for metric in rows["metric"]], dtype=np.int64),
        rows["as_of_step"].to_numpy().astype(np.int64),
        quantiles_at(DECILES, deciles.reshape(-1, horizon, len(DECILES)), LEVELS).astype(
            np.float32
        ),
        actual,
        known,
    )


def _model_answers(fleet: Fleet) -> pl.DataFrame:
    """Return the matched answers with deciles that a model gave, in the order of `as_of`. Of those
    to the same series, time and model, the first one with the longest horizon: the others repeat
    its steps.
    """
    answers = fleet.tables.scan("served_outcomes").filter(
        (pl.col("unmatched") == "")
        & pl.col("runtime").is_in(["local", "tollama"])
        & (pl.col("fallback_reason").fill_null("") == "")
        & (pl.col("served_deciles").list.len() == pl.col("horizon") * len(DECILES))
    )
    keys = ["tenant_number", "metric", "as_of", "runtime", "model", "version"]
    longest_first = answers.collect().sort("horizon", descending=True, maintain_order=True)
    unique = longest_first.unique(keys, keep="first", maintain_order=True)
    return unique.sort("as_of", "received", "answer_id")


def _padded(lists: pl.Series, length: int) -> NDArray[np.float32]:
    """Return lists of numbers as rows [R, length], NaN at the end of shorter ones."""
    rows = np.full((len(lists), length), np.nan, dtype=np.float32)
    lengths = lists.list.len().to_numpy().astype(np.int64)
    flat = lists.to_arrow().flatten().to_numpy(zero_copy_only=False)
    rows[np.arange(length) < lengths[:, None]] = flat
    return rows


def _joined(parts: Sequence[PastForecasts], horizon: int) -> PastForecasts:
    if not parts:
        none = np.empty(0, dtype=np.int64)
        quantiles = np.empty((0, horizon, len(LEVELS)), dtype=np.float32)
        return PastForecasts(none, none, none, quantiles, np.empty((0, horizon), np.float32), ())
    return PastForecasts(
        tenant=np.concatenate([part.tenant for part in parts]),
        metric=np.concatenate([part.metric for part in parts]),
        origin=np.concatenate([part.origin for part in parts]),
        quantiles=np.concatenate([part.quantiles for part in parts]),
        actual=np.concatenate([part.actual for part in parts]),
        segments=[segments for part in parts for segments in part.segments],
    )
