"""Write MODEL_CARD.md of a release from its config.json and its measured yardsticks.

What belongs here: the text of the card. What does not: measuring. Every figure in the card comes
from a measurement; the card omits figures that were not measured.
"""

# ruff: noqa: E501 - the template is a document with wide tables

import json
from pathlib import Path
from typing import Any

from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.forecaster.config import PATCH_LEN
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, WEIGHTS_FILE
from tsfm_pipeline.pretraining import tables
from tsfm_pipeline.pretraining.bars import COVERAGE_BAR, judge, plain_coverage_error
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.options import LENGTHS, TrainOptions
from tsfm_pipeline.pretraining.wording import (
    context_sentences,
    reproduction_sentences,
    summary_sentence,
)
from tsfm_pipeline.reports.shared.markdown import table_markdown

CARD_FILE = "MODEL_CARD.md"

_TEXT = """# Model card: `{name}`

A small zero-shot forecaster of the TimesFM-2.5 architecture, trained from scratch on synthetic series alone. Licence: {licence}.

| | |
|---|---|
| size | {dims} dims, {layers} layers, {heads} heads, feed-forward {ff}; {size_mib:.1f} MiB |
| input, output | causal patches of 32 points; 128 steps x (mean, deciles 0.1 to 0.9) per patch |
| trained on contexts of | {shortest} to 4,096 points |
| tensor names | those of the `timesfm` package's own 2.5 module; loads strictly into it |
| sha256 of model.safetensors | `{sha256}` |
| commit of the release | {release_commit} |
| training in all | {tokens:,} patches of 32 points, {minutes:.0f} minutes |

The continuous quantile head (128 steps) is a copy of the trained point head, so the package's options with and without it agree.

{figures}
## Corpus
{corpus}

## Training
Mean logarithm of each segment's pinball loss (nine deciles, every patch, 128 steps, near steps weighted more) plus 5 % of the log root-mean-square error of the
mean; {optimizer}, warm-up, constant rate, linear decay to zero; gradient clipping; bf16 autocast; the release is the
exponential average of the weights in float32. {stage}

{stages}

Again, from nothing to this folder (a run that was stopped resumes):

{commands}

{tried}## Limits
Univariate; no covariates; not trained beyond 4,096 points of context. Horizons beyond 128 steps are decoded autoregressively from the median, so their spread
takes no account of the uncertainty of the first 128. Few parameters and a small training budget.{limits}
"""

_CORPUS_2 = """Endless and seeded; no real series and nothing of this project's synthetic fleet. Elementary processes: harmonics, arbitrary templates, pulses and saw
teeth with periods of 6 to 3,000 steps and drifting amplitude and phase; days with weekday, weekend and working-hours patterns; cycles with their own
levels; trends; level shifts that stay; random walks; near-unit-root and integrated autoregressions; ARMA; heavy-tailed and clustered noise; bursts that
decay; scheduled spikes; intermittent demand and counts; smooth and rough Gaussian processes; fill-and-reset; on/off states; rest with rare excursions
a thousand times as large; values of few levels. A third of the series are
one process, the rest sums and products of several, passed in part through exponentials, squares and thresholds, then measured: saturation at a floor
and a ceiling, quiet and dead stretches, outliers, rounding, gaps held at the last value. Windows are random crops of 640 to 4,224 points at 1 to 24 steps per point,
reflected, reversed and mixed at random, with up to 31 masked leading points."""

