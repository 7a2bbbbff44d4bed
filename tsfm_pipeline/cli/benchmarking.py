"""Running forecasters through the protocols of GIFT-Eval and BOOM, on folders of saved data sets.

What belongs here: finding the data sets, scoring every method on each of them, and the aggregates
over all. What does not: the methods (`cli.benchmark_methods`), windows and scores
(`evaluation.public_benchmarks`, `evaluation.benchmark_scores`), and output (`cli.benchmark`).
Nothing is read from the lake.

Each variate of an item is scored as a series of its own, and every forecaster answers every window:
where it has no forecast, the reference answers, and the window is counted in `n_stand_ins`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.baselines.gaussian_seasonal_naive import GaussianSeasonalNaive
from tsfm_pipeline.cli.benchmark_methods import Methods
from tsfm_pipeline.evaluation.arrays import given, targets_after
from tsfm_pipeline.evaluation.benchmark_scores import Scores, seasonal_error
from tsfm_pipeline.evaluation.frequencies import Frequency
from tsfm_pipeline.evaluation.public_benchmarks import (
    Windows,
    forecast_length,
    is_m4,
    shifted_geometric_mean,
    windows_of,
    with_means,
    zero_inflated,
)
from tsfm_pipeline.fleets.saved_folders import STATE_FILE, is_saved_dataset
from tsfm_pipeline.fleets.saved_items import Item, SavedDataset, open_dataset
from tsfm_pipeline.fleets.source import FleetDataError, listed
from tsfm_pipeline.forecaster import Panel

REFERENCE = GaussianSeasonalNaive.name
BOOM_HISTORY = 2048
"""Steps of history that the seasonal naive of BOOM's leaderboard uses."""
_BOOM_NAME = re.compile(r"ds-[0-9]+-[0-9]*[A-Za-z]+")

Benchmark = Literal["boom", "gift-eval"]


@dataclass(frozen=True)
class Result:
    """The scores of one method on one data set and term."""

    dataset: str
    term: str
    method: str
    horizon: int
    n_windows_per_series: int
    n_series: int
    n_points: int
    n_stand_ins: int
    mase: float
    crps: float
    mae: float


def data_sets_below(folder: Path) -> list[tuple[str, Path]]:
    """Return name and folder of every saved data set below a folder, or of the folder itself.

    Raises `FleetDataError` where there is none.
    """
    folder = folder.expanduser().absolute()
    if is_saved_dataset(folder):
        return [(folder.name, folder)]
    found = sorted(path.parent for path in folder.rglob(STATE_FILE))
    if not found:
        raise FleetDataError(
            f"{folder}: no data set; allowed: a folder that `datasets` wrote with save_to_disk, or "
            "a folder of such folders. `tsfm-pipeline fleet fetch` brings one"
        )
    return [(str(path.relative_to(folder)), path) for path in found]


def benchmark_of(names: Sequence[str]) -> Benchmark:
    """Return the benchmark whose names these are: BOOM's are like ds-0-T."""
    return "boom" if all(_BOOM_NAME.fullmatch(Path(name).name) for name in names) else "gift-eval"


def run_benchmark(
    folder: Path,
    methods: Sequence[str],
    terms: Sequence[str],
    *,
    benchmark: Benchmark | None = None,
    bundle: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Benchmark, pl.DataFrame]:
    """Return the benchmark and one row per data set, term and method, the reference first.

    methods: `model`, configurations such as ctx512, direct baselines, and `search`. bundle: a run's
    search bundle, for `search`. A data set that has no windows in a term is left out of it, and
    `log` says why. Raises ValueError (and its kin) for what the user must correct, and where no
    data set has windows.
    """
    found = data_sets_below(folder)
    benchmark = benchmark or benchmark_of([name for name, _ in found])
    chosen = Methods(methods, bundle)
    results: list[Result] = []
    refused: list[str] = []
    for name, path in found:
        dataset = open_dataset(path)
        for term in terms:
            try:
                windows = _windows(dataset, name, term)
            except ValueError as error:
                refused.append(f"{name}/{term} is left out: {error}")
                log(refused[-1])
                continue
            log(
                f"{name}/{term}: {len(dataset.items)} items, {windows.count} windows of "
                f"{windows.length} steps"
            )
            results += _scored(dataset, name, term, windows, benchmark, chosen)
    if not results:
        raise FleetDataError(refused[0])
    return benchmark, pl.DataFrame(results)


def relative_to_reference(results: pl.DataFrame) -> pl.DataFrame:
    """Return the results with `mase_relative` and `crps_relative`, each score divided by the
    reference's on the same data set and term.
    """
    reference = results.filter(pl.col("method") == REFERENCE).select(
        "dataset", "term", pl.col("mase").alias("mase_of"), pl.col("crps").alias("crps_of")
    )
    return (
        results.join(reference, on=["dataset", "term"], maintain_order="left")
        .with_columns(
            (pl.col("mase") / pl.col("mase_of")).alias("mase_relative"),
            (pl.col("crps") / pl.col("crps_of")).alias("crps_relative"),
        )
        .drop("mase_of", "crps_of")
    )


