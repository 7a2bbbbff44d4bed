"""Whether a fleet's tenants have room for the requests that a run asks; the arithmetic of `stages.forecasts.forecast_requests`.

What belongs here: spans of steps. What does not: values, gaps and single requests.
"""

from collections.abc import Iterator

from tsfm_pipeline.evaluation.requests import test_period
from tsfm_pipeline.fleets.quality import Finding
from tsfm_pipeline.fleets.source import FleetSource


def request_findings(source: FleetSource) -> Iterator[Finding]:
    """Tenants without room for their origins before or within the test period: a run refuses such a fleet."""
    spec = source.spec
    spans = source.manifest().select("tenant_id", "first_step", "last_step").rows()
    starts = [test_period(first, last, source.steps_per_day) for _, first, last in spans]
    tuning_end, earliest = min(zip(starts, (tenant for tenant, _, _ in spans), strict=True))
    needed = spec.origins_per_tenant + spec.horizon
    remedy = "leave it out, or lower origins_per_tenant or horizon"
    for (tenant, first, last), start in zip(spans, starts, strict=True):
        begin = max(first, tuning_end - (last + 1 - start))
        if last + 1 - start < needed - 1:
            yield Finding("unusable", tenant, f"a test period of {last + 1 - start} steps; requests need {needed - 1}: {remedy}")
        if begin < 1 or tuning_end - begin < needed - 1:
            room = f"{max(0, tuning_end - begin)} steps of history before the fleet's first test period ({earliest!r} has it)"
            yield Finding("unusable", tenant, f"{room}; requests that the search is tuned on need {needed}: leave one of the two out")
