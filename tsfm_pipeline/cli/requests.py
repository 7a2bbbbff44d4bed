"""Which tenants of a fleet have room for the requests of a run, judged by their first and last
step.

What belongs here: findings for people. What does not: the rules for where requests may lie
(`evaluation.requests`), values, gaps and single requests.
"""

from collections.abc import Iterator

import numpy as np

from tsfm_pipeline.evaluation.requests import ROLES
from tsfm_pipeline.fleets.quality import EVERYONE, Finding
from tsfm_pipeline.fleets.source import FleetSource
from tsfm_pipeline.steps.requests import history_needed
from tsfm_pipeline.steps.workloads import spans_of


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
