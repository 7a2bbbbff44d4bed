"""The results of experiments: what one policy cost on the tuning requests of some fleets.

What belongs here: the records that experiment, ledger, promotion and report exchange. What does
not: computing them (`evaluation`), comparing two of them (`judging`, `promotion`).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.evaluation.protocol import headline_tier

Status = Literal["keep", "discard", "crash", "timeout"]


class FleetResult(BaseModel):
    """One policy on one fleet: mean scaled losses of each tenant under cross-fitted constants.

    folds: the folds of tuning tenants that were scored, each with constants fitted on the tenants
    of all other folds. share: the share of their requests. tenants [n]: positions among those of
    `FleetRows`; groups [n]: their archetypes, "" where unknown. losses {tier: [n]}, in the order of
    the fleet's tiers: mean scaled loss over the tenant's series and requests; fixed {tier: [n]}:
    the same of the fixed configuration that the same tenants chose. mae: mean scaled absolute error
    of the median.
    tokens: of one request with all its metrics. p50_ms, p95_ms: of one request, as the yardstick's
    line over tokens predicts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    fleet: str
    folds: tuple[int, ...]
    share: float
    tenants: tuple[int, ...]
    groups: tuple[str, ...]
    losses: dict[str, tuple[float, ...]]
    fixed: dict[str, tuple[float, ...]]
    mae: float
    tokens: float
    p50_ms: float
    p95_ms: float

    @property
    def headline_tier(self) -> str:
        """The tier whose mean scaled loss is the metric: `standard`, or the middle one of a fleet
        that has none of this name. The other tiers are guards.
        """
        return headline_tier(self.losses)

    def loss(self, tier: str | None = None) -> NDArray[np.float64]:
        """Return the mean scaled loss of each tenant [n] at a tier, by default the headline one."""
        return np.asarray(self.losses[tier or self.headline_tier], dtype=np.float64)


class Outcome(BaseModel):
    """How the process of one experiment ended.

    status: None if it finished; judging then says keep or discard. results: one per fleet, of the
    last stage that was reached. screened_out: the full folds were not evaluated, because the first
    third of the requests cost more than the incumbent. message: of a crash or a timeout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    status: Literal["crash", "timeout"] | None
    results: tuple[FleetResult, ...] = ()
    screening: tuple[FleetResult, ...] = ()
    screened_out: bool = False
    seconds: float
    peak_mib: float
    message: str = ""
