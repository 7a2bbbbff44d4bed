"""Define the second code location: training, release and evaluation of checkpoints.

What belongs here: assets and their configuration. What does not: the work itself, which is in the
other modules of this package. The assets import those modules in their bodies because they load
torch. The location is separate from the fleets' graph so that materialising `*` there never trains
a model.

    dagster asset materialize -m tsfm_pipeline.pretraining.definitions --select \\
        'checkpoint_yardsticks,checkpoint_report'
"""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from tsfm_pipeline.catalogue.moves import move_training_state
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.settings import PROJECT_ROOT, Settings

GROUP = "pretraining"
OWNERS = ["team:forecasting-platform"]
HEAVY = {"tsfm_pipeline/load": "heavy"}
"""Each of these steps uses every core or the GPU, so the executor runs one at a time."""
EMBEDDED = ("bars", "reliability", "context_length")
"""Figures shown in the metadata. The contact sheets are only written as files."""


class CheckpointUnderTest(dg.ConfigurableResource):
    """The checkpoint to measure and the number of origins, for measuring, report and card."""

    checkpoint: str = Field(description="registry name or folder")
    origins_per_series: int = Field(
        ge=2, description="origins per series on the real fleets; fewer for a quick look"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def report_folder(self) -> Path:
        """Return data/reports/checkpoint/<name of the checkpoint>."""
        from tsfm_pipeline.forecaster.registry import find_checkpoint
        from tsfm_pipeline.pretraining.report import report_folder

        return report_folder(find_checkpoint(self.checkpoint)[0].name)


TRAINING_RUN = Settings().records_root / "pretraining" / "run"
"""The state is kept with the records because a clean-up must not delete hours of training. An
export is in the lake because it can be made again from the state.
"""
OLD_TRAINING_RUN = PROJECT_ROOT / "data" / "lake" / ".pretraining" / "run"


class TrainingConfig(dg.Config):
    """A run's length (exactly one of minutes and steps), its seed, and the folder of its state,
    from which it resumes.
    """

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    folder: str = Field(
        str(TRAINING_RUN), description="state and log; the run resumes from an existing state"
    )
    device: str = "auto"
    threads: int = 0
    compile_loss: bool = Field(False, description="pays off for runs of half an hour or more")


class ReleaseConfig(dg.Config):
    """The training state to release, and the folder of the release."""

    state: str = str(TRAINING_RUN / "state.pt")
    folder: str = Field(
        str(PROJECT_ROOT / "data" / "lake" / ".pretraining" / "candidate"),
        description="the folder's name becomes the checkpoint's name",
    )


@dg.asset(group_name=GROUP, owners=OWNERS, op_tags=HEAVY, kinds={"torch"}, code_version="1")
def pretraining_run(
    context: dg.AssetExecutionContext, config: TrainingConfig
) -> dg.MaterializeResult:
    """What does a model learn from the synthetic corpus in the given time? Stopped runs resume
    where they were.
    """
    from tsfm_pipeline.pretraining import train

    with _failures():
        _take_over(Path(config.folder), context)
    arguments = [
        "--folder",
        config.folder,
        "--seed",
        str(config.seed),
        "--device",
        config.device,
        "--threads",
        str(config.threads),
    ]
    arguments += ["--minutes", str(config.minutes)] if config.minutes is not None else []
    arguments += ["--steps", str(config.steps)] if config.steps is not None else []
    if (config.minutes is None) == (config.steps is None):
        raise dg.Failure(
            "give exactly one of minutes and steps: the length of the run decides its schedule",
            allow_retries=False,
        )
    if train.main([*arguments, *(["--compile"] if config.compile_loss else [])]) != 0:
        raise dg.Failure(
            f"the run was stopped early; materialise again to resume from {config.folder}",
            allow_retries=False,
        )
    return dg.MaterializeResult(
        metadata={
            "state": dg.MetadataValue.path(f"{config.folder}/{train.STATE_FILE}"),
            **train.last_losses(Path(config.folder)),
        }
    )


@dg.asset(
    group_name=GROUP, owners=OWNERS, deps=[pretraining_run], kinds={"safetensors"}, code_version="1"
)
def checkpoint_candidate(
    context: dg.AssetExecutionContext, config: ReleaseConfig
) -> dg.MaterializeResult:
    """Which checkpoint comes out of the run? (`python -m tsfm_pipeline.pretraining.release` does
    all of these steps at once.)
    """
    with _failures():
        from tsfm_pipeline.forecaster.registry import find_checkpoint
        from tsfm_pipeline.pretraining.export import export_release

        _take_over(Path(config.state).parent, context)
        folder = export_release(Path(config.state), Path(config.folder))
        info = find_checkpoint(folder)[0]
    return dg.MaterializeResult(
        metadata={
            "folder": dg.MetadataValue.path(str(folder)),
            **info.model_dump(include={"name", "sha256", "n_parameters"}),
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    op_tags=HEAVY,
    deps=[checkpoint_candidate],
    kinds={"torch", "json"},
    code_version="1",
)
def checkpoint_yardsticks(
    context: dg.AssetExecutionContext, under_test: CheckpointUnderTest
) -> dg.MaterializeResult:
    """What does the checkpoint score on published protocols, real fleets, constants and random
    walks, beside the naive methods?
    """
    with _failures():
        from tsfm_pipeline.forecaster import load_forecaster
        from tsfm_pipeline.forecaster.allocator import keep_large_buffers
        from tsfm_pipeline.pretraining.report import write_yardsticks
        from tsfm_pipeline.pretraining.sources import Sources
        from tsfm_pipeline.pretraining.yardsticks import measure

        sources = Sources.from_environment(os.environ)
        keep_large_buffers()
        forecaster = load_forecaster(under_test.checkpoint, device=under_test.device)
        measured = measure(forecaster, sources, under_test.origins_per_series, context.log.info)
        path = write_yardsticks(measured, under_test.report_folder())
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(str(path)),
        "sha256": measured["checkpoint"]["sha256"],
    }
    return dg.MaterializeResult(
        metadata=metadata
        | {f"{name}_s": seconds for name, seconds in measured["durations_s"].items()}
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    deps=[checkpoint_yardsticks],
    kinds={"json", "matplotlib"},
    code_version="1",
)
def checkpoint_report(
    context: dg.AssetExecutionContext, under_test: CheckpointUnderTest
) -> dg.MaterializeResult:
    """Which bars does the checkpoint reach, and by how much are the others missed?"""
    with _failures():
        from tsfm_pipeline.pretraining.report import REPORT_FILE, read_yardsticks, write_report

        folder = under_test.report_folder()
        report = write_report(read_yardsticks(folder), folder)
    metadata: dict[str, Any] = {
        "summary": dg.MetadataValue.md(report["markdown"].partition("\n![")[0]),
        "path": dg.MetadataValue.path(str(folder / REPORT_FILE)),
        "forecasts": dg.MetadataValue.json(
            [str(folder / name) for name in report["figures"] if name.startswith("forecasts")]
        ),
    }
    for name in EMBEDDED:
        encoded = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        metadata[name] = dg.MetadataValue.md(f"![{name}](data:image/png;base64,{encoded})")
    return dg.MaterializeResult(
        metadata=metadata | {bar["id"]: bar["figure"] for bar in report["bars"]}
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    deps=[checkpoint_yardsticks],
    kinds={"markdown"},
    code_version="1",
)
def model_card(
    context: dg.AssetExecutionContext, under_test: CheckpointUnderTest
) -> dg.MaterializeResult:
    """What must somebody know who uses the checkpoint? Written beside its weights, from what was
    measured on these very weights.
    """
    with _failures():
        from tsfm_pipeline.forecaster.registry import find_checkpoint
        from tsfm_pipeline.pretraining.card import write_card
        from tsfm_pipeline.pretraining.report import read_yardsticks

        path = write_card(
            find_checkpoint(under_test.checkpoint)[2].parent,
            read_yardsticks(under_test.report_folder()),
        )
    return dg.MaterializeResult(
        metadata={
            "card": dg.MetadataValue.md(path.read_text(encoding="utf-8")),
            "path": dg.MetadataValue.path(str(path)),
        }
    )


def _take_over(folder: Path, context: dg.AssetExecutionContext) -> None:
    """Move the training run of an earlier release out of the lake. Do this only if `folder` is the
    default folder of runs.
    """
    if folder == TRAINING_RUN:
        move_training_state(OLD_TRAINING_RUN, TRAINING_RUN, context.log.info)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn errors that a person must fix (missing data, an unusable checkpoint, naive rows that do
    not reproduce) into a `dg.Failure` without retries.
    """
    try:
        yield
    except (StorageError, ValueError, FileNotFoundError, AssertionError) as error:
        raise dg.Failure(
            description=str(error), metadata={"kind": type(error).__name__}, allow_retries=False
        ) from error


defs = dg.Definitions(
    assets=[
        pretraining_run,
        checkpoint_candidate,
        checkpoint_yardsticks,
        checkpoint_report,
        model_card,
    ],
    resources={"under_test": CheckpointUnderTest(checkpoint="bundled", origins_per_series=200)},
    executor=dg.in_process_executor,
)
