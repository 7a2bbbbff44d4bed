"""Forecasts of one table, as decisions and quantiles, by a search bundle or a single configuration.

What belongs here: choosing the reader and the engine, and building the rows. What does not: reading
(`fleets.table`), searching (`autoresearch`), forecasting (`forecaster`). Nothing is read from the
lake: a search is opened from the bundle file of a run.

Every tenant is forecast from its own last observed step. Rows have Nixtla's long form: unique_id
(tenant_id for wide tables), metric, ds (timestamp), tier, decision, q10 to q90, config, the
configuration with the largest weight in the row, basis, what a search's answer rests on (full,
shortened or cold; empty for a single configuration), and demand_interval, which is null unless the
series is intermittent.
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.basis import basis_at_end
from tsfm_pipeline.autoresearch.bundle import BundleError, SearchBundle
from tsfm_pipeline.catalogue.arrays import panel_of
from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.evaluation.intermittence import demand_intervals
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import PROTOCOL, Protocol
from tsfm_pipeline.files import StorageError, write_atomically
from tsfm_pipeline.fleets.fields import Bounds
from tsfm_pipeline.fleets.inference import files_of, look_at_table, table_paths
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.source import left_out_notes
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.fleets.table import TableSource
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS
from tsfm_pipeline.settings import Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

QUANTILES = tuple(f"q{level}" for level in range(10, 100, 10))
CONTEXTS = ("ctx2048", "ctx1024", "ctx512", "ctx256", "ctx128", "ctx64")
"""Configurations to try for each tenant without a fleet, bundle or configuration; the longest that
the tenant's history fills is used.
"""
SUFFIXES = (".csv", ".parquet")

_TENANTS_AT_ONCE = 32


@dataclass(frozen=True)
class Answer:
    """The forecasts of one tenant for A tiers: decision [D, A, H], quantiles [D, A, H, 9], the
    configuration per metric and tier, the history's demand intervals [D], and what a search's
    answer rests on.
    """

    decision: NDArray[np.floating]
    quantiles: NDArray[np.floating]
    configs: list[list[str | None]]
    intervals: NDArray[np.floating]
    basis: str | None = None


def forecast_table(
    file: Path,
    *,
    out: Path,
    fleet: str | None = None,
    bundle: Path | None = None,
    config: str | None = None,
    tiers: Sequence[str] | None = None,
    horizon: int | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows to write, and notes for people.

    fleet: use the search of this fleet. bundle: use the search in this file, which may come from
    another machine. told: arguments of `look_at_table`, for a table whose fleet does not say how it
    is read. Raises ValueError (and its kin) or `StorageError` for errors that the user must
    correct.
    """
    if fleet is not None and bundle is not None:
        raise ValueError("--fleet and --bundle both name a search; allowed: one of them")
    _check_out(out, file)
    settings = Settings()
    spec, search = (
        _run_before(settings, fleet)
        if fleet is not None
        else (None, None if bundle is None else SearchBundle.open(bundle))
    )
    if search is not None and horizon is not None and config is None:
        _check_horizon(horizon, search.facts.horizon)
    alphas = _alphas(PROTOCOL if search is None else search.facts.protocol, tiers)
    source, notes = _read(file, settings, spec, search, horizon, told)
    single = None if config is None else ForecastConfig.from_name(config)
    if search is not None and single is None:
        steps = horizon or search.facts.horizon
        answers = _by_search(
            source, search, _load(settings, search.facts.checkpoint.dtype), list(alphas), steps
        )
    else:
        steps = horizon or source.spec.horizon
        answers = _by_one_configuration(
            source, _load(settings, settings.dtype), single, alphas, steps
        )
    table = _rows(source, answers, list(alphas), steps)
    empty = table.filter(pl.col("decision").is_null())
    if empty.height:
        tenants = empty["unique_id"].unique(maintain_order=True).to_list()
        notes.append(
            f"{len(tenants)} tenants have too little history for a forecast; their rows are "
            f"empty: {', '.join(tenants[:5])}"
        )
    seldom = table.filter(pl.col("demand_interval").is_not_null())
    if seldom.height:
        series = seldom.select("unique_id", "metric").unique(maintain_order=True)
        first = [f"{tenant} {metric}" for tenant, metric in series.head(5).iter_rows()]
        notes.append(
            f"{series.height} series are intermittent (column demand_interval): idle at most "
            "steps, so a decision per step says little about the others. Reserve for the maximum, "
            f"as reservation_max of a run's recommendations does: {', '.join(first)}"
        )
    names = {} if source.spec.layout == "long" else {"unique_id": "tenant_id", "ds": "timestamp"}
    return table.rename(names), notes


