"""The service's log: one JSON object per line on standard output.

What belongs here: the format of a line, and setting up logging for the service and its web server.
What does not: what happened (the caller says that), and metrics.

A line never holds the values of a series, a token or a header. Text that came from a client is
JSON-encoded, so that it cannot begin a new line.
"""

import json
import logging
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("tsfm_pipeline.serving")
FIELDS = "fields"
"""Name of the attribute of a log record that holds further fields: `extra={FIELDS: {...}}`."""
_UVICORN = ("uvicorn", "uvicorn.error")
MAX_TEXT = 500
MAX_LINES = 10_000
"""Lines that wait to be written."""
CLOSE_S = 2.0


class JsonFormatter(logging.Formatter):
    """Format a record as one line of JSON: time, level, logger, message, then its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; control characters are escaped by JSON itself."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: _short(value) for name, value in getattr(record, FIELDS, {}).items()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class Background(logging.Handler):
    """Writes lines in a thread of its own, so that whoever reads the log and stands still stops no
    request. Lines that do not fit into the queue are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        self._target = logging.StreamHandler(stream)
        self._target.setFormatter(JsonFormatter())
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for `CLOSE_S` at most; `logging` calls this when the process ends."""
        try:
            self._records.put(None, timeout=CLOSE_S)
        except queue.Full:
            self.dropped += self._records.qsize()
        else:
            self._thread.join(CLOSE_S)
        super().close()

    def _run(self) -> None:
        told = 0
        while (record := self._records.get()) is not None:
            self._target.handle(record)
            if self.dropped > told:
                lost, told = self.dropped - told, self.dropped
                text = f"{lost} lines were dropped: the log is read too slowly"
                self._target.handle(
                    logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None)
                )


def configure_logging(level: int | str = logging.INFO) -> None:
    """Send the service's and uvicorn's records to standard output as JSON.

    uvicorn's own access log is turned off: the service logs each answer with more in it.
    """
    handler = Background(sys.stdout)
    for name in (LOGGER.name, *_UVICORN):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate, access.disabled = [], False, True


def log_answer(**fields: Any) -> None:
    """Log one answer. Fields are those of docs/serving.md: request_id, market_id, as_of, status,
    runtime, model, version, input_len, share_missing, route, fallback_reason, warnings, latency_ms.
    """
    LOGGER.info("answered", extra={FIELDS: fields})


def _short(value: Any) -> Any:
    """Return a value as JSON can hold it, with long texts cut."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}..."
    if isinstance(value, float) and value != value:
        return None
    return value
