"""Train a successor of the bundled checkpoint for as long as the machine allows: `python -m
tsfm_pipeline.pretraining.continue_training --state FOLDER` starts the run or resumes it.

What belongs here: a run without an end, its pauses, its log, its cool-down and the command line.
What does not: one update (`trainer`), and runs of a given length (`train`).

The rate stays constant, so the run may stop at any step. The weights of a constant rate are noisy;
a cool-down to zero makes a good checkpoint of them: `--cool-down STEPS --into FOLDER` goes on from
a copy of the state and leaves the state as it is. After it, the run itself goes on from where it
was. The folder holds `state.pt` (about 60 MB), `log.jsonl`, and the file `PAUSE` while the run
should rest.
"""

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tsfm_pipeline.files import StorageError, write_atomically, write_text_atomically
from tsfm_pipeline.forecaster.architecture import BUNDLED
from tsfm_pipeline.forecaster.devices import device_named
from tsfm_pipeline.forecaster.registry import REGISTRY, checkpoint_digest
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.train import STATE_FILE, StopSignals, append_row
from tsfm_pipeline.pretraining.trainer import Trainer, one_thread_each

LOG_FILE, PAUSE_FILE, LOCK_FILE = "log.jsonl", "PAUSE", ".lock"
PAUSED_CHECK_S = 5.0
NEW_RUN: dict[str, Any] = {
    "seed": 4,
    "corpus": "4",
    "learning_rate": 1e-3,
    "batch_patches": TrainOptions.batch_patches,
    "micro_batches": TrainOptions.micro_batches,
}
"""Options of a new run; a run that resumes keeps its own."""


@dataclass(frozen=True)
class Rhythm:
    """When a run logs, saves and ends.

    until: the step at which the run ends; None means never.
    """

    log_every: int = 200
    save_every_s: float = 600.0
    until: int | None = None


def train_on(trainer: Trainer, folder: Path, pause_file: Path, rhythm: Rhythm) -> bool:
    """Train until the schedule ends, the step comes at which to end, or a SIGTERM or SIGINT
    arrives. While `pause_file` exists, save and rest. Return True unless a signal ended the run.
    """
    log, state = folder / LOG_FILE, folder / STATE_FILE
    _forget_after(log, trainer.step)
    window: list[float] = []
    saved_at = time.monotonic()
    if not log.exists():
        append_row(log, _row(trainer, window, 0.0))
    with StopSignals() as stop:
        while not stop.received and not _finished(trainer, rhythm):
            if pause_file.exists():
                trainer.save(state)
                while pause_file.exists() and not stop.received:
                    time.sleep(PAUSED_CHECK_S)
                saved_at = time.monotonic()
                continue
            row = trainer.train_step()
            window.append(row["loss"])
            if trainer.step % rhythm.log_every == 0:
                append_row(log, _row(trainer, window, row["rate_factor"]))
                window = []
            if time.monotonic() - saved_at > rhythm.save_every_s:
                trainer.save(state)
                saved_at = time.monotonic()
        trainer.save(state)
        return not stop.received


def _finished(trainer: Trainer, rhythm: Rhythm) -> bool:
    """Return whether the schedule has ended, or the step has come at which to end."""
    there = rhythm.until is not None and trainer.step >= rhythm.until
    return there or trainer.options.progress(trainer.step, trainer.train_s) >= 1


