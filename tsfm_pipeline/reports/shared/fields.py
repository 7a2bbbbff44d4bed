"""Fields that mean the same in every report and table that has them.

What belongs here: the unit and the meaning of each such key. What does not: fields of a single
report (its `model`).
"""

from typing import Any

from tsfm_pipeline.reports.shared.model import item

_MEANINGS: dict[str, tuple[str, str]] = {
    "tier": ("", "SLA tier"),
    "scope": ("", "all, or what the groups are: archetype, tenant or metric"),
    "scope_value": ("", "which group"),
    "method": ("", "baseline, rival, single configuration or search"),
    "metric": ("", "which of the tenant's metrics"),
    "config": (
        "",
        "configuration: context in steps; resolution, season, transform if there is one",
    ),
    "tenant_id": ("", "the tenant's name in its source"),
    "archetype": ("", "archetype, null where unknown"),
    "mean_scaled_loss": ("units of the scale", "mean over requests of the scaled loss"),
    "mean_scaled_slack": ("units of the scale", "mean over requests of slack over scale"),
    "mean_scaled_crps": ("units of the scale", "mean over requests of CRPS over scale"),
    "ratio": ("ratio", "of mean scaled loss to the fixed configuration's"),
    "win_rate": ("share", "share of requests won against the fixed configuration, ties half"),
    "violation_rate": ("share", "share of observed steps above the decision"),
    "violation_rate_target": ("share", "1 - alpha"),
    "loss": ("units of the metric", "mean pinball loss at the tier's alpha"),
    "slack": ("units of the metric", "mean reserved but unused"),
    "shortfall": ("units of the metric", "mean used but not reserved"),
    "n_requests": ("count", "paired requests"),
    "n_tenants": ("count", "tenants of these requests"),
    "n_days": ("count", "days of these requests"),
    "n_failed": ("count", "valid requests for which the method has no forecast"),
}


def common(key: str) -> Any:
    """Declare a field with the same meaning in every report. Raises `KeyError` for other keys."""
    return item(*_MEANINGS[key])