def write_table(table: pl.DataFrame, out: Path) -> None:
    """Write CSV or Parquet, by the suffix of the name; a concurrent reader sees the old file or the
    new one.
    """
    if out.suffix == ".parquet":
        write_atomically(out, lambda path: table.write_parquet(path))
        return
    write_atomically(out, lambda path: table.write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%SZ"))


def _alphas(protocol: Protocol, tiers: Sequence[str] | None) -> dict[str, float]:
    known = protocol.tiers
    chosen = list(dict.fromkeys(tiers or known))
    unknown = [tier for tier in chosen if tier not in known]
    if unknown:
        raise ValueError(f"no tier {', '.join(map(repr, unknown))}; allowed: {', '.join(known)}")
    return {tier: known[tier] for tier in chosen}


def _check_horizon(horizon: int, fitted: int) -> None:
    if horizon > fitted:
        raise ValueError(
            f"--horizon is {horizon}, and the search was fitted for {fitted} steps; allowed: 1 to "
            f"{fitted}, or one configuration (--config) for more"
        )


def _check_out(out: Path, file: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"--out {out}: the ending is {out.suffix!r}; allowed: {' or '.join(SUFFIXES)}"
        )
    if out.exists() and file.exists() and out.samefile(file):
        raise ValueError(f"--out {out} is the table itself; allowed: any other file")


def _load(settings: Settings, dtype: str) -> "FrozenForecaster":
    return model_of(settings.model_copy(update={"dtype": dtype}))


def _run_before(settings: Settings, name: str) -> tuple[FleetSpec, SearchBundle]:
    """Return a fleet that was run, and its search. Raises `BundleError` if there is no search, with
    what to do.
    """
    from tsfm_pipeline.steps.bundle import open_bundle

    fleet = open_workspace_fleet(settings, name)
    try:
        return fleet.spec, open_bundle(fleet)
    except StorageError as error:
        raise BundleError(
            f"{error}. Run `tsfm-pipeline run {name}`, or forecast without --fleet, with one "
            "configuration"
        ) from error


def _read(
    file: Path,
    settings: Settings,
    fleet: FleetSpec | None,
    search: SearchBundle | None,
    horizon: int | None,
    told: Mapping[str, Any],
) -> tuple[TableSource, list[str]]:
    """Return the table on its grid, with notes: read by a fleet's columns, and by a search's
    metrics, step, bounds and seasons.
    """
    if search is not None and isinstance(fleet, TableFleet):
        if told:
            raise ValueError(
                f"fleet {fleet.name!r} says how its tables are read; leave options like --tenant, "
                "--step and --units out, or change its file"
            )
        path = file.expanduser().absolute()
        paths = table_paths(path)
        pattern = glob.escape(str(path)) + (
            f"/{files_of(path)}{paths[0].suffix}" if path.is_dir() else ""
        )
        spec = fleet.model_copy(
            update={
                "path": pattern,
                "tier_column": None,
                "archetype_column": None,
                "reserved_columns": {},
                "event_column": None,
            }
        )
        if fleet.metrics is None and (spec.layout == "wide" or spec.metric_column):
            spec = spec.model_copy(update={"metrics": search.facts.metrics})
        return TableSource(
            spec.model_copy(update={"step": search.facts.step_minutes}),
            fleets_dir=settings.fleet_tables_dir,
        ), []
    facts = look_at_table(
        file, name="forecast", fleets_dir=settings.fleet_tables_dir, horizon=horizon, **told
    )
    spec = facts.spec.model_copy(update={"tier_column": None, "archetype_column": None})
    if search is not None:
        known = search.facts
        absent = sorted(set(known.metrics) - {metric.name for metric in facts.metrics})
        if absent:
            raise ValueError(
                f"{file}: no metric {', '.join(map(repr, absent))}; fleet {known.fleet!r} has "
                f"{', '.join(known.metrics)}"
            )
        bounds = {
            metric: Bounds(lower=low, upper=high) for metric, (low, high) in known.bounds.items()
        }
        fields = {
            "metrics": known.metrics,
            "step": known.step_minutes,
            "horizon": known.horizon,
            "seasons": known.seasons,
        }
        spec = spec.model_copy(update=fields | {"lower": None, "upper": None, "bounds": bounds})
    source = TableSource(spec, fleets_dir=settings.fleet_tables_dir)
    return source, [*left_out_notes(facts.left_out), *facts.notes]


def _histories(source: TableSource) -> Iterator[tuple[int, str, int, NDArray[np.float32]]]:
    """Yield number, id, last observed step and values [D, T] up to it, tenant by tenant."""
    manifest = source.manifest()
    for numbers in source.shards(_TENANTS_AT_ONCE):
        for number, values in zip(numbers, source.values(numbers), strict=True):
            row = manifest.row(number, named=True)
            yield (
                number,
                row["tenant_id"],
                row["last_step"],
                np.ascontiguousarray(values[:, : row["last_step"] + 1]),
            )


def _by_search(
    source: TableSource,
    search: SearchBundle,
    forecaster: "FrozenForecaster",
    tiers: list[str],
    steps: int,
) -> Iterator[Answer]:
    """Yield the first steps of each tenant's answer, from the engine that a run would test it with:
    that of its own fold if the search knows the tenant, else the live one.
    """
    for _, tenant, last, values in _histories(source):
        panel, engine = search.panel(values), search.engine(forecaster, tenant)
        responses = list(
            engine.forecast_tiers(
                panel,
                tiers,
                exclude_tenant=tenant,
                as_of=source.start + last * source.step,
            ).values()
        )
        yield Answer(
            decision=np.stack([response.decision[:steps].T for response in responses], axis=1),
            quantiles=np.stack(
                [response.quantiles[:steps].swapaxes(0, 1) for response in responses], axis=1
            ),
            configs=[
                [None if (c := response.chosen[d]) is None else c.name for response in responses]
                for d in range(len(source.metrics))
            ],
            intervals=_intervals(values, search.facts.horizon),
            basis=_basis(search, panel),
        )


def _basis(search: SearchBundle, panel: Panel) -> str:
    """Return what the search's answer after the last step of a panel rests on."""
    configs = [ForecastConfig.from_name(member.name) for member in search.facts.members]
    return basis_at_end(panel, search.facts.offsets, search.facts.horizon, configs)


def _by_one_configuration(
    source: TableSource,
    forecaster: "FrozenForecaster",
    config: ForecastConfig | None,
    tiers: Mapping[str, float],
    horizon: int,
) -> Iterator[Answer]:
    for _, _, last, values in _histories(source):
        panel = panel_of(source.spec, source.metrics, source.seasons, values)
        used = config or _longest(panel)
        grid = forecaster.forecast_grid(
            panel, np.array([last]), [used], horizon
        )  # [D, 1, 1, H, 10]
        deciles = grid[:, 0, 0, :, DECILE_COLUMNS]  # [D, H, 9]
        quantiles = [decision_quantile(deciles, alpha) for alpha in tiers.values()]
        decision = panel.limits.clip(np.stack(quantiles, axis=1))
        names = [[used.name if np.isfinite(own).all() else None] * len(tiers) for own in deciles]
        yield Answer(
            decision,
            np.repeat(deciles[:, None], len(tiers), axis=1),
            names,
            _intervals(values, horizon),
        )


def _intervals(values: NDArray[np.float32], horizon: int) -> NDArray[np.floating]:
    """Return the demand intervals of a history [D, T], in float [D]."""
    return demand_intervals(values, np.full(len(values), values.shape[1]), horizon)


def _longest(panel: Panel) -> ForecastConfig:
    """Return the longest of `CONTEXTS` that every series' history fills, else the shortest."""
    last = np.full((panel.n_series, 1), panel.n_steps - 1)
    n_history = panel.n_steps - int(panel.known_from(last).max())
    configs = [ForecastConfig.from_name(name) for name in CONTEXTS]
    return next((config for config in configs if config.context_len <= n_history), configs[-1])


def _rows(
    source: TableSource, answers: Iterator[Answer], tiers: list[str], horizon: int
) -> pl.DataFrame:
    """Return the rows, ordered by tenant, metric, tier and time."""
    n_metrics, n_tiers = len(source.metrics), len(tiers)
    manifest = source.manifest()
    metric = pl.Series("metric", source.metrics).gather(
        np.repeat(np.arange(n_metrics), n_tiers * horizon)
    )
    tier = pl.Series("tier", tiers).gather(
        np.tile(np.repeat(np.arange(n_tiers), horizon), n_metrics)
    )
    frames = []
    for answer, (tenant, last) in zip(
        answers, manifest.select("tenant_id", "last_step").iter_rows(), strict=True
    ):
        first = source.start + (last + 1) * source.step
        times = pl.datetime_range(
            first,
            first + (horizon - 1) * source.step,
            source.step,
            time_unit="us",
            time_zone="UTC",
            eager=True,
        )
        quantiles = answer.quantiles.reshape(-1, len(QUANTILES))
        configs = [config for per_metric in answer.configs for config in per_metric]
        columns: dict[str, Any] = {
            "unique_id": pl.repeat(tenant, len(quantiles), eager=True, dtype=pl.String),
            "metric": metric,
            "ds": pl.concat([times] * (n_metrics * n_tiers)),
            "tier": tier,
            "decision": pl.Series(answer.decision.ravel(), dtype=pl.Float32).fill_nan(None),
            **{
                name: pl.Series(quantiles[:, q], dtype=pl.Float32).fill_nan(None)
                for q, name in enumerate(QUANTILES)
            },
            "config": pl.Series(configs, dtype=pl.String).gather(
                np.repeat(np.arange(len(configs)), horizon)
            ),
            "basis": pl.repeat(answer.basis, len(quantiles), eager=True, dtype=pl.String),
            "demand_interval": pl.Series(
                np.repeat(answer.intervals, n_tiers * horizon), dtype=pl.Float32
            ).fill_nan(None),
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)
