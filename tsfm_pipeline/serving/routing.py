"""Who is asked for a forecast: the model or a baseline.

What belongs here: the policy of the settings and the rollout's decision for one request. What does
not: how a rollout advances (`evaluation.rollout`), and reasons that lie in the series itself
(`preparation`).
"""

from collections.abc import Mapping

from tsfm_pipeline.evaluation.conformal import segments_of
from tsfm_pipeline.evaluation.rollout import RolloutDecision
from tsfm_pipeline.serving.contract import RolloutStage, Route
from tsfm_pipeline.serving.metrics import Reason
from tsfm_pipeline.serving.rollout import Rollout
from tsfm_pipeline.serving.settings import RouteSettings

DEFAULT = "default"
POLICY_BASELINE = "policy_default_baseline"
POLICY_SEGMENT = "policy_segment_enabled"
ROLLOUT = "rollout"


class Routing:
    """The route of each request.

    A segment of the settings, or their default, says whether the model may answer at all. Where it
    may and the rollout is obeyed, the rollout says whether this market is among those that the
    model answers by now.
    """

    def __init__(self, settings: RouteSettings) -> None:
        """Raises ValueError for a segment that is no `name=value|name=value`."""
        self._default, self._rollout = settings.default, Rollout(settings.rollout)
        self._segments = {key: segments_of(key) for key in settings.model_segments}
        for key, parts in self._segments.items():
            if not parts or len(parts) != key.count("|") + 1:
                raise ValueError(
                    f"route.model_segments: {key!r} names no segment; allowed: name=value, joined "
                    "by |, as in category=politics|liquidity_bucket=high"
                )

    def route(
        self, market_id: str, segments: Mapping[str, str], decision: RolloutDecision | None
    ) -> Route:
        """Return who is asked. segments: of the request, by name. decision: the fleet's, if any."""
        enabled, stage = self._enabled(segments), self.stage(decision)
        if enabled is None and self._default == "baseline":
            return Route(selected="baseline", reason=POLICY_BASELINE, stage=stage)
        if stage != "off":
            selected = self._rollout.route(market_id, decision)
            return Route(selected=selected, reason=ROLLOUT, stage=stage, segment=enabled)
        reason = DEFAULT if enabled is None else POLICY_SEGMENT
        return Route(selected="model", reason=reason, segment=enabled)

    def stage(self, decision: RolloutDecision | None) -> RolloutStage:
        """Return the stage of the rollout."""
        return self._rollout.stage(decision)

    def _enabled(self, segments: Mapping[str, str]) -> str | None:
        """Return the key of the first segment of the settings that the request lies in."""
        for key, parts in self._segments.items():
            if all(segments.get(name) == value for name, value in parts.items()):
                return key
        return None


def reason_of(route: Route) -> Reason:
    """Return why a baseline answers on this route."""
    if route.reason == POLICY_BASELINE:
        return Reason.ROUTE_POLICY
    return Reason.SHADOW if route.selected == "shadow" else Reason.ROLLOUT
