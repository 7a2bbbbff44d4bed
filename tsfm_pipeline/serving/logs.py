"""The service's log: one JSON object per line on standard output.

What belongs here: the format of a line, and setting up logging for the service and its web server.
What does not: what happened (the caller says that), and metrics.

A line never holds the values of a series, a token or a header. Text that came from a client is
JSON-encoded, so that it cannot begin a new line.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("tsfm_pipeline.serving")
FIELDS = "fields"
"""Name of the attribute of a log record that holds further fields: `extra={FIELDS: {...}}`."""
_UVICORN = ("uvicorn", "uvicorn.error")
MAX_TEXT = 500


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


def configure_logging(level: int | str = logging.INFO) -> None:
    """Send the service's and uvicorn's records to standard output as JSON.

    uvicorn's own access log is turned off: the service logs each answer with more in it.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
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
