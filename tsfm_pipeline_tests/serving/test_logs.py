"""Test the service's log: one JSON object per line, whatever a client sent.

What belongs here: `serving.logs`. What does not: what the service logs when (`test_service`).
"""

import io
import json
import logging
import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.serving.logs import FIELDS, MAX_LINES, MAX_TEXT, Background, JsonFormatter


def _line(message: str, **fields: object) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info(message, extra={FIELDS: fields})
    return stream.getvalue()


@given(st.text(), st.text())
def test_no_text_of_a_client_begins_a_new_line(message: str, market: str) -> None:
    line = (
        _line("%s", market_id=market)
        if not message
        else _line(message.replace("%", "%%"), market_id=market)
    )
    assert line.count("\n") == 1
    assert line.isprintable() or line[:-1].isprintable()
    read = json.loads(line)
    assert read["market_id"] == (market if len(market) <= MAX_TEXT else f"{market[:MAX_TEXT]}...")


def test_a_number_that_json_does_not_have_is_null() -> None:
    assert json.loads(_line("answered", share_missing=float("nan")))["share_missing"] is None


def test_an_exception_is_part_of_its_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: two" in json.loads(line)["error"]


def test_a_reader_of_the_log_that_stands_still_stops_nobody() -> None:
    reading, writing = os.pipe()
    lines: list[dict[str, str]] = []
    with os.fdopen(reading) as log:
        reader = threading.Thread(target=lambda: lines.extend(map(json.loads, log)))
        with os.fdopen(writing, "w") as stream:
            handler = Background(stream)
            sent = MAX_LINES + 2_000
            for number in range(sent):
                handler.emit(logging.makeLogRecord({"msg": f"line {number} {'x' * 100}"}))
            assert handler.dropped > 0
            reader.start()
            handler.close()
        reader.join(30)
    said = [line["message"] for line in lines if line["level"] == "warning"]
    own = [line["message"] for line in lines if line["message"].startswith("line ")]
    assert all(each.endswith("lines were dropped: the log is read too slowly") for each in said)
    assert sum(int(each.split()[0]) for each in said) == handler.dropped == sent - len(own)
    assert [message.split()[1] for message in own[:3]] == ["0", "1", "2"]