def _row(trainer: Trainer, losses: list[float], rate_factor: float) -> dict[str, Any]:
    """Return one line of the log. Losses are logarithms: .01 less is 1 % less."""
    validation = trainer.validation()
    return {
        "step": trainer.step,
        "loss": sum(losses) / len(losses) if losses else None,
        "validation_loss": sum(validation.values()) / len(validation),
        "validation": validation,
        "rate": trainer.options.learning_rate * rate_factor,
        "tokens": trainer.patches,
        "wall_hours": trainer.train_s / 3600,
        "cpu_hours": trainer.cpu_s / 3600,
        "skipped": trainer.skipped,
    }


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that were lost when the run was killed: they will come again."""
    if not log.exists():
        return
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        write_text_atomically(log, "".join(kept))


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder of a run. Raises StorageError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise StorageError(
                f"process {handle.read().strip()} trains in {folder}; end it first, or name "
                "another folder"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def options_of(state: Path, asked: dict[str, Any]) -> TrainOptions:
    """Return the options that a saved run goes on with: its own. Raises ValueError if the command
    asks for others.
    """
    options = TrainOptions.from_dict(_saved(state)["options"])
    differing = sorted(name for name, value in asked.items() if getattr(options, name) != value)
    if differing:
        raise ValueError(
            f"{state} was made with "
            + ", ".join(f"{name} {getattr(options, name)}" for name in differing)
            + "; asked for "
            + ", ".join(f"{name} {asked[name]}" for name in differing)
            + ": leave these options out, or name another folder"
        )
    return options


def begin_cool_down(state: Path, steps: int, into: Path) -> None:
    """Put a copy of an open-ended run's state into the folder of its cool-down over `steps` steps.
    A cool-down that has begun
    goes on as it is. Raises ValueError if the run is not open-ended.
    """
    target = into / STATE_FILE
    saved = _saved(state)
    options = TrainOptions.from_dict(saved["options"])
    if not options.open_ended:
        raise ValueError(f"{state} is not of an open-ended run; only such a run can be cooled down")
    if target.exists():
        return
    saved["options"] = asdict(options.cooled_down(saved["counters"]["step"], steps))
    write_atomically(target, lambda path: torch.save(saved, path))


def _saved(state: Path) -> dict[str, Any]:
    """Return a saved state."""
    saved: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
    return saved


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsfm_pipeline.pretraining.continue_training", description=__doc__
    )
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of the run; it resumes where it was"
    )
    parser.add_argument(
        "--start",
        type=Path,
        default=REGISTRY["bundled"].path,
        help="folder of the release that a new run starts from (the bundled one by default)",
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="start a new run from random weights"
    )
    parser.add_argument("--seed", type=int, help="seed of a new run (4 by default)")
    parser.add_argument("--corpus", help="corpus of a new run (4 by default)")
    parser.add_argument("--learning-rate", type=float, help="rate of a new run (0.001 by default)")
    parser.add_argument(
        "--batch-patches", type=int, help="patches per update of a new run (2048 by default)"
    )
    parser.add_argument(
        "--micro-batches",
        type=int,
        help="parts of an update of a new run, each on one thread (4 by default); 1 puts all "
        "threads on the whole update, which with --compile is twice as fast on an idle machine",
    )
    parser.add_argument(
        "--until", type=int, metavar="STEP", help="end at this step; by default the run has no end"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU worker threads; 0 uses torch's default"
    )
    parser.add_argument("--compile", action="store_true", help="compile the loss first")
    parser.add_argument(
        "--cool-down",
        type=int,
        metavar="STEPS",
        help="lower the rate to zero over so many steps, from a copy of the state",
    )
    parser.add_argument("--into", type=Path, help="folder of the cool-down")
    parser.add_argument(
        "--export", type=Path, help="folder of the release to write at the end of the command"
    )
    options = parser.parse_args(arguments)
    if (options.cool_down is None) != (options.into is None):
        parser.error("--cool-down and --into belong together")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or resume training, with the options of the command line. Return 3 if a signal ended
    the run.
    """
    given = parse(arguments)
    workers = given.threads or torch.get_num_threads()
    one_thread_each()
    device = device_named(given.device)
    folder: Path = given.into or given.state
    state = folder / STATE_FILE
    asked = {name: getattr(given, name) for name in NEW_RUN if getattr(given, name) is not None}
    release: Path | None = None
    with only_run(folder):
        if given.into is not None:
            begin_cool_down(given.state / STATE_FILE, given.cool_down, folder)
        if state.exists():
            options = options_of(state, asked)
        else:
            release = None if given.from_scratch else given.start
            start = checkpoint_digest(release) if release is not None else None
            options = TrainOptions(open_ended=True, start=start, **(NEW_RUN | asked))
        trainer = Trainer(
            options,
            BUNDLED,
            device,
            1 if device.type == "cuda" else workers,
            release=release,
            threads_per_operator=workers if options.micro_batches == 1 else None,
        )
        if state.exists():
            trainer.resume(state)
        if given.compile:
            trainer.compile()
        finished = train_on(trainer, folder, given.state / PAUSE_FILE, Rhythm(until=given.until))
    if finished and given.export is not None:
        from tsfm_pipeline.pretraining.export import export_release

        export_release(state, given.export)
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
