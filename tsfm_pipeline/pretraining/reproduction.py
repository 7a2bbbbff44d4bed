"""Do our naive rows equal those of an independent implementation? Nothing is reported about a model
before they do.

Here: last value and seasonal naive under every protocol against `reference_figures.json`. Not here:
the protocols (`published`, `rolling`) and anything about models.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.baselines.protocol import DirectBaseline
from tsfm_pipeline.pretraining.published import published_protocols
from tsfm_pipeline.pretraining.rolling import (
    at_levels,
    change_quantiles,
    metrics,
    panel_of,
    series_losses,
    windows,
)
from tsfm_pipeline.pretraining.sources import RealFleet, Sources

REFERENCE_ORIGINS = 20
TOLERANCE = 5e-4
"""Relative: half a unit in the third digit at its least."""
NAIVE: tuple[tuple[DirectBaseline, str, str], ...] = (
    (LastValue(), "last", "naive"),
    (SeasonalNaive(), "seasonal", "sn"),
)
"""Our method, its key in the rolling part and in the published part of the reference."""


class ReproductionError(AssertionError):
    """The evaluation code does not score the naive methods as the reference does; no figure of a
    model would mean anything.
    """


def reproduce(sources: Sources, fleets: Iterable[RealFleet]) -> dict[str, Any]:
    """Compare every figure of the naive rows; raises ReproductionError naming the worst ones.

    A group of which the files hold fewer series than the reference scored (nab's aws_cpu: 10 of 11)
    cannot be compared figure by figure: there the reference's medians must lie between the middle
    two of ours. The row of last value + change quantiles depends on which past changes are sampled,
    which is not published; its largest deviation is returned.
    """
    reference = sources.reference()
    compared: dict[str, tuple[float, float]] = {}
    for baseline, _, key in NAIVE:
        for protocol, figures in published_protocols(sources, baseline.forecast).items():
            for metric, value in figures.items():
                compared[f"{protocol} {key} {metric}"] = (
                    value,
                    reference["published_protocols"][protocol][key][metric],
                )
    change_deviation, bracketed, partial = 0.0, [], []
    for fleet in fleets:
        for horizon in fleet.horizons:
            w, panel = windows(fleet, horizon, REFERENCE_ORIGINS), panel_of(fleet)
            rows = {
                key: at_levels(baseline.forecast(panel, w.origins, horizon))
                for baseline, key, _ in NAIVE
            }
            rows["last_dq"] = change_quantiles(panel, w.origins, horizon)
            for key, forecast in rows.items():
                losses = series_losses(fleet, w.actual, forecast)
                for group in dict.fromkeys(fleet.groups):
                    expected, members = (
                        reference[fleet.name][f"{group}|H{horizon}"],
                        fleet.rows_of(group),
                    )
                    figures = metrics(losses, members)
                    theirs = expected["methods"][key]
                    name = f"{fleet.name} {group} H{horizon} {key}"
                    if expected["n_series"] != len(members):
                        partial.append(
                            f"{fleet.name} {group}: {len(members)} of {expected['n_series']} series"
                        )
                        if key != "last_dq":
                            each = [
                                metrics(losses, members[i : i + 1]) for i in range(len(members))
                            ]
                            bracketed += [
                                (
                                    f"{name} {metric}",
                                    _middle([one[metric.removesuffix("_median")] for one in each]),
                                    value,
                                )
                                for metric, value in theirs.items()
                                if metric.endswith("_median")
                            ]
                    elif key == "last_dq":
                        change_deviation = max(
                            change_deviation,
                            *(abs(figures[m] / value - 1) for m, value in theirs.items()),
                        )
                    else:
                        compared |= {
                            f"{name} {metric}": (figures[metric], value)
                            for metric, value in theirs.items()
                        }
    off = {name: abs(ours / theirs - 1) for name, (ours, theirs) in compared.items()}
    wrong = [
        f"{name}: {compared[name][0]:.6g}, reference {compared[name][1]:.6g}"
        for name in off
        if not off[name] <= TOLERANCE
    ]
    wrong += [
        f"{name}: reference {value:.6g} lies outside of our middle two {middle[0]:.6g}, "
        f"{middle[1]:.6g}"
        for name, middle, value in bracketed
        if not middle[0] * (1 - TOLERANCE) <= value <= middle[1] * (1 + TOLERANCE)
    ]
    if wrong:
        raise ReproductionError(
            f"{len(wrong)} naive figures differ from {len(off) + len(bracketed)} of the reference: "
            + "; ".join(wrong[:8])
        )
    return {
        "n_figures": len(off),
        "largest_relative_deviation": max(off.values()),
        "n_medians_bracketed": len(bracketed),
        "incomplete_groups": list(dict.fromkeys(partial)),
        "change_quantiles_largest_relative_deviation": change_deviation,
    }


def _middle(values: list[float]) -> tuple[float, float]:
    """The middle two of an even number of values: where the median lies once one more value is
    added.
    """
    ordered = np.sort(values)
    return float(ordered[len(ordered) // 2 - 1]), float(ordered[len(ordered) // 2])
