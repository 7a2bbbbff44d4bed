"""The text of MODEL_CARD.md, from a release's config and measured yardsticks.

Here: wording. Not here: measuring; a figure that was not measured is absent, never guessed.
"""

# ruff: noqa: E501 - the text is a document with tables

from typing import Any

_TEXT = """# Model card: `bundled`

A small zero-shot forecaster of the TimesFM-2.5 architecture, trained from scratch on synthetic series alone. Licence: {licence}.

| | |
|---|---|
| parameters | {n_parameters:,} ({dims} dims, {layers} layers, {heads} heads, feed-forward {ff}) |
| input, output | causal patches of 32 points; 128 steps x (mean, deciles 0.1 to 0.9) per patch |
| trained on contexts of | 512 to 4,096 points |
| tensor names | those of the `timesfm` package's own 2.5 module; loads strictly into it |
| seed, commit, corpus version | {seed}, {commit}, {corpus} |
| steps, tokens | {steps:,}, {tokens:,} patches of 32 points |
| hardware, training time | {hardware}, {minutes} minutes |

The continuous quantile head (128 steps) is a copy of the trained point head, so the package's options with and without it agree.

## Corpus
Endless and seeded; no real series and nothing of this project's synthetic fleet. Elementary processes: harmonics, arbitrary templates, pulses and saw
teeth with periods of 6 to 3,000 steps and drifting amplitude and phase; days with weekday, weekend and working-hours patterns; cycles with their own
levels; trends; level shifts that stay; random walks; near-unit-root and integrated autoregressions; ARMA; heavy-tailed and clustered noise; bursts that
decay; scheduled spikes; intermittent demand and counts; smooth and rough Gaussian processes; fill-and-reset; on/off states. A third of the series are
one process, the rest sums and products of several, passed in part through exponentials, squares and thresholds, then measured: saturation at a floor
and a ceiling, quiet and dead stretches, outliers, rounding, gaps held at the last value. Windows are random crops of 640 to 4,224 points at 1 to 24 steps per point,
reflected, reversed and mixed at random, with up to 31 masked leading points.

## Training
Mean logarithm of each segment's pinball loss (nine deciles, every patch, 128 steps, near steps weighted more) plus 5 % of the log root-mean-square error of the
mean; AdamW or Muon as recorded in config.json, warm-up, constant rate, linear decay to zero; gradient clipping; bf16 autocast; the release is the
exponential average of the weights in float32. {stage} Again: `python -m tsfm_pipeline.pretraining.train --{length} --seed {seed} --optimizer {optimizer} --learning-rate {rate} --folder FOLDER --export RELEASE`.

## Yardsticks
{yardsticks}

## Limits
Univariate; no covariates; not trained beyond 4,096 points of context. Horizons beyond 128 steps are decoded autoregressively from the median, so their spread
takes no account of the uncertainty of the first 128. Constant stretches forecast the constant. Few parameters and a small training budget.
"""


def model_card(config: dict[str, Any], n_parameters: int, yardsticks: dict[str, Any] | None) -> str:
    """Render the card of a release."""
    provenance = config["provenance"]
    hardware = provenance["hardware"]
    options = provenance["options"]
    machine = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} threads"
    return _TEXT.format(
        licence=config["licence"],
        n_parameters=n_parameters,
        dims=config["model_dims"],
        layers=config["num_layers"],
        heads=config["num_heads"],
        ff=config["ff_dims"],
        seed=provenance["seed"],
        commit=provenance["commit"],
        corpus=provenance["corpus_version"],
        steps=provenance["steps"],
        tokens=provenance["tokens"],
        hardware=machine,
        minutes=provenance["wall_time_min"],
        length=f"steps {options['steps']}" if options["steps"] else f"minutes {options['minutes']:g}",
        stage=(
            "The schedule ran to its end."
            if provenance["schedule_done"] >= 1
            else f"This is an intermediate export after {provenance['schedule_done']:.0%} of the schedule."
        ),
        optimizer=options["optimizer"],
        rate=options["learning_rate"],
        yardsticks=_table(yardsticks) if yardsticks else "Not measured for this export.",
    )


def _table(yardsticks: dict[str, Any]) -> str:
    """One row per method; the command that produced it beneath."""
    head = (
        "method",
        "fev-bench ETT_1H, MASE",
        "fev ETTh, MASE / WQL",
        "long-horizon ETTh1 / ETTh2, WAPE",
        "smd, pinball at .90 / .75 / .65",
        "smd, worst coverage error",
        "random walk, stray / spread",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in yardsticks.items():
        cells = [name.replace("_", " ")] + [""] * (len(head) - 1)
        if "fev_ETTh" in row:
            cells[1] = f"{row['fev_bench_ETT_1H']['MASE']:.3f}"
            cells[2] = f"{row['fev_ETTh']['MASE']:.3f} / {row['fev_ETTh']['WQL']:.3f}"
            cells[3] = f"{row['long_horizon_ETTh1']['WAPE']:.3f} / {row['long_horizon_ETTh2']['WAPE']:.3f}"
        if "smd" in row:
            cells[4] = " / ".join(f"{value:.3f}" for value in row["smd"]["ratio_to_change_quantiles"].values())
            if "coverage" in row["smd"] and name.startswith("model"):
                cells[5] = f"{max(abs(c - (i + 1) / 10) for i, c in enumerate(row['smd']['coverage'])):.3f}"
        if "random_walk" in row:
            cells[6] = f"{row['random_walk']['median_stray_rms']:.2f} / {row['random_walk']['spread_over_ideal']:.2f}"
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "ctx: context in points. smd: six metrics, 17 machines, H = 60, ratio to last value + change quantiles, mean over metrics; coverage error is",
        "the largest difference between a decile's level and its share of actuals, pooled over metrics. Random walk: root mean square distance of the median from the last value in units of",
        "sqrt(h) (ideal 0), and width between the outer deciles relative to the true one (ideal 1), H = 60.",
        "Command: `python -m tsfm_pipeline.pretraining.yardsticks RELEASE --benchmarks FOLDER --smd FILE --origins 60`.",
    ]
    return "\n".join(lines)
