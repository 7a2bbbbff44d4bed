"""Build the tables about a checkpoint: bars, published rows, fleets, calibration, behaviour.

What belongs here: the columns and rows that `checkpoint_report` and MODEL_CARD.md both show. What
does not: markup (`reports.shared.markdown`).
"""

from typing import Any

from tsfm_pipeline.evaluation.methods import LAST_VALUE, LAST_VALUE_CHANGE_QUANTILES, SEASONAL_NAIVE
from tsfm_pipeline.pretraining.bars import (
    BARS,
    LONG_H1,
    LONG_H2,
    coverage_error,
    judge,
    plain_coverage_error,
)
from tsfm_pipeline.pretraining.published import PUBLISHED_ROWS
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import NO_FIGURE, method_label, percent

Measured = dict[str, Any]


def bars_table(bars: list[dict[str, Any]]) -> Table:
    """Return the bars: measured, must reach, aim for and verdict, with the figures of the other
    contexts, the naive methods and the prototype.
    """
    rows = []
    for bar in bars:
        missed = "" if bar["missed_by"] is None else f" by {percent(bar['missed_by'])}"
        rows.append(
            (
                bar["title"],
                _three(bar["figure"]),
                _three(bar["must_reach"]),
                _three(bar["aim_for"]),
                bar["verdict"] + missed,
                bar["context"],
                " / ".join(_three(value) for value in bar["by_context"].values()),
                _three(bar.get(LAST_VALUE)),
                _three(bar.get(SEASONAL_NAIVE)),
                _three(bar["prototype"]),
            )
        )
    contexts = " / ".join(bars[0]["by_context"])
    columns = (
        "bar",
        "measured",
        "must reach",
        "aim for",
        "verdict",
        "context",
        contexts,
        "last value",
        "seasonal naive",
        "prototype",
    )
    return Table(
        "The bars (less is better)", columns, tuple(rows), text_columns=frozenset({0, 4, 5})
    )


def published_table(measured: Measured) -> Table:
    """Return our figures under the published protocols, followed by the published figures."""
    rows = []
    for name, figures in measured["ett"].items():
        rows.append(
            (
                f"{measured['checkpoint']['name']}, {name}"
                if name.startswith("ctx")
                else f"{method_label(name)} (re-run here)",
                _three(figures["fev_bench_ETT_1H"]["MASE"]),
                f"{figures['fev_ETTh']['MASE']:.3f} / {figures['fev_ETTh']['WQL']:.3f}",
                f"{figures[LONG_H1]['WAPE']:.3f} / {figures[LONG_H2]['WAPE']:.3f}",
            )
        )
    n_ours = len(rows)
    rows += [(f"{name}, published", mase, fev, long) for name, mase, fev, long in PUBLISHED_ROWS]
    columns = (
        "method",
        "fev-bench ETT_1H, MASE",
        "fev ETTh, MASE / WQL",
        "long-horizon ETTh1 / ETTh2, WAPE",
    )
    return Table(
        "Published protocols", columns, tuple(rows), emphasised=frozenset(range(2, n_ours))
    )


def fleets_table(measured: Measured) -> Table:
    """Return every method on every real fleet and horizon: pinball loss relative to last value +
    change quantiles, and MASE.
    """
    rows = []
    for name, fleet in measured["fleets"].items():
        for horizon, methods in fleet["horizons"].items():
            for method, row in methods.items():
                groups = row["by_group"].values()
                mase = sum(figures["MASE"] for figures in groups) / len(groups)
                ratios = [f"{value:.3f}" for value in row["ratio_to_change_quantiles"].values()]
                chosen = " (chosen)" if method == measured["chosen_context"][name] else ""
                rows.append(
                    (
                        f"{name}, H = {horizon}",
                        method_label(method) + chosen,
                        *ratios,
                        f"{mase:.3f}",
                    )
                )
    caption = (
        f"Real fleets, {measured['n_origins_per_series']} origins per series: pinball loss "
        "relative to last value + quantiles of changes"
    )
    chosen_rows = frozenset(i for i, row in enumerate(rows) if row[1].endswith("(chosen)"))
    columns = ("fleet", "method", "at .65", "at .75", "at .90", "MASE")
    return Table(
        caption, columns, tuple(rows), text_columns=frozenset({0, 1}), emphasised=chosen_rows
    )


def metrics_table(measured: Measured) -> Table:
    """Return pb75 relative to change quantiles for each group of series."""
    rows = []
    for name, fleet in measured["fleets"].items():
        context = measured["chosen_context"][name]
        for horizon, methods in fleet["horizons"].items():
            reference = methods[LAST_VALUE_CHANGE_QUANTILES]["by_group"]
            for group in reference:
                ratios = [
                    methods[m]["by_group"][group]["pb75"] / reference[group]["pb75"]
                    for m in (LAST_VALUE, SEASONAL_NAIVE, context)
                ]
                rows.append(
                    (
                        f"{name} {group}, H = {horizon}",
                        f"{reference[group]['pb75']:.4f}",
                        *(f"{ratio:.3f}" for ratio in ratios),
                    )
                )
    columns = ("series", "change quantiles, pb75", "last value", "seasonal naive", "the model")
    return Table(
        "By metric: pb75 of change quantiles, and of the others relative to it",
        columns,
        tuple(rows),
    )


