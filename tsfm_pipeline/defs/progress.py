"""The logger `progress`: it tells a waiting terminal what a run does. A run without it in its
config, such as one from the UI, tells nobody.

What belongs here: turning Dagster's events, and the lake's messages about shards, into
`tsfm_pipeline.progress` events. What does not: showing them (`cli.progress`), Dagster's own log.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from tsfm_pipeline.progress import Event, Kind, append_event

LOGGER = "progress"
ANSWER = "answer"
"""Key of the metadata that holds a report's answer in a sentence."""
_WRITTEN = re.compile(r"\w+: shard \d+ of (?P<total>\d+) written")
_KEPT = re.compile(r"\w+: (?P<kept>\d+) of (?P<total>\d+) shards were already there")
_KINDS: Mapping[dg.DagsterEventType, Kind] = {
    dg.DagsterEventType.RUN_START: "run",
    dg.DagsterEventType.STEP_START: "start",
    dg.DagsterEventType.STEP_SUCCESS: "end",
    dg.DagsterEventType.STEP_UP_FOR_RETRY: "retry",
    dg.DagsterEventType.STEP_FAILURE: "failure",
    dg.DagsterEventType.RUN_FAILURE: "failure",
}
_MOST_COUNTS = 2


def loggers(questions: Mapping[str, str]) -> dict[str, dg.LoggerDefinition]:
    """Return the loggers of a code location: Dagster's own, and `progress`. A run uses those that
    its config names, or else Dagster's own.

    questions: of each asset, what it answers; the first sentence is shown.
    """
    short = {asset: _first_sentence(question) for asset, question in questions.items()}

    @dg.logger(
        config_schema={"path": str},
        description="Appends what a run does to a file, for a terminal that waits for the run.",
    )
    def progress(context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger(LOGGER, logging.DEBUG)
        logger.addHandler(ProgressHandler(Path(context.logger_config["path"]), short))
        return logger

    return {"console": dg.colored_console_logger, LOGGER: progress}


class ProgressHandler(logging.Handler):
    """Appends the events of one process. Each step runs in a process of its own, so that the shards
    and the figure that it remembers are those of one step.
    """

    def __init__(self, path: Path, questions: Mapping[str, str]) -> None:
        super().__init__()
        self.path = path
        self.questions = questions
        self.shards = {"n_done": 0, "n_total": 0, "n_kept": 0}
        self.figure = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Append what the record says, if it concerns a person who waits."""
        about = getattr(record, "dagster_meta", {})
        event, step = about.get("dagster_event"), about.get("step_key") or ""
        if event is None:
            self._count_shards(step, record.created, about.get("orig_message") or "")
        elif event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            self.figure = figure_of({name: value.value for name, value in metadata.items()})
        elif kind := _KINDS.get(event.event_type):
            self._append(kind, step, record.created, event)

    def _count_shards(self, step: str, at: float, message: str) -> None:
        if kept := _KEPT.match(message):
            n_kept = int(kept["kept"])
            self.shards = {"n_done": n_kept, "n_total": int(kept["total"]), "n_kept": n_kept}
        elif written := _WRITTEN.match(message):
            n_done = self.shards["n_done"] + 1
            self.shards |= {"n_done": n_done, "n_total": int(written["total"])}
        else:
            return
        append_event(self.path, Event("shards", at, step, os.getpid(), "", **self.shards))

    def _append(self, kind: Kind, step: str, at: float, event: dg.DagsterEvent) -> None:
        texts = {
            "start": lambda: self.questions.get(step, ""),
            "end": lambda: self.figure,
            "retry": lambda: _message(event.step_retry_data.error),
            "failure": lambda: _failure(event),
        }
        text = texts[kind]() if kind in texts else ""
        counts = self.shards if kind == "end" else {}
        if kind == "run":
            counts = {"n_total": len(self.questions)}
        append_event(self.path, Event(kind, at, step, os.getpid(), text, **counts))


def figure_of(metadata: Mapping[str, Any]) -> str:
    """Return the figure that a step ends with: the first sentence of a report's answer, else the
    first counts that describe a table, else its number of rows, or the size of a page.
    """
    if answer := metadata.get(ANSWER):
        return _first_sentence(str(answer))
    counts = [
        f"{value:,} {name.removeprefix('n_').replace('_', ' ')}"
        for name, value in metadata.items()
        if name.startswith("n_") and not name.startswith("n_shards") and isinstance(value, int)
    ]
    if not counts and "dagster/row_count" in metadata:
        counts = [f"{metadata['dagster/row_count']:,} rows"]
    if not counts and "size_kib" in metadata:
        counts = [f"{metadata['size_kib']:,.0f} KiB"]
    return ", ".join(counts[:_MOST_COUNTS])


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?])\s", " ".join(text.split()), maxsplit=1)[0]


def _failure(event: dg.DagsterEvent) -> str:
    """Return what a person must know of a failed step, or of a run that failed without one."""
    if event.event_type is dg.DagsterEventType.RUN_FAILURE:
        return _message(event.job_failure_data.error)
    data = event.step_failure_data
    described = data.user_failure_data.description if data.user_failure_data else None
    return described or _message(data.error)


def _message(error: Any) -> str:
    """Return the message of the first cause of an error."""
    while error is not None and error.cause is not None:
        error = error.cause
    return "" if error is None else error.message.strip()
