"""What the commands about runs and checkpoints show, as rows of text.

What belongs here: choosing and formatting what is shown. What does not: arguments and output
(`commands`), and where the content comes from (`run_records`, `replay`, `checkpoints`).
"""

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.checkpoints import policy_source, staged
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING
from tsfm_pipeline.studies.time_r1.promotion import Gain
from tsfm_pipeline.studies.time_r1.replay import ACROSS_MACHINES, Replay
from tsfm_pipeline.studies.time_r1.run_records import Figure, RunRecords

NONE = "–"
_DIGITS = 12


def run_rows(settings: Settings) -> list[tuple[str, ...]]:
    """Return hash, time, recipe and the figures of slow thinking: one row per run and kind of test
    windows. Raises as `RunRecords.read` does.
    """
    rows: list[tuple[str, ...]] = []
    for record in RunRecords(settings).read():
        when = record.time.strftime("%Y-%m-%d %H:%M")
        for figure in record.figures:
            if figure.method == SLOW_THINKING:
                known = (record.hash, when, record.configuration.recipe.name)
                of_figure = (figure.data_set, figure.window_set, _number(figure.mase))
                rows.append((*known, *of_figure, _over_draft(figure)))
    return rows


def replay_rows(done: Replay) -> list[tuple[str, ...]]:
    """Return what was compared, its digest in the record and here, and whether they are equal; then
    the largest difference of a figure and how long the replay took.
    """
    rows: list[tuple[str, ...]] = [
        (
            each.part,
            (each.recorded or NONE)[:_DIGITS],
            (each.here or NONE)[:_DIGITS],
            "equal" if each.equal else "different",
        )
        for each in done.compared
    ]
    within = "within" if done.figure_difference <= ACROSS_MACHINES else "beyond"
    told = f"{done.figure_difference:.2g}, {within} {ACROSS_MACHINES:g}"
    rows.append(("largest relative difference of a figure", NONE, told, ""))
    rows.append(("the replay took", NONE, f"{done.seconds:.1f} s", ""))
    return rows


def checkpoint_rows(settings: Settings) -> list[tuple[str, ...]]:
    """Return name, stage, run, variant, the gate's figure and whether it is in use. Raises as
    `checkpoints.staged` does.
    """
    in_use = policy_source(settings)
    rows: list[tuple[str, ...]] = []
    for each in staged(settings):
        gate = each.config.get("gate")
        gain = NONE if gate is None else str(Gain.model_validate(gate))
        used = "yes" if each == in_use else "no"
        rows.append(
            (each.name, each.stage, each.config["run"]["hash"], each.config["variant"], gain, used)
        )
    return rows


def _over_draft(figure: Figure) -> str:
    if figure.over_draft is None:
        return NONE
    told = f"{figure.over_draft:.3f}"
    if figure.low is not None and figure.high is not None:
        told += f" ({figure.low:.3f} to {figure.high:.3f})"
    return told


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