def calibration_table(measured: Measured) -> Table:
    """Return the share of actuals at or below each decile."""
    rows = []
    for name, fleet in measured["fleets"].items():
        for context, covered in fleet["coverage"].items():
            chosen = " (chosen)" if context == measured["chosen_context"][name] else ""
            shares = (f"{share:.3f}" for share in covered["at_or_below"])
            rows.append(
                (
                    f"{name}, {context}{chosen}",
                    *shares,
                    f"{coverage_error(covered):.3f}",
                    f"{plain_coverage_error(covered):.3f}",
                )
            )
    columns = ("fleet", *(f".{i}" for i in range(1, 10)), "worst error", "with ties")
    return Table(
        "Calibration: share of actuals at or below each decile; the worst error beyond ties with "
        "the forecast, and with them",
        columns,
        tuple(rows),
    )


def length_table(measured: Measured) -> Table:
    """Return the loss at every context length."""
    lengths = measured["context_length"]
    rows = tuple(
        (name, *(f"{loss:.4f}" for loss in losses)) for name, losses in lengths["losses"].items()
    )
    return Table(
        "Loss by context length (ETT_1H: MASE; fleets: pb75)",
        ("data", *(str(c) for c in lengths["contexts"])),
        rows,
    )


def behaviour_table(measured: Measured) -> Table:
    """Return the results on constants and random walks."""
    rows = []
    for context, walk in measured["random_walks"].items():
        flat = measured["constants"][context]
        exact = "exact" if flat["exact"] else f"off by {flat['largest_relative_deviation']:.1e}"
        costs = (percent(walk["excess_loss_median"]), percent(walk["excess_loss"]))
        rows.append(
            (
                context,
                exact,
                f"{walk['drift_rms']:.3f}",
                f"{walk['drift_mean']:+.3f}",
                f"{walk['spread']:.3f}",
                *costs,
            )
        )
    columns = (
        "context",
        "constant series",
        "drift, rms",
        "drift, mean",
        "spread / ideal",
        "excess loss, median",
        "excess loss, deciles",
    )
    caption = (
        "Constants, and random walks (drift of the median from the last value in units of "
        "sqrt(h); excess over the ideal forecast)"
    )
    return Table(caption, columns, tuple(rows), text_columns=frozenset({0, 1}))


def further_table(measured: Measured) -> Table:
    """Return the figures of yardsticks from other packages; empty if none is installed."""
    rows = tuple(
        (yardstick, figure, f"{value:.4g}")
        for yardstick, figures in measured.get("further", {}).items()
        for figure, value in figures.items()
    )
    return Table("Further yardsticks", ("yardstick", "figure", "value"), rows, frozenset({0, 1}))


def tried_table(measured: Measured) -> Table:
    """Return the bars' figures of this checkpoint and of the variants under `tried`, each at its
    own chosen context.
    """
    own = {
        "figures": {bar["id"]: bar["figure"] for bar in judge(measured)},
        "n_origins_per_series": measured["n_origins_per_series"],
    }
    checkpoints = {f"{measured['checkpoint']['name']} (this one)": own} | measured.get("tried", {})
    rows = tuple(
        (
            bar.title,
            _three(bar.must_reach),
            *(_three(checkpoint["figures"][bar.id]) for checkpoint in checkpoints.values()),
        )
        for bar in BARS
    )
    origins = ", ".join(
        f"{label}: {checkpoint['n_origins_per_series']}"
        for label, checkpoint in checkpoints.items()
    )
    return Table(
        f"Variants, all measured with this code (origins per series: {origins})",
        ("bar", "must reach", *checkpoints),
        rows,
    )


def stages_table(stages: list[dict[str, Any]]) -> Table:
    """Return the training runs that produced the weights, in order."""
    rows = []
    for number, stage in enumerate(stages, start=1):
        start = "from scratch" if number == 1 else f"goes on from {number - 1}"
        hardware = stage["hardware"]
        machine = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} threads"
        counts = (f"{stage['steps']:,}", f"{stage['tokens']:,}", str(stage["wall_time_min"]))
        rows.append(
            (
                f"{number}, {start}",
                stage["commit"],
                str(stage["seed"]),
                str(stage["corpus_version"]),
                *counts,
                machine,
            )
        )
    columns = ("run", "commit", "seed", "corpus", "steps", "patches", "minutes", "hardware")
    return Table("Training runs", columns, tuple(rows), text_columns=frozenset({0, 1, 7}))


def _three(value: float | None) -> str:
    return NO_FIGURE if value is None else f"{value:.3f}"
