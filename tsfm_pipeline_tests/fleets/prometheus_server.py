"""Serve the part of Prometheus' API that a fleet uses, with a clock and faults that a test sets.

What belongs here: answers and refusals in the server's own words. What does not: what any test
expects of the client.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port

HOUR_S = 3600
START = 1_709_510_400
"""Monday, 2024-03-04 00:00 UTC."""
NEWEST = START + 10 * 86_400
"""The newest step by the clock that the server has at first, half an hour later."""
TOO_MANY_POINTS = (
    "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing "
    "the query resolution (?step=XX)"
)
TOO_MANY_SAMPLES = "query processing would load too many samples into memory in query execution"


def daily(tenant: str, time: float) -> float:
    """A value that follows the day, different for every tenant."""
    return len(tenant) + int(tenant[-1], 36) + math.sin(2 * math.pi * time / 86_400)


@dataclass
class FakePrometheus:
    """`series`: query -> list of (labels, value at a time, or None where there is none); `faults`
    are used up one per request.
    """

    series: dict[str, list[tuple[dict[str, str], Callable[[float], float | None]]]]
    clock: float = NEWEST + 1800
    faults: list[object] = field(default_factory=list)
    most_samples: float = math.inf
    warnings: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[tuple[str, int, int]]:
        """(query, start, end) of every range request."""
        return [
            (request["query"], int(request["start"]), int(request["end"]))
            for request in self.requests
            if "start" in request
        ]

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, object]:
        if path.endswith("/api/v1/query"):
            return 200, {
                "status": "success",
                "data": {"resultType": "scalar", "result": [self.clock, str(self.clock)]},
            }
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        series = self.series.get(form["query"], [])
        if (end - start) / step > 11_000:
            return 400, {"status": "error", "errorType": "bad_data", "error": TOO_MANY_POINTS}
        if ((end - start) // step + 1) * len(series) > self.most_samples:
            return 422, {"status": "error", "errorType": "execution", "error": TOO_MANY_SAMPLES}
        times = [start + i * step for i in range(int((end - start) // step) + 1)]
        result = []
        for labels, value in series:
            points = [
                [time, _text(at)]
                for time in times
                if time <= self.clock and (at := value(time)) is not None
            ]
            if points:
                result.append({"metric": labels, "values": points})
        data = {"resultType": "matrix", "result": result}
        return 200, {
            "status": "success",
            "data": data,
            **({"warnings": self.warnings} if self.warnings else {}),
        }


def _text(value: float) -> str:
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(
        value, "NaN" if math.isnan(value) else repr(value)
    )


@contextmanager
def serving(prometheus: FakePrometheus) -> Iterator[FakePrometheus]:
    """The server on a free port of this machine; its address is `prometheus.url`."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            prometheus.requests.append(form)
            prometheus.headers.append(dict(self.headers))
            fault = prometheus.faults.pop(0) if prometheus.faults else None
            if fault == "drop":
                self.connection.close()
                return
            status, content = prometheus.answer(self.path, form)
            if isinstance(fault, tuple):
                status, content = fault
            elif isinstance(fault, int):
                status, content = (
                    fault,
                    {"status": "error", "errorType": "unavailable", "error": f"fault {fault}"},
                )
            text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with on_free_port(Handler) as port:
        prometheus.url = f"http://127.0.0.1:{port}"
        yield prometheus
