"""The figures of docs/how-the-search-works.md, and the table beside them: `python
docs/figures/worked_example.py`.

What belongs here: one request of the demo fleet followed from history to decision with the real
parts, and the map of rooms and tables. What does not: any arithmetic of the search
(`tsfm_pipeline.autoresearch`), colours and sizes (`reports.shared.style`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence
from tsfm_pipeline.autoresearch.rules import Softmax, combine, evidence_weights, posterior_losses
from tsfm_pipeline.autoresearch.space import validation_offsets
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.arrays import given, targets_after
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets import load_spec, open_fleet
from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)
from tsfm_pipeline.settings import PROJECT_ROOT, SearchSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Floats = NDArray[np.floating]

FOLDER = PROJECT_ROOT / "docs" / "figures"
TENANT, METRIC, TIER = 1, "cpu_util", "standard"
ORIGIN = 17 * 1440 + 10 * 60  # ten in the morning of a Thursday
PORTFOLIO = (
    "ctx768",
    "ctx960-r15",
    "ctx2880-r15",
    "ctx5120-r5",
    "ctx7200-r15",
    "ctx7200-r15-log",
    "ctx256-s1x5",
    "ctx512-s1x5",
)
RULE = Softmax(prior="fleet", kappa=4.0, half_life=np.inf, same_hour=1.0, temperature=0.05)
"""The declared constants; without other tenants there is no prior, so that kappa does not
matter.
"""
QUESTIONS = {
    "workloads": "What was used,\nand by whom?",
    "archetypes": "Who looks\nlike whom?",
    "forecasts": "What would each\nconfiguration say, and\nwhat is decided?",
    "scores": "What did every\nmethod cost?",
    "recommendations": "What to reserve,\nand was it right?",
    "serving": "What was answered\nonline, and did it hold?",
    "reports": "Does it pay, for whom,\nand how sure?",
}
"""What each group of the asset graph asks, in the order in which data passes through them."""


@dataclass(frozen=True)
class Example:
    """One series [T] with its request: candidates K, validation origins J, horizon H."""

    values: Floats
    configs: tuple[ForecastConfig, ...]
    offsets: tuple[int, ...]
    evidence: Floats
    """Validation losses [K, J]."""
    posterior: Floats
    """Relative losses [K]."""
    weights: Floats
    """[K]"""
    candidates: Floats
    """Each configuration's decision quantile [K, H]."""
    decision: Floats
    """The search's [H]."""
    actual: Floats
    """What happened [H]."""

    @property
    def costs(self) -> tuple[Floats, float]:
        """Pinball loss at the tier's alpha of every configuration [K], and of the search."""
        alpha = TIERS[TIER]
        return mean_pinball(self.actual, self.candidates, alpha), float(
            mean_pinball(self.actual, self.decision, alpha)
        )


def example() -> Example:
    """The request, answered by the bundled model and by the parts that the search is made of,
    without prior and level correction.
    """
    spec = load_spec(PROJECT_ROOT / "data" / "fleets" / "demo.yaml")
    source = open_fleet(spec, fleets_dir=Path())
    values = source.values([TENANT])[0, source.metrics.index(METRIC)]
    panel = Panel(values[None], seasons=source.seasons, lower=0.0)
    configs, alpha = tuple(map(ForecastConfig.from_name, PORTFOLIO)), TIERS[TIER]
    offsets = validation_offsets(SearchSettings(), spec.horizon, source.seasons[0])
    origin = np.array([[ORIGIN]])
    forecaster = load_forecaster("bundled", device="cpu")
    deciles, losses, _ = (
        p[0, 0]
        for p in forecast_with_evidence(
            forecaster, panel, origin, configs, spec.horizon, offsets, [alpha]
        )
    )
    evidence = losses[..., 0]
    counted = evidence_weights(offsets, source.seasons[0], RULE.half_life, RULE.same_hour)
    posterior = posterior_losses(evidence, np.full(len(configs), np.nan), RULE.kappa, counted)
    weights = RULE.weights(posterior, given(deciles))
    return Example(
        values=values,
        configs=configs,
        offsets=offsets,
        evidence=evidence,
        posterior=posterior,
        weights=weights,
        candidates=decision_quantile(deciles, alpha),
        decision=decision_quantile(combine(weights, deciles), alpha),
        actual=targets_after(values[None], origin, spec.horizon)[0, 0],
    )