def aggregated(
    results: pl.DataFrame, benchmark: Benchmark, apart: Sequence[str] = ()
) -> pl.DataFrame:
    """Return one row per method, as the benchmark's leaderboard: the geometric mean of the relative
    MASE and CRPS, shifted for BOOM.

    For BOOM the zero-inflated data sets and those in `apart` are left out of these, and have
    columns of their own: the shifted geometric mean of their MAE and CRPS, not divided. Scores that
    are not finite are replaced as in `with_means` for BOOM, and left out for GIFT-Eval.
    """
    reference = results.filter(pl.col("method") == REFERENCE)
    names = reference["dataset"].to_list()
    flat = {*apart, *zero_inflated(names, reference["mase"].to_numpy())} & set(names)
    set_apart = flat if benchmark == "boom" else set()
    usual = results.filter(~pl.col("dataset").is_in(set_apart))
    zero = results.filter(pl.col("dataset").is_in(set_apart))
    rows = []
    for method in results["method"].unique(maintain_order=True).to_list():
        own = {"method": method, "n_scored": usual.filter(pl.col("method") == method).height}
        for score in ("mase", "crps"):
            own[f"{score}_relative"] = _mean_ratio(
                _scores_of(usual, method, score), _scores_of(usual, REFERENCE, score), benchmark
            )
        if benchmark == "boom":
            own["n_apart"] = zero.filter(pl.col("method") == method).height
            for score in ("mae", "crps"):
                values = with_means(_scores_of(zero, method, score))
                own[f"{score}_apart"] = shifted_geometric_mean(values)
        rows.append(own)
    return pl.DataFrame(rows)


def _scores_of(results: pl.DataFrame, method: str, score: str) -> NDArray[np.float64]:
    return results.filter(pl.col("method") == method)[score].to_numpy().astype(np.float64)


def _mean_ratio(
    own: NDArray[np.float64], reference: NDArray[np.float64], benchmark: Benchmark
) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        if benchmark == "boom":
            return shifted_geometric_mean(with_means(own) / with_means(reference))
        ratios = own / reference
    return shifted_geometric_mean(ratios[np.isfinite(ratios)], shift=0.0)


def _windows(dataset: SavedDataset, name: str, term: str) -> Windows:
    """Return the windows of a data set. Raises ValueError (and its kin) where it has none."""
    m4 = is_m4(name)
    length = forecast_length(dataset.frequency, term, m4=m4)
    windows = windows_of(length, min(item.n_steps for item in dataset.items), m4=m4)
    needed = windows.length * windows.count + 1
    short = [item.item_id for item in dataset.items if item.n_steps < needed]
    if short:
        raise FleetDataError(
            f"{len(short)} items have fewer than {needed} steps: {listed(short)}; {windows.count} "
            f"windows of {windows.length} steps need that many. Take a shorter --term"
        )
    return windows


def _scored(
    dataset: SavedDataset,
    name: str,
    term: str,
    windows: Windows,
    benchmark: Benchmark,
    methods: Methods,
) -> Iterator[Result]:
    """Yield the result of every method on one data set and term."""
    frequency = dataset.frequency
    season = frequency.season
    reference = GaussianSeasonalNaive(season, BOOM_HISTORY if benchmark == "boom" else None)
    by_method = {method: Scores() for method in (REFERENCE, *methods.names)}
    stand_ins = dict.fromkeys(by_method, 0)
    for item in dataset.items:
        panel, origins = _panel(dataset, item, windows)
        actual = targets_after(panel.values, origins, windows.length)  # [S, O, H]
        errors = np.array(
            [
                [seasonal_error(own[: origin + 1], season) for origin in ends]
                for own, ends in zip(panel.values, origins, strict=True)
            ]
        )
        usual = reference.forecast(panel, origins, windows.length)
        for method, scores in by_method.items():
            deciles = usual
            if method != REFERENCE:
                own = methods.forecast(method, dataset, panel, origins, windows.length, item)
                known = given(own)
                stand_ins[method] += int((~known).sum())
                deciles = np.where(known[..., None, None], own, usual)
            for series in range(panel.n_series):
                scores.add(actual[series], deciles[series], errors[series])
    for method, scores in by_method.items():
        yield Result(
            dataset=name,
            term=term,
            method=method,
            horizon=windows.length,
            n_windows_per_series=windows.count,
            n_series=scores.n_series,
            n_points=scores.n_points,
            n_stand_ins=stand_ins[method],
            mase=scores.mase,
            crps=scores.crps,
            mae=scores.mae,
        )


def _panel(dataset: SavedDataset, item: Item, windows: Windows) -> tuple[Panel, NDArray[np.int64]]:
    """Return an item's variates as a panel, and the origins of its windows [S, O]."""
    values = dataset.values(item)
    origins = np.tile(windows.origins(item.n_steps), (len(values), 1))
    return Panel(values, seasons=_seasons(dataset.frequency)), origins


def _seasons(frequency: Frequency) -> tuple[int, ...]:
    """Return day and week in steps where steps are shorter, else the season of the frequency."""
    if frequency.step is None:
        return (frequency.season,) if frequency.season > 1 else ()
    spans = (timedelta(days=1), timedelta(weeks=1))
    return tuple(
        span // frequency.step
        for span in spans
        if span > frequency.step and not span % frequency.step
    )
