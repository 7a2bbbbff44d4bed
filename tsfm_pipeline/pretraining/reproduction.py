"""Check that our naive figures equal those of an independent implementation. No figure of a model
is reported before this check passes.

What belongs here: comparing last value and seasonal naive under every protocol with
`reference_figures.json`. What does not: the protocols (`published`, `rolling`) and models.
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
"""Relative; at least half a unit in the third significant digit."""
NAIVE: tuple[tuple[DirectBaseline, str, str], ...] = (
    (LastValue(), "last", "naive"),
    (SeasonalNaive(), "seasonal", "sn"),
)
"""Our method, and its keys in the rolling part and in the published part of the reference."""


class ReproductionError(AssertionError):
    """Raised when our figures of the naive methods differ from the reference, so that figures of a
    model would be meaningless.
    """


def reproduce(sources: Sources, fleets: Iterable[RealFleet]) -> dict[str, Any]:
    """Compare every figure of the naive methods with the reference. Raises ReproductionError,
    naming up to eight figures that differ.

    Where the files hold fewer series of a group than the reference scored (nab's aws_cpu: 10 of
    11), the figures cannot be compared one by one. There, the reference's medians must lie between
    our middle two values. The figures of last value + change quantiles depend on a sample of past
    changes that the reference does not publish; this function returns their largest deviation.
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
                    expected_figures = expected["methods"][key]
                    name = f"{fleet.name} {group} H{horizon} {key}"
                    if expected["n_series"] != len(members):
                        partial.append(
                            f"{fleet.name} {group}: {len(members)} of {expected['n_series']} series"
                        )
                        if key != "last_dq":
                            single_series = [
                                metrics(losses, members[i : i + 1]) for i in range(len(members))
                            ]
                            bracketed += [
                                (
                                    f"{name} {metric}",
                                    _middle(
                                        [
                                            one[metric.removesuffix("_median")]
                                            for one in single_series
                                        ]
                                    ),
                                    value,
                                )
                                for metric, value in expected_figures.items()
                                if metric.endswith("_median")
                            ]
                    elif key == "last_dq":
                        change_deviation = max(
                            change_deviation,
                            *(abs(figures[m] / value - 1) for m, value in expected_figures.items()),
                        )
                    else:
                        compared |= {
                            f"{name} {metric}": (figures[metric], value)
                            for metric, value in expected_figures.items()
                        }
    deviations = {
        name: abs(ours / expected_value - 1) for name, (ours, expected_value) in compared.items()
    }
    differences = [
        f"{name}: {compared[name][0]:.6g}, reference {compared[name][1]:.6g}"
        for name in deviations
        if not deviations[name] <= TOLERANCE
    ]
    differences += [
        f"{name}: reference {value:.6g} lies outside our middle two {middle[0]:.6g}, "
        f"{middle[1]:.6g}"
        for name, middle, value in bracketed
        if not middle[0] * (1 - TOLERANCE) <= value <= middle[1] * (1 + TOLERANCE)
    ]
    if differences:
        raise ReproductionError(
            f"{len(differences)} of {len(deviations) + len(bracketed)} naive figures differ from "
            "the reference: " + "; ".join(differences[:8])
        )
    return {
        "n_figures": len(deviations),
        "largest_relative_deviation": max(deviations.values()),
        "n_medians_bracketed": len(bracketed),
        "incomplete_groups": list(dict.fromkeys(partial)),
        "change_quantiles_largest_relative_deviation": change_deviation,
    }


def _middle(values: list[float]) -> tuple[float, float]:
    """Return the middle two of an even number of values. The median lies between them once one more
    value is added.
    """
    ordered = np.sort(values)
    return float(ordered[len(ordered) // 2 - 1]), float(ordered[len(ordered) // 2])
