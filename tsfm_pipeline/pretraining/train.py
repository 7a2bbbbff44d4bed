"""Train the bundled checkpoint: `python -m tsfm_pipeline.pretraining.train --help`.

What belongs here: the loop over updates, its log and the command line. What does not: the options
(`options`) and the state of a run (`trainer`), a run without an end (`continue_training`), and the
export of a release (`export`). A run is a function of its options. With `--steps`, a run that was
stopped and resumed gives the same weights as an uninterrupted one. With `--minutes`, the schedule
follows the training time, so the weights depend on the machine.

On a rented GPU, seven minutes and a file of 15 MiB to bring home:

    python -m tsfm_pipeline.pretraining.train --minutes 7 --corpus 4 --seed 4 \\
        --start data/checkpoints/bundled --batch-patches 65536 --micro-batches 1 \\
        --block-series 512 --learning-rate 0.003 --decay-from 0.2 --compile \\
        --folder RUN --averages averages.pt
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tsfm_pipeline.forecaster.architecture import BUNDLED
from tsfm_pipeline.forecaster.devices import device_named
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.options import LENGTHS, TrainOptions
from tsfm_pipeline.pretraining.trainer import Trainer, one_thread_each

STATE_FILE, LOG_FILE = "state.pt", "losses.jsonl"


class StopSignals:
    """Note a SIGTERM or SIGINT instead of ending the process, so that a run can save its state."""

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = True


def run(
    trainer: Trainer,
    folder: Path,
    save_every_s: float = 240.0,
    validate_every_s: float = 600.0,
    log_every: int = 50,
) -> bool:
    """Train until the options' budget is spent or a SIGTERM or SIGINT arrives. Save the state and
    the log in `folder`. Return True if the run is finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved_at = time.monotonic()
    validated_at = -math.inf if trainer.step else time.monotonic()
    window: list[dict[str, float]] = []
    progress = 0.0
    bar = tqdm(
        total=1.0,
        bar_format="{percentage:5.1f}% {desc}",
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    with bar, StopSignals() as stop:
        while (
            progress := trainer.options.progress(trainer.step, trainer.train_s)
        ) < 1 and not stop.received:
            window.append(trainer.train_step())
            now = time.monotonic()
            if len(window) == log_every:
                row = {key: float(np.mean([entry[key] for entry in window])) for key in window[0]}
                row |= {
                    "step": trainer.step,
                    "patches": trainer.patches,
                    "train_s": trainer.train_s,
                }
                append_row(folder / LOG_FILE, row | {"skipped": trainer.skipped})
                bar.set_description_str(
                    f"step {trainer.step} loss {row['loss']:.4f} "
                    f"{trainer.patches / trainer.train_s:.0f} patches/s",
                    refresh=False,
                )
                bar.update(progress - bar.n)
                window = []
            if now - validated_at > validate_every_s:
                append_row(
                    folder / LOG_FILE, {"step": trainer.step, "held_out": trainer.validation()}
                )
                validated_at = now
            if now - saved_at > save_every_s:
                trainer.save(folder / STATE_FILE)
                saved_at = now
        append_row(folder / LOG_FILE, {"step": trainer.step, "held_out": trainer.validation()})
        trainer.save(folder / STATE_FILE)
    return progress >= 1


def append_row(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.write(json.dumps(row) + "\n")


def last_losses(folder: Path) -> dict[str, Any]:
    """Return the newest figures in a run's log: step, patches, loss, and `held_out_<family>`."""
    rows = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    newest: dict[str, Any] = {}
    for row in rows:
        newest |= {
            f"held_out_{family}": loss for family, loss in row.pop("held_out", {}).items()
        } | row
    return newest


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsfm_pipeline.pretraining.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument(
        "--steps",
        type=int,
        help="length in updates: gives the same weights to the bit on one kind of machine",
    )
    length.add_argument(
        "--minutes",
        type=float,
        help="length in minutes of training time, summed over all resumed runs",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="folder of state and log; the run resumes from an existing state",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of a release to start from; by default training starts from scratch",
    )
    parser.add_argument("--seed", type=int, default=TrainOptions.seed)
    parser.add_argument(
        "--corpus", choices=tuple(LENGTHS), default=TrainOptions.corpus, help="corpus version"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU worker threads; 0 uses torch's default"
    )
    parser.add_argument("--batch-patches", type=int, default=TrainOptions.batch_patches)
    parser.add_argument(
        "--micro-batches",
        type=int,
        default=TrainOptions.micro_batches,
        help="parts of a batch that worker threads take; a GPU is fastest with 1",
    )
    parser.add_argument(
        "--block-series",
        type=int,
        default=PoolShape.block_series,
        help="series per block of the pool; more for large batches on a GPU",
    )
    parser.add_argument("--learning-rate", type=float, default=TrainOptions.learning_rate)
    parser.add_argument(
        "--decay-from",
        type=float,
        default=TrainOptions.decay_from,
        metavar="SHARE",
        help="share of the run after which the rate falls linearly to zero",
    )
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default=TrainOptions.optimizer)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the loss first: pays off for runs of half an hour or more",
    )
    parser.add_argument(
        "--averages",
        type=Path,
        help="file for the averaged weights alone, to bring home from another machine: "
        "`release` takes it like a state",
    )
    parser.add_argument(
        "--export", type=Path, help="folder of the release to write when the run has finished"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or resume training, with the options of the command line. Return 3 if the run was
    stopped before its end.
    """
    options = parse(arguments)
    workers = options.threads or torch.get_num_threads()
    one_thread_each()
    device = device_named(options.device)
    trainer = Trainer(
        TrainOptions(
            seed=options.seed,
            steps=options.steps,
            minutes=options.minutes,
            batch_patches=options.batch_patches,
            learning_rate=options.learning_rate,
            decay_from=options.decay_from,
            optimizer=options.optimizer,
            start=checkpoint_digest(options.start) if options.start else None,
            corpus=options.corpus,
            micro_batches=options.micro_batches,
            pool=PoolShape(block_series=options.block_series),
        ),
        BUNDLED,
        device,
        workers=1 if device.type == "cuda" else workers,
        release=options.start,
    )
    state = options.folder / STATE_FILE
    if state.exists():
        trainer.resume(state)
    if options.compile:
        trainer.compile()
    finished = run(trainer, options.folder)
    if options.averages is not None:
        trainer.save(options.averages, averages_only=True)
    if finished and options.export is not None:
        from tsfm_pipeline.pretraining.export import export_release

        export_release(state, options.export)
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