_CORPUS_3 = (
    _CORPUS_2
    + """

Corpus 3 adds: rows of hours to five minutes whose working days and free days have profiles of their own; rows of days with a week, a year,
days of the month, holidays and growth; bursts in clusters, rectangular bursts, spikes that follow a season, and jumps, all with Pareto tails of exponent
1.2 to 6; overdispersed and batched counts; rest that scheduled work interrupts; capacity that fills up and is extended. Four series in ten have missing points:
single ones, outages, regular pauses. Half of the windows mask them, half fill them with the last value before; no loss is taken on a missing point.
Windows have 192 to 4,224 points (2 to 128 patches and the 128 points after them) at 1 to 60 steps per point."""
)
_CORPUS_4 = (
    _CORPUS_3
    + """

Corpus 4 adds: windows that change from one series to another at a random point of the context, with another level, a spread of a tenth to
ten times as much, and other dynamics, as a machine has after a restart, a move or a new job. Four in ten windows of 128 patches have such a change, and shorter ones
proportionately fewer. Windows of 64 and 128 patches are 57 % of the updates, where corpus 3 has 50 %."""
)
_CORPORA = {"1": _CORPUS_2, "2": _CORPUS_2, "3": _CORPUS_3, "4": _CORPUS_4}


def write_card(folder: Path, measured: dict[str, Any] | None) -> Path:
    """Write the card of the release in `folder` and return its path.

    measured: result of `yardsticks.measure` on the same weights. Raises ValueError if it belongs to
    other weights.
    """
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if measured is not None and measured["checkpoint"]["sha256"] != config.get("sha256"):
        raise ValueError(
            f"{folder}: the yardsticks were measured on weights with sha256 {measured['checkpoint']['sha256']}, the release holds "
            f"{config.get('sha256')}: measure this release"
        )
    path = folder / CARD_FILE
    text = model_card(config, (folder / WEIGHTS_FILE).stat().st_size, measured)
    write_text_atomically(path, text)
    return path


def model_card(config: dict[str, Any], size_bytes: int, measured: dict[str, Any] | None) -> str:
    """Render the card of a release."""
    provenance = config["provenance"]
    options, done = provenance["options"], provenance["schedule_done"]
    stages = _stages(provenance)
    return _TEXT.format(
        name=config["name"],
        licence=config["licence"],
        dims=config["model_dims"],
        layers=config["num_layers"],
        heads=config["num_heads"],
        ff=config["ff_dims"],
        size_mib=size_bytes / 2**20,
        sha256=config["sha256"],
        release_commit=provenance["release_commit"],
        tokens=sum(stage["tokens"] for stage in stages),
        minutes=sum(stage["wall_time_min"] for stage in stages),
        stages=table_markdown(tables.stages_table(stages)),
        corpus=_CORPORA[str(provenance["corpus_version"])],
        shortest=min(LENGTHS.get(str(provenance["corpus_version"]), LENGTHS["2"])[0]) * PATCH_LEN,
        commands=_commands(stages, config["name"]),
        figures=_figures(measured, config["name"]),
        optimizer={
            "muon": "Muon for the matrices of the layers, AdamW for the rest",
            "adamw": "AdamW",
        }[options["optimizer"]],
        stage="The schedule ran to its end."
        if done >= 1
        else "The rate was still constant when this was exported: the run has not been cooled down."
        if options.get("open_ended")
        else f"This is an intermediate export after {done:.0%} of the schedule.",
        tried=_tried(measured),
        limits=_limits(measured),
    )


