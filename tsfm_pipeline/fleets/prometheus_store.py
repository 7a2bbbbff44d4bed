"""The samples fetched from a Prometheus server.

What belongs here: which folder holds them, and turning a server's answers into rows. What does not:
requests and their errors (`fleets.prometheus_api`), choosing the steps and storing them
(`fleets.fetched_days`), the fleet that is read from the files (`fleets.prometheus`).

Where the server has no value (staleness, a target that was down) there is no row, or null;
infinities are stored as null and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.fleets.fetched_days import Fetched, Refreshed, refresh_days
from tsfm_pipeline.fleets.kinds import PrometheusFleet
from tsfm_pipeline.fleets.prometheus_api import WAIT, Page, PrometheusClient


def store_of(spec: PrometheusFleet, raw_dir: Path) -> Path:
    """Return the folder of all samples fetched with this address, these queries, this label and
    this step.
    """
    digest = fingerprint(spec.url, sorted(spec.queries.items()), spec.tenant_label, spec.step)
    return raw_dir / f"prometheus-{digest}"


def refresh(
    spec: PrometheusFleet,
    raw_dir: Path,
    *,
    always: bool = False,
    log: Callable[[str], Any] = lambda _: None,
    connect: Callable[[PrometheusFleet], PrometheusClient] = lambda spec: PrometheusClient(
        spec, wait=WAIT
    ),
) -> Refreshed:
    """Fetch newer steps as `fetched_days.refresh_days` does; raises as it and
    `PrometheusClient.pages` do.
    """
    with connect(spec) as client:
        return refresh_days(
            spec,
            store_of(spec, raw_dir),
            _Samples(spec, client),
            step=client.step,
            always=always,
            log=log,
        )


@dataclass(frozen=True)
class _Samples:
    """A Prometheus server as `refresh_days` asks it."""

    spec: PrometheusFleet
    client: PrometheusClient
    order: tuple[str, ...] = ("tenant_id", "timestamp")

    @property
    def name(self) -> str:
        return self.spec.url

    @property
    def n_requests(self) -> int:
        return self.client.n_requests

    def now(self) -> float:
        return self.client.now()

    def fetch(self, spans: Sequence[tuple[int, int]]) -> Iterator[Fetched]:
        for begin, end in spans:
            pages = {
                metric: list(self.client.pages(metric, begin, end))
                for metric in sorted(self.spec.queries)
            }
            warnings = dict.fromkeys(
                f"{metric}: {text}"
                for metric, answers in pages.items()
                for page in answers
                for text in page.warnings
            )
            rows, n_infinite = _rows(pages, begin, end, self.client.step)
            yield Fetched(rows.sort(self.order), n_infinite, tuple(warnings))


def _rows(
    pages: dict[str, list[Page]], begin: int, end: int, step: int
) -> tuple[pl.DataFrame, int]:
    """Return rows (tenant_id, timestamp, one column per metric) of all steps with at least one
    value, and how many values were infinite.
    """
    tenants = sorted(
        {series.tenant for answers in pages.values() for page in answers for series in page.series}
    )
    number = {tenant: i for i, tenant in enumerate(tenants)}
    values = np.full(
        (len(tenants), (end - begin) // step + 1, len(pages)), np.nan, dtype=np.float32
    )
    for d, answers in enumerate(pages.values()):
        for page in answers:
            for series in page.series:
                with np.errstate(over="ignore"):
                    values[
                        number[series.tenant], (page.first - begin) // step + series.steps, d
                    ] = series.values
    infinite = np.isinf(values)
    values[infinite] = np.nan
    tenant, at = np.nonzero(~np.isnan(values).all(axis=2))
    columns: dict[str, pl.Series] = {
        "tenant_id": pl.Series(tenants, dtype=pl.String).gather(tenant),
        "timestamp": pl.Series((begin + at * step) * 1_000_000)
        .cast(pl.Datetime("us"))
        .dt.replace_time_zone("UTC"),
        **{
            metric: pl.Series(values[tenant, at, d]).fill_nan(None)
            for d, metric in enumerate(pages)
        },
    }
    return pl.DataFrame(columns), int(infinite.sum())