def table(found: Example) -> str:
    """What each configuration would have cost, what it therefore weighs, and what it then cost, as
    Markdown.
    """
    costs, own = found.costs
    lines = [
        "| configuration | relative loss before | weight | loss in the hour after, x 1000 |",
        "|---|---|---|---|",
    ]
    for k in np.argsort(-found.weights):
        lines.append(
            f"| `{found.configs[k].name}` | {found.posterior[k]:.2f} | {found.weights[k]:.2f} | "
            f"{1e3 * costs[k]:.1f} |"
        )
    return "\n".join([*lines, f"| **the search** | | 1.00 | **{1e3 * own:.1f}** |"])


def evidence_figure(found: Example) -> "Figure":
    """How did each configuration do at earlier origins of the same series, and what does it
    weigh?
    """
    with house_style():
        figure = new_figure(
            5.4,
            "History with validation windows; relative losses of each configuration at each; "
            "weights",
        )
        grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.6), width_ratios=(4.2, 1))
        _history(figure.add_subplot(grid[0, :]), found)
        _losses(figure.add_subplot(grid[1, 0]), found)
        _weights(figure.add_subplot(grid[1, 1]), found)
    return figure


def forecast_figure(found: Example) -> "Figure":
    """What would each configuration have reserved, what did the search reserve, and what
    happened?
    """
    horizon = len(found.actual)
    ahead = np.arange(1, horizon + 1)
    with house_style():
        figure = new_figure(
            3.4, "Decision forecasts of every configuration and of the search, and what happened"
        )
        axes = figure.subplots()
        before = np.arange(-90, 1)
        axes.plot(before, found.values[ORIGIN - 90 : ORIGIN + 1], color=INK_COLOUR, linewidth=1.0)
        axes.plot(ahead, found.actual, color=INK_COLOUR, linewidth=1.0, label="what happened")
        for k, line in enumerate(found.candidates):
            label = "single configurations, thicker with their weight" if k == 0 else None
            axes.plot(
                ahead,
                line,
                color=FIXED_COLOUR,
                alpha=0.55,
                linewidth=0.5 + 4 * found.weights[k],
                label=label,
            )
        axes.plot(
            ahead,
            found.decision,
            color=SEARCH_COLOUR,
            linewidth=2.4,
            label=f"the search: reserve this ({TIER}, .{TIERS[TIER] * 100:.0f}-quantile)",
        )
        axes.axvline(0, color=MUTED_COLOUR, linewidth=0.8, linestyle=":")
        axes.set(
            xlabel="minutes from the request",
            ylabel=METRIC,
            xlim=(-90, horizon),
            title="The request, and the hour after it",
        )
        axes.legend(loc="upper left")
    return figure


def rooms_figure() -> "Figure":
    """Which assets does each group of the graph hold, and what does each group ask?"""
    groups = asset_groups()
    n_lines = max(map(len, groups.values()))
    with house_style():
        figure = new_figure(
            1.25 + 0.15 * n_lines,
            "Assets by group. "
            + " ".join(f"{g}: {', '.join(names)}." for g, names in groups.items()),
        )
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(0, len(groups)), ylim=(0, n_lines + 7.2))
        top = n_lines + 7
        for i, (group, names) in enumerate(groups.items()):
            axes.add_patch(_box(i + 0.02, 0.2, 0.9, top - 0.2))
            axes.text(
                i + 0.47,
                top - 0.7,
                group,
                ha="center",
                va="top",
                fontweight="bold",
                color=SEARCH_COLOUR,
                fontsize=7.6,
            )
            axes.text(
                i + 0.47,
                top - 2.2,
                QUESTIONS[group],
                ha="center",
                va="top",
                color=MUTED_COLOUR,
                fontsize=6.8,
                style="italic",
            )
            axes.text(
                i + 0.06,
                n_lines + 0.6,
                "\n".join(names),
                ha="left",
                va="top",
                fontsize=6.2,
                linespacing=1.7,
            )
            if i + 1 < len(groups):
                axes.annotate(
                    "",
                    (i + 1.02, top - 1),
                    (i + 0.92, top - 1),
                    arrowprops={"arrowstyle": "-|>", "color": MUTED_COLOUR},
                )
    return figure