def _stages(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the training runs that produced the weights, starting with the run from scratch."""
    base = provenance.get("base")
    return [*(_stages(base) if base else []), provenance]


def _commands(stages: list[dict[str, Any]], name: str) -> str:
    """Return one shell command per run. Each command checks out the run's own commit, and each run
    starts from the release of the run before.
    """
    lines = []
    for number, stage in enumerate(stages, start=1):
        start = f" --start data/checkpoints/{name}" if number > 1 else ""
        state, training = _training(stage, f"RUN{number}", start)
        lines.append(
            f"    git checkout {stage['commit']} && {training} && git checkout - && "
            f"python -m tsfm_pipeline.pretraining.release {state} data/checkpoints/{name}"
        )
    return "\n".join(lines)


def _training(stage: dict[str, Any], folder: str, start: str) -> tuple[str, str]:
    """Return the final state of a run that trains in `folder`, and the command that gives it."""
    options = stage["options"]
    if not (options.get("open_ended") or options.get("cooled_from") is not None):
        length = (
            f"--steps {options['steps']}"
            if options["steps"]
            else f"--minutes {options['minutes']:g}"
        )
        return f"{folder}/state.pt", (
            f"python -m tsfm_pipeline.pretraining.train {length} --seed {options['seed']} "
            f"--optimizer {options['optimizer']} --learning-rate {options['learning_rate']:g}{_unusual(options)}{start} --folder {folder}"
        )
    compiled = " --compile" if stage.get("compiled") else ""
    command = f"python -m tsfm_pipeline.pretraining.continue_training{compiled} --state {folder}"
    until = stage["steps"] if options.get("open_ended") else options["cooled_from"]
    run = (
        f"{command} --corpus {options['corpus']} --seed {options['seed']} --learning-rate {options['learning_rate']:g}"
        f" --batch-patches {options['batch_patches']} --micro-batches {options['micro_batches']}"
        f"{start or ' --from-scratch'} --until {until}"
    )
    if options.get("open_ended"):
        return f"{folder}/state.pt", run
    return (
        f"{folder}/cooled/state.pt",
        f"{run} && {command} --cool-down {options['steps'] - until} --into {folder}/cooled",
    )


def _unusual(options: dict[str, Any]) -> str:
    """Return the options of a run that differ from their defaults, as on the command line."""
    values = {
        "corpus": (options.get("corpus", TrainOptions.corpus), TrainOptions.corpus),
        "batch-patches": (options["batch_patches"], TrainOptions.batch_patches),
        "micro-batches": (options["micro_batches"], TrainOptions.micro_batches),
        "block-series": (options["pool"]["block_series"], PoolShape.block_series),
        "decay-from": (options["decay_from"], TrainOptions.decay_from),
    }
    return "".join(
        f" --{name} {value}" for name, (value, usual) in values.items() if value != usual
    )


def _figures(measured: dict[str, Any] | None, name: str) -> str:
    if measured is None:
        return "## Bars\nNot measured for this export.\n"
    bars = judge(measured)
    shown = (
        tables.published_table,
        tables.fleets_table,
        tables.calibration_table,
        tables.length_table,
        tables.behaviour_table,
    )
    blocks = [
        "## Bars",
        summary_sentence(bars),
        table_markdown(tables.bars_table(bars)),
        context_sentences(measured),
    ]
    blocks += [
        reproduction_sentences(measured),
        "## Yardsticks",
        *(table_markdown(make(measured)) for make in shown),
    ]
    blocks.append(
        f"Command: `python -m tsfm_pipeline.pretraining.yardsticks data/checkpoints/{name} --out FOLDER`, with TSFM_BENCHMARKS_DIR and "
        "TSFM_FLEETS_DIR naming the folders of the outside data; it draws the figures too, among them one hundred forecasts."
    )
    return "\n\n".join(blocks) + "\n"


def _tried(measured: dict[str, Any] | None) -> str:
    if measured is None or not measured.get("tried"):
        return ""
    return f"## What was tried\n\n{table_markdown(tables.tried_table(measured))}\n\n"


def _limits(measured: dict[str, Any] | None) -> str:
    """Return the weaknesses that the measurements show."""
    if measured is None:
        return ""
    missed = [
        f"{bar['title']}: {bar['figure']:.3f} where {bar['must_reach']:g} must be reached"
        for bar in judge(measured)
        if bar["verdict"] == "missed"
    ]
    walk = measured["random_walks"][
        max(measured["random_walks"], key=lambda name: int(name.removeprefix("ctx")))
    ]
    text = (
        f" On random walks the median strays from the last value by {walk['drift_rms']:.2f} sqrt(h), which costs {walk['excess_loss_median']:.1%} "
        "at the median (longest candidate context)."
    )
    with_ties = max(
        plain_coverage_error(fleet["coverage"][measured["chosen_context"][name]])
        for name, fleet in measured["fleets"].items()
    )
    text += (
        " Coverage is judged beyond ties; with every actual that equals the forecast counted as covered, the worst error is "
        f"{with_ties:.3f}, where {COVERAGE_BAR:g} must be reached."
    )
    return text + (f" Missed: {'; '.join(missed)}." if missed else "")
