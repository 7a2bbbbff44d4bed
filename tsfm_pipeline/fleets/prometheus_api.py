"""Prometheus' HTTP API: range queries in pages. Passing faults are retried; others raise an error
that says what to do.

What belongs here: requests, their errors and the reading of answers. What does not: choosing the
steps and storing them (`fleets.prometheus_store`).

All times are whole seconds since 1970 UTC, and multiples of the fleet's step, so that every page
lies on one grid.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tenacity.wait import WaitBaseT

from tsfm_pipeline.fleets.kinds import PrometheusFleet
from tsfm_pipeline.fleets.source import FleetDataError

MOST_STEPS = 11_000
"""Most steps that a server answers in one request (its constant: "exceeded maximum resolution of
11,000 points per timeseries").
"""
POINTS_PER_PAGE = 500_000
"""Most steps x series of one answer, which bounds its memory; about 15 MB of JSON."""
SERIES_AT_FIRST = 1_000
"""The number of series for which the pages of a query are sized until a page contains any."""
ATTEMPTS = 5
WAIT = wait_exponential_jitter(initial=1, max=30)
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which another attempt may succeed."""
TOO_MUCH = ("too many samples", "maximum resolution")
"""Words in the errors of servers for a page that exceeds their own limits."""


class _PassingFault(Exception):
    """Raised for an answer after which another attempt may succeed."""


class _PageTooLarge(Exception):
    """Raised where the server refuses to load so much at once."""


@dataclass(frozen=True)
class TenantSteps:
    """The answer of one query for one tenant: steps [n] (index from the page's first step) and
    values [n], NaN where the server says so.
    """

    tenant: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Page:
    """The answer to one range query from `first` to `last` (inclusive, seconds)."""

    first: int
    last: int
    series: list[TenantSteps]
    warnings: tuple[str, ...] = ()


class PrometheusClient:
    """Sends the queries of one fleet file to its server; a context manager that closes its
    connections.
    """

    def __init__(self, spec: PrometheusFleet, *, wait: WaitBaseT = WAIT) -> None:
        """Prepare the connection. Raises `FleetDataError` for a header whose environment variable
        is not set.
        """
        self.spec = spec
        self.step = round(spec.step * 60)
        self.n_requests = 0
        self._wait = wait
        self._n_series: dict[str, int] = {}
        self._page_limit = MOST_STEPS
        self._http = httpx.Client(headers=_headers(spec), timeout=spec.timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def now(self) -> float:
        """Return the time of the server's own clock, which also stamps its samples; this machine's
        clock is not used.
        """
        data = self._ask("query", "the server's time", {"query": "time()"})["data"]
        try:
            return float(data["result"][0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FleetDataError(
                f"{self._where}: its time is {str(data)[:200]!r}; expected a number from the "
                "query time()"
            ) from error

    def pages(self, metric: str, first: int, last: int) -> Iterator[Page]:
        """Yield the answers to the metric's query from `first` to `last`, in pages of as many steps
        as the server and this machine's memory allow.

        Raises `FleetDataError` for a server that does not answer, a query that it refuses, and
        results that name no tenant or name one twice.
        """
        while first <= last:
            n_series = self._n_series.get(metric, SERIES_AT_FIRST)
            n_steps = max(
                1,
                min(self._page_limit, POINTS_PER_PAGE // n_series, (last - first) // self.step + 1),
            )
            end = first + (n_steps - 1) * self.step
            try:
                answer = self._ask_range(metric, first, end)
            except _PageTooLarge as error:
                if n_steps == 1:
                    raise FleetDataError(
                        f"{self._where}, metric {metric!r}: {error}, even for a single step of all "
                        "tenants"
                    ) from error
                self._page_limit = n_steps // 2
                continue
            page = self._read(metric, answer, first, end)
            if page.series:
                self._n_series[metric] = len(page.series)
            yield page
            first = end + self.step

    @property
    def _where(self) -> str:
        return f"fleet {self.spec.name!r}, {self.spec.url}"

    def _ask_range(self, metric: str, first: int, last: int) -> dict[str, Any]:
        parameters = {
            "query": self.spec.queries[metric],
            "start": str(first),
            "end": str(last),
            "step": str(self.step),
            "timeout": f"{self.spec.timeout_seconds:g}",
        }
        return self._ask("query_range", f"metric {metric!r}", parameters)

    def _ask(self, endpoint: str, what: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Return a successful answer, after up to `ATTEMPTS` attempts."""
        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _PassingFault)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._wait,
            reraise=True,
        )
        try:
            return retrying(self._attempt, endpoint, what, parameters)
        except (httpx.TransportError, _PassingFault) as error:
            reason = str(error) or type(error).__name__
            raise FleetDataError(
                f"{self._where}, {what}: no answer after {ATTEMPTS} attempts: {reason}. What was "
                "fetched so far is kept; start again when "
                "the server is there"
            ) from error

    def _attempt(self, endpoint: str, what: str, parameters: dict[str, str]) -> dict[str, Any]:
        self.n_requests += 1
        response = self._http.post(f"{self.spec.url}/api/v1/{endpoint}", data=parameters)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        status, text = response.status_code, f"status {response.status_code}"
        if (
            isinstance(answer, dict)
            and answer.get("status") == "success"
            and isinstance(answer.get("data"), dict)
        ):
            return answer
        if isinstance(answer, dict) and "error" in answer:
            text += f": {answer.get('errorType')}: {answer['error']}"
        if any(words in text for words in TOO_MUCH):
            raise _PageTooLarge(text)
        if status in PASSING:
            raise _PassingFault(text)
        if status in (401, 403):
            text += "; send the server's credentials with headers_from_env"
        if answer is None:
            text += (
                f", not JSON but {response.text[:80]!r}; is {self.spec.url} the address of a "
                "Prometheus server?"
            )
        raise FleetDataError(f"{self._where}, {what}: {text}")

    def _read(self, metric: str, answer: dict[str, Any], first: int, last: int) -> Page:
        where = f"{self._where}, metric {metric!r}"
        data = answer["data"]
        if data.get("resultType") != "matrix":
            raise FleetDataError(
                f"{where}: the result is a {data.get('resultType')!r}; allowed: a query of one "
                "number per tenant and time"
            )
        seen: dict[str, Any] = {}
        series = []
        for result in data.get("result") or ():
            labels, points = result["metric"], result.get("values")
            tenant = labels.get(self.spec.tenant_label, "")
            if not tenant:
                raise FleetDataError(
                    f"{where}: a series without label {self.spec.tenant_label!r}: {labels}; "
                    "allowed: one series per tenant, as in "
                    f"sum by ({self.spec.tenant_label}) (...)"
                )
            if tenant in seen:
                raise FleetDataError(
                    f"{where}: two series of tenant {tenant!r}: {seen[tenant]} and {labels}; "
                    "allowed: one series per tenant, as in "
                    f"sum by ({self.spec.tenant_label}) (...)"
                )
            if points is None:
                raise FleetDataError(
                    f"{where}: tenant {tenant!r} has histograms; allowed: numbers, as from "
                    "histogram_quantile(...)"
                )
            seen[tenant] = labels
            times = np.array([point[0] for point in points], dtype=np.float64)
            steps = np.rint((times - first) / self.step).astype(np.int64)
            off = np.abs(times - first - steps * self.step) > 1e-3
            if off.any() or (times < first).any() or (times > last).any():
                raise FleetDataError(
                    f"{where}: tenant {tenant!r} has times off the requested {self.step}-second "
                    f"grid from {first}"
                )
            series.append(
                TenantSteps(
                    tenant, steps, np.array([point[1] for point in points]).astype(np.float64)
                )
            )
        return Page(first, last, series, tuple(answer.get("warnings", ())))


def _headers(spec: PrometheusFleet) -> dict[str, str]:
    absent = [
        variable
        for variable in spec.headers_from_env.values()
        if not os.environ.get(variable, "").strip()
    ]
    if absent:
        raise FleetDataError(
            f"fleet {spec.name!r}, field 'headers_from_env': environment variable "
            f"{', '.join(absent)} is not set, or empty; it must hold the value of the header"
        )
    headers = {
        header: os.environ[variable].strip() for header, variable in spec.headers_from_env.items()
    }
    for header, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            variable = spec.headers_from_env[header]
            raise FleetDataError(
                f"fleet {spec.name!r}: environment variable {variable} is not a valid header: it "
                "has line breaks or is not ASCII"
            )
    return headers