def asset_groups() -> dict[str, list[str]]:
    """The asset graph's groups in the order of `QUESTIONS`, each group's assets with tables first,
    in the order in which they are made.
    """
    from tsfm_pipeline.definitions import defs

    order = {name: i for i, name in enumerate(TABLES)}
    found = sorted(
        (order.get(spec.key.path[-1], len(order)), spec.key.path[-1], str(spec.group_name))
        for spec in defs.resolve_all_asset_specs()
    )
    present = {group for _, _, group in found}
    return {
        group: [name for _, name, its in found if its == group]
        for group in sorted(present, key=list(QUESTIONS).index)
    }


def _box(x: float, y: float, width: float, height: float) -> "Patch":
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor="white", edgecolor=FAINT_COLOUR)


def _history(axes: "Axes", found: Example) -> None:
    """Nine days of the series, with the hours that are forecast again and the hour that is asked
    for.
    """
    days = 8
    steps = np.arange(-days * 1440, len(found.actual) + 1)
    axes.plot(steps / 60, found.values[ORIGIN + steps], color=INK_COLOUR, linewidth=0.4)
    for offset in found.offsets:
        axes.axvspan(
            -offset / 60,
            (-offset + len(found.actual)) / 60,
            color=SEARCH_COLOUR,
            alpha=0.35,
            linewidth=0,
        )
    axes.axvspan(0, len(found.actual) / 60, color=FIXED_COLOUR, alpha=0.6, linewidth=0)
    axes.set(xlabel="hours from the request", ylabel=METRIC, xlim=(steps[0] / 60, 3))
    axes.set_title(
        f"{len(found.offsets)} earlier hours are forecast again (blue), as the hour after the "
        "request (orange) will be"
    )


def _losses(axes: "Axes", found: Example) -> None:
    """Relative losses as colour and figure, configurations by validation origins."""
    shares = found.evidence / found.evidence.mean(axis=0)
    axes.imshow(np.log2(shares), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (k, j), share in np.ndenumerate(shares):
        axes.text(
            j,
            k,
            f"{share:.1f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(np.log2(share)) > 0.7 else INK_COLOUR,
        )
    axes.set_xticks(
        range(len(found.offsets)), [_ago(offset) for offset in found.offsets], fontsize=7.5
    )
    axes.set_yticks(range(len(found.configs)), [config.name for config in found.configs])
    axes.tick_params(length=0)
    axes.set(xlabel="validation origin: time before the request")
    axes.set_title("Loss of each configuration there, over the mean of all")


def _weights(axes: "Axes", found: Example) -> None:
    axes.barh(range(len(found.configs)), found.weights, color=SEARCH_COLOUR, height=0.7)
    for k, weight in enumerate(found.weights):
        axes.text(weight + 0.01, k, f"{weight:.2f}", va="center", fontsize=7.5)
    axes.set(
        ylim=(len(found.configs) - 0.5, -0.5),
        yticks=[],
        xlim=(0, 1.3 * found.weights.max()),
        xticks=[],
    )
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Weight")


def _ago(offset: int) -> str:
    return f"{offset // 1440} d" if offset % 1440 == 0 else f"{offset // 60} h\n{offset % 60:02d}"


def write(figures: dict[str, "Figure"], folder: Path) -> None:
    """Each figure as `<name>.svg`; the same content gives the same bytes."""
    for name, figure in figures.items():
        with house_style():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    request = example()
    write(
        {
            "rooms": rooms_figure(),
            "worked_evidence": evidence_figure(request),
            "worked_forecast": forecast_figure(request),
        },
        FOLDER,
    )
    print(table(request))
