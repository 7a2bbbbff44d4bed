"""Checks of a read data set: is it what its description says, and did processing change it?

What belongs here: facts about each channel, the rules of the schema, and drift from raw to
processed values. What does not: reading, which refuses what cannot be used at all (`sources`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tsfm_pipeline.studies.time_r1.datasets import CorpusSet, DataSet, FleetSet, TableSet, duration
from tsfm_pipeline.studies.time_r1.sources import Series
from tsfm_pipeline.studies.time_r1.windows import Floats

DRIFT_TOLERANCE = 1e-3
"""Largest allowed change of a mean, a standard deviation or a decile, in raw standard
deviations."""
_DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True)
class ChannelFacts:
    """What is known of one channel: rows, unobserved values, and the mean, the standard deviation
    (population) and the nine deciles of the observed ones, in the units of the data; NaN where
    nothing was observed.
    """

    channel: str
    n_rows: int
    n_missing: int
    mean: float
    deviation: float
    deciles: tuple[float, ...]


def facts_of(values: Floats, channels: Sequence[str]) -> tuple[ChannelFacts, ...]:
    """Return the facts of each channel of values [T, C]."""
    if values.shape[1] != len(channels):
        raise ValueError(f"{values.shape[1]} columns of values for {len(channels)} channels")
    facts = []
    for column, channel in zip(values.T, channels, strict=True):
        known = column[~np.isnan(column)]
        with np.errstate(invalid="ignore"):  # of infinite values, which the checks name
            deciles = np.quantile(known, _DECILES) if len(known) else np.full(9, np.nan)
            mean, deviation = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
        facts.append(
            ChannelFacts(
                channel=channel,
                n_rows=len(column),
                n_missing=len(column) - len(known),
                mean=float(mean),
                deviation=float(deviation),
                deciles=tuple(deciles.tolist()),
            )
        )
    return tuple(facts)


def schema_problems(series: Series, spec: DataSet) -> tuple[str, ...]:
    """Return what about a series is not as its set says, each as a sentence: its channels, its
    clock, its season, values that are not finite, and channels without any value.
    """
    problems = []
    if isinstance(spec, TableSet):
        expected: tuple[str, ...] | None = tuple(spec.channels)
    elif isinstance(spec, CorpusSet):
        expected = tuple(f"series {n}" for n in range(spec.blocks * spec.block_series))
    else:
        expected = None  # the tenants and metrics of a fleet are known to the fleet alone
    if expected is not None and series.channels != expected:
        problems.append(f"the channels are {_some(series.channels)}; allowed: {_some(expected)}")
    if len(set(series.channels)) < len(series.channels):
        problems.append("two channels have the same name")
    if series.season > series.borders.train:
        problems.append(
            f"a season of {series.season} steps does not fit into {series.borders.train} training "
            "rows, so that MASE has no scale"
        )
    if isinstance(spec, FleetSet) or (isinstance(spec, TableSet) and spec.time_format is not None):
        if series.times is None:
            problems.append("it has no times")
        else:
            wrong = np.flatnonzero(np.diff(series.times) != np.timedelta64(duration(series.step)))
            if len(wrong):
                problems.append(
                    f"row {wrong[0] + 2} is not {series.step} after the row before "
                    f"({len(wrong)} such rows)"
                )
    if np.isinf(series.values).any():
        problems.append(f"{np.isinf(series.values).sum()} values are infinite")
    unobserved = np.flatnonzero(np.isnan(series.values).all(axis=0))
    if len(unobserved):
        names = [series.channels[number] for number in unobserved]
        problems.append(f"channels without any value: {_some(names)}")
    return tuple(f"data set {series.data_set!r}: {problem}" for problem in problems)


def drift_problems(raw: Floats, processed: Floats, channels: Sequence[str]) -> tuple[str, ...]:
    """Return which figures of which channels changed from raw to processed values [T, C], each as
    a sentence; empty if none did.

    Mean, standard deviation and deciles may differ by `DRIFT_TOLERANCE` raw standard deviations,
    and unobserved values must be equally many. A constant channel must stay exactly as it is.
    """
    if processed.shape[1] != raw.shape[1]:
        return (f"{raw.shape[1]} raw channels became {processed.shape[1]}",)
    problems = []
    for before, after in zip(facts_of(raw, channels), facts_of(processed, channels), strict=True):
        where = f"channel {before.channel!r}"
        if (before.n_rows, before.n_missing) != (after.n_rows, after.n_missing):
            problems.append(
                f"{where}: {before.n_rows} rows with {before.n_missing} unobserved values became "
                f"{after.n_rows} with {after.n_missing}"
            )
        for name, old, new in (
            ("mean", before.mean, after.mean),
            ("standard deviation", before.deviation, after.deviation),
            *(
                (f"decile {n}", old, new)
                for n, (old, new) in enumerate(
                    zip(before.deciles, after.deciles, strict=True), start=1
                )
            ),
        ):
            same = old == new or (np.isnan(old) and np.isnan(new))
            if not same and not abs(new - old) <= DRIFT_TOLERANCE * before.deviation:
                problems.append(
                    f"{where}: the {name} changed from {old:g} to {new:g}; allowed: by "
                    f"{DRIFT_TOLERANCE * before.deviation:g}"
                )
    return tuple(problems)


def problems_of(facts: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return what the checks found about each data set that is present, by its name; empty where
    they found nothing. facts: rows of `data_set_facts`.
    """
    present = facts.filter("is_present").unique("data_set", keep="first", maintain_order=True)
    return {
        name: tuple(problems) for name, problems in present.select("data_set", "problems").rows()
    }


def _some(names: Sequence[str], shown: int = 12) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
