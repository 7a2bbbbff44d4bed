"""Turn a training state into a released, measured checkpoint: `python -m
tsfm_pipeline.pretraining.release STATE FOLDER`.

What belongs here: the order of export, evaluation, report and card. What does not: the steps
themselves. The release folder changes only after all of them have succeeded.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.allocator import keep_large_buffers
from tsfm_pipeline.forecaster.registry import CONFIG_FILE, WEIGHTS_FILE
from tsfm_pipeline.pretraining.card import CARD_FILE, write_card
from tsfm_pipeline.pretraining.export import export_release
from tsfm_pipeline.pretraining.report import read_variant, report_folder, write_report
from tsfm_pipeline.pretraining.sources import Sources
from tsfm_pipeline.pretraining.wording import summary_sentence
from tsfm_pipeline.pretraining.yardsticks import N_ORIGINS, measure


def release(
    state: Path,
    folder: Path,
    sources: Sources,
    n_origins: int = N_ORIGINS,
    tried: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Export a state, measure it, and write its report and card; then replace the release in
    `folder`. Return the report.

    tried: label -> report folder of each variant that the card lists.
    """
    folder = folder.absolute()
    variants = {label: read_variant(path) for label, path in (tried or {}).items()}
    staging = folder.with_name(f".{folder.name}.release")
    try:
        export_release(state, staging, folder.name)
        measured = measure(load_forecaster(staging), sources, n_origins) | {"tried": variants}
        report = write_report(measured, report_folder(folder.name))
        write_card(staging, measured)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Release the state that the command line names, and print the measured figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tsfm_pipeline.pretraining.release", description=__doc__
    )
    parser.add_argument("state", type=Path, help="state.pt of a training folder")
    parser.add_argument(
        "folder",
        type=Path,
        help="release folder, e.g. data/checkpoints/bundled; its name becomes the checkpoint's",
    )
    parser.add_argument(
        "--origins", type=int, default=N_ORIGINS, help="origins per series; fewer for a quick look"
    )
    parser.add_argument(
        "--tried",
        nargs=2,
        action="append",
        default=[],
        metavar=("LABEL", "FOLDER"),
        help="label and report folder of a variant that the card lists",
    )
    options = parser.parse_args(arguments)
    keep_large_buffers()
    tried = {label: Path(path) for label, path in options.tried}
    report = release(
        options.state, options.folder, Sources.from_environment(), options.origins, tried
    )
    print(
        json.dumps(
            {bar["id"]: [round(bar["figure"], 4), bar["verdict"]] for bar in report["bars"]},
            indent=1,
        )
    )
    print(
        f"{summary_sentence(report['bars'])} Report: "
        f"{report_folder(options.folder.absolute().name)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
