"""The figure of the report on the online service.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.served.model import (
    BASELINE,
    CONFORMAL,
    LABELS,
    RAW,
    TENANTS,
    TIME,
    ServedReport,
)
from tsfm_pipeline.reports.shared.marks import note
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    BASELINE: (FIXED_COLOUR, "s"),
    RAW: (MUTED_COLOUR, "^"),
    CONFORMAL: (SEARCH_COLOUR, "o"),
}
_TARGETS = {"coverage_80": 80, "coverage_90": 90}


def intervals_figure(report: ServedReport) -> "Figure":
    """Draw the coverage of every kind of interval against its target, and its width."""
    if not report.table_bands:
        return note("no intervals were judged", "coverage and width of the service's intervals")
    with house_style():
        figure = new_figure(
            2.9, "Coverage and width of 80 % and 90 % intervals: baseline, raw, calibrated"
        )
        panels = figure.subplots(1, 3)
        for axes, (name, target) in zip(panels, _TARGETS.items(), strict=False):
            _points(axes, report, name, 100)
            axes.axhline(target, color=INK_COLOUR, linewidth=1.0, linestyle="--")
            axes.set_title(f"coverage of the {target} % interval, %")
        _points(panels[2], report, "width_90", 1)
        panels[2].set_title("its width, scale units")
        panels[2].set_ylim(bottom=0)
        panels[2].legend(loc="lower right")
    return figure


def _points(axes: "Axes", report: ServedReport, name: str, factor: float) -> None:
    splits = [split for split in (TIME, TENANTS) if report.band(split, RAW)]
    for s, split in enumerate(splits):
        for b, (band, (colour, marker)) in enumerate(_STYLES.items()):
            row = report.band(split, band)
            if row is None:
                continue
            figure, low, high = (factor * value for value in getattr(row, name))
            x = s + 0.22 * (b - 1)
            axes.vlines(x, low, high, color=colour, linewidth=1.6)
            axes.plot(
                [x],
                [figure],
                marker=marker,
                color=colour,
                linestyle="",
                markersize=7,
                label=LABELS[band] if s == 0 else None,
            )
    axes.set_xticks(range(len(splits)), splits)
    axes.set_xlim(-0.6, len(splits) - 0.4)
    axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
