"""Write the report of a checkpoint: JSON, markdown and figures in one folder.

What belongs here: assembling the report and writing its files. What does not: measuring
(`yardsticks`), the content of tables (`tables`) and figures (`figures`), and the model card
(`card`).
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from tsfm_pipeline.files import write_atomically, write_text_atomically
from tsfm_pipeline.pretraining import figures, tables
from tsfm_pipeline.pretraining.bars import judge
from tsfm_pipeline.pretraining.wording import (
    context_sentences,
    reproduction_sentences,
    summary_sentence,
)
from tsfm_pipeline.reports.shared.markdown import table_markdown
from tsfm_pipeline.reports.shared.style import to_png
from tsfm_pipeline.settings import Settings

YARDSTICKS_FILE, REPORT_FILE, MARKDOWN_FILE = (
    "checkpoint_yardsticks.json",
    "checkpoint_report.json",
    "checkpoint_report.md",
)


def report_folder(checkpoint: str) -> Path:
    """Return the report folder of the checkpoint with this name: data/reports/checkpoint/<name>."""
    return Settings().reports_dir / "checkpoint" / checkpoint


def write_yardsticks(measured: dict[str, Any], folder: Path) -> Path:
    """Write the measured yardsticks into `folder` and return the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / YARDSTICKS_FILE
    write_text_atomically(path, json.dumps(measured) + "\n")
    return path


def read_yardsticks(folder: Path) -> dict[str, Any]:
    """Return the measured yardsticks in `folder`. Raises FileNotFoundError, naming the command to
    run, if there are none.
    """
    path = folder / YARDSTICKS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; materialise checkpoint_yardsticks, or run "
            "tsfm_pipeline.pretraining.yardsticks"
        )
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def read_variant(folder: Path) -> dict[str, Any]:
    """Return the figures of the bars from the report in `folder`, for the card of another
    checkpoint.
    """
    measured = read_yardsticks(folder)
    return {
        "figures": {bar["id"]: bar["figure"] for bar in judge(measured)},
        "n_origins_per_series": measured["n_origins_per_series"],
    }


def write_report(measured: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write yardsticks, JSON, markdown and PNGs into `folder`. Return the report (bars, text, names
    of the figures).
    """
    write_yardsticks(measured, folder)
    bars = judge(measured)
    drawn = {
        "bars": figures.bars_figure(bars),
        "reliability": figures.reliability_figure(measured),
        "context_length": figures.context_figure(measured),
        **{
            f"forecasts_{i + 1}": page
            for i, page in enumerate(figures.gallery_pages(measured["gallery"]))
        },
    }
    for name, figure in drawn.items():
        content = to_png(figure, dpi=110)
        write_atomically(folder / f"{name}.png", partial(Path.write_bytes, data=content))
    text = report_markdown(measured, bars) + "".join(f"\n![{name}]({name}.png)\n" for name in drawn)
    write_text_atomically(folder / MARKDOWN_FILE, text)
    report = {key: value for key, value in measured.items() if key != "gallery"} | {
        "bars": bars,
        "figures": [f"{name}.png" for name in drawn],
    }
    write_text_atomically(folder / REPORT_FILE, json.dumps(report, indent=1) + "\n")
    return report | {"markdown": text}


def report_markdown(measured: dict[str, Any], bars: list[dict[str, Any]]) -> str:
    """Return all tables as markdown, with the choice of context and the reproduced figures."""
    blocks = [
        f"# Checkpoint report: `{measured['checkpoint']['name']}`",
        summary_sentence(bars),
        table_markdown(tables.bars_table(bars)),
    ]
    blocks += [context_sentences(measured), reproduction_sentences(measured)]
    shown = (
        tables.published_table,
        tables.fleets_table,
        tables.metrics_table,
        tables.calibration_table,
        tables.length_table,
        tables.behaviour_table,
    )
    blocks += [table_markdown(make(measured)) for make in shown]
    if measured.get("further"):
        blocks.append(table_markdown(tables.further_table(measured)))
    durations = ", ".join(
        f"{name} {seconds:g} s" for name, seconds in measured["durations_s"].items()
    )
    blocks.append(
        f"Measured on {measured['device']} with {measured['n_threads']} thread(s): {durations}."
    )
    return "\n\n".join(blocks) + "\n"
