"""Requests as a client would send them, for the tests of the service."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tsfm_pipeline.serving.contract import ForecastRequest, Problem
from tsfm_pipeline.serving.errors import problems

AS_OF = datetime(2026, 1, 31, 12, tzinfo=UTC)


def stamp(minutes_before: float) -> str:
    """The text of a time before as_of."""
    return (AS_OF - timedelta(minutes=minutes_before)).isoformat()


def stamps(n: int, step: float = 5, last: float = 0) -> list[str]:
    """Times of n values on a grid; step: minutes; last: minutes from the last one to as_of."""
    return [stamp(last + step * i) for i in range(n - 1, -1, -1)]


def wave(n: int) -> list[float]:
    """n different values in [.1, .9], oldest first."""
    return [round(0.5 + 0.4 * float(np.sin(0.37 * i)), 6) for i in range(n)]


def body(**changes: Any) -> dict[str, Any]:
    """A request with 40 values and these changes; a field that is changed to ... is left out."""
    whole = {"market_id": "web-1/cpu", "as_of_ts": stamp(0), "y": wave(40)} | changes
    return {name: value for name, value in whole.items() if value is not ...}


def request(**changes: Any) -> ForecastRequest:
    return ForecastRequest.model_validate_json(json.dumps(body(**changes)))


def refused(**changes: Any) -> list[Problem]:
    """What is wrong with a request that is refused."""
    with pytest.raises(ValidationError) as caught:
        request(**changes)
    return problems(caught.value)


def quotes(values: Sequence[float | None], **of_each: Any) -> list[dict[str, Any]]:
    """Quotes whose mid is the value, five minutes apart up to as_of; None: without bid and ask."""
    return [
        {"ts": ts} | ({} if mid is None else {"bid": mid - 0.01, "ask": mid + 0.01}) | of_each
        for ts, mid in zip(stamps(len(values)), values, strict=True)
    ]
