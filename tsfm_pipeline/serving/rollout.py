"""Which market the model answers while a rollout is under way.

What belongs here: a market's place in [0, 1), and the route that follows from a decision. What does
not: making the decision (`evaluation.rollout`), and reading the published file (`published`).
"""

from hashlib import blake2b
from typing import Literal

from tsfm_pipeline.evaluation.rollout import RolloutDecision
from tsfm_pipeline.serving.contract import RolloutStage

_PLACES = 10_000


def share_of(market_id: str) -> float:
    """Return the market's place in [0, 1): the same in every process and release.

    A share of p percent holds the markets below p / 100, so a market that belongs to a share
    belongs to every larger one.
    """
    digest = blake2b(market_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _PLACES / _PLACES


class Rollout:
    """Obeys the published decision, or none if it is off. mode: as `RouteSettings.rollout`."""

    def __init__(self, mode: Literal["off", "published"]) -> None:
        self._mode = mode

    def stage(self, decision: RolloutDecision | None) -> RolloutStage:
        """Return the stage, for answers and records. Shadow until there is a decision."""
        if self._mode == "off":
            return "off"
        return "shadow" if decision is None else decision.stage

    def route(
        self, market_id: str, decision: RolloutDecision | None
    ) -> Literal["model", "baseline", "shadow"]:
        """Return who answers: the model, a baseline, or a baseline while the model is tried."""
        stage = self.stage(decision)
        if stage == "off":
            return "model"
        if stage == "shadow" or decision is None:
            return "shadow"
        return "model" if share_of(market_id) < decision.percent / 100 else "baseline"
