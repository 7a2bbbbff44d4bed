"""Which requests a run could ask of a fleet, and of which tenants it could ask none.

What belongs here: findings and counts for people. What does not: the rules for where requests may
lie (`evaluation.requests`), and the table of requests (`steps.requests`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import ROLES
from tsfm_pipeline.fleets.kinds import AnyFleet
from tsfm_pipeline.fleets.quality import EVERYONE, Checked, Finding, check_fleet
from tsfm_pipeline.fleets.source import FleetSource
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.requests import history_needed, sample_requests
from tsfm_pipeline.steps.workloads import grid_of, manifest_of, spans_of

_TENANTS_AT_ONCE = 32


def request_findings(source: FleetSource) -> Iterator[Finding]:
    """Yield the tenants for which some tuning or test requests cannot be asked. A fleet in which no
    request of a role can be asked is unusable: a run refuses it.
    """
    spec, manifest = source.spec, source.manifest()
    needed, spans = history_needed(manifest), spans_of(manifest, source, spec)
    n_origins = spec.origins_per_tenant
    if spec.calendar == "own":
        end = f"the end of the first {spans.tuning_end} steps of its life"
    else:
        end = f"{source.start + spans.tuning_end * source.step:%Y-%m-%d %H:%M}"
    periods = {
        "tuning": f"the period before {end} that is as long as its test period",
        "test": "its test period",
    }
    for role in ROLES:
        room = spans.steps[role][:, 1] - spans.steps[role][:, 0]
        askable = spans.n_askable(role, manifest["first_step"].to_numpy(), needed)
        enough = f"have {needed} steps of history and {spec.horizon} steps after them"
        if not askable.any():
            yield Finding(
                "unusable",
                EVERYONE,
                f"no {role} request of any tenant can be asked: no steps of {periods[role]} "
                f"{enough}",
            )
            continue
        for row in np.flatnonzero(askable < np.maximum(room, n_origins)).tolist():
            which = "not all" if askable[row] else "none"
            room_left = f"{askable[row]} steps of {periods[role]} {enough}"
            yield Finding(
                "excludes",
                manifest["tenant_id"][row],
                f"{which} of its {n_origins} {role} requests can be asked: {room_left}",
            )


def requests_by_basis(source: FleetSource, settings: Settings) -> dict[str, dict[str, int]]:
    """Return how many requests a run would ask: by role, then by what the answers rest on
    (`evaluation.requests.BASES`), and under "" those that cannot be asked.
    """
    grid = grid_of(source)
    manifest = manifest_of(source, grid, settings)

    def tenants() -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
        for numbers in source.shards(_TENANTS_AT_ONCE):
            yield from zip(
                manifest[numbers].iter_rows(named=True), source.values(numbers), strict=True
            )

    requests = sample_requests(source.spec, grid, manifest, tenants(), settings)
    counts = requests.group_by("role", "basis").len()
    return {
        role: dict(counts.filter(pl.col("role") == role).select("basis", "len").iter_rows())
        for role in ROLES
    }


def asked_of(checked: Checked, settings: Settings) -> Mapping[str, Mapping[str, int]]:
    """Return `requests_by_basis` of a fleet that was checked; nothing for one that is unusable."""
    if checked.source is None or checked.worst == "unusable":
        return {}
    return requests_by_basis(checked.source, settings)


def as_checked(
    spec: AnyFleet, settings: Settings
) -> tuple[list[str], Mapping[str, Mapping[str, int]]]:
    """Return why `fleet check` would refuse a new fleet, and its requests (`asked_of`)."""
    checked = check_fleet(spec, fleets_dir=settings.fleet_tables_dir, further=request_findings)
    found = [f"{f.tenant}: {f.problem}" for f in checked.findings if f.severity == "unusable"]
    problems = [*checked.reasons, *(found if checked.source is not None else ())]
    return problems, asked_of(checked, settings)
