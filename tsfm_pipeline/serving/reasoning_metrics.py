"""What the service counts of models that reason, as Prometheus metrics.

What belongs here: these metrics, with closed sets of labels. What does not: all others (`metrics`,
which registers these in its registry).
"""

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tsfm_pipeline.serving.runtimes import Thought, Verdict

BUCKETS_MS = (50, 100, 200, 300, 400, 500, 750, 1_000, 1_500, 2_500, 5_000)
READ, UNREADABLE = "read", "unreadable"
VALIDATION_REWARD, KL = "validation_reward", "kl_nats_per_token"
MEASURES = {
    VALIDATION_REWARD: "Mean reward on held-out windows at the end of the policy's training",
    KL: "KL divergence per token of the policy from what its training started from",
}
"""What the training of a policy measured, by the key of its config.json."""


class ReasoningMetrics:
    """The metrics of models that reason."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "tsfm_reasoning_answers_total",
            "Answers that a reasoning model gave itself, by whether they could be read",
            ["result"],
            registry=registry,
        )
        self._verdicts = Counter(
            "tsfm_reasoning_forecasts_total",
            "Forecasts of a reasoning model, by what became of its second thoughts",
            ["verdict"],
            registry=registry,
        )
        self._latency = Histogram(
            "tsfm_reasoning_latency_ms",
            "Time that a reasoning model took for one forecast, without its queue",
            buckets=BUCKETS_MS,
            registry=registry,
        )
        self._measures = {
            name: Gauge(f"tsfm_policy_{name}", f"{text}; NaN: unknown", registry=registry)
            for name, text in MEASURES.items()
        }
        for result in (READ, UNREADABLE):
            self._answers.labels(result)
        for verdict in Verdict:
            self._verdicts.labels(verdict.value)
        self.policy({})

    def thought(self, thought: Thought) -> None:
        """Count one forecast."""
        self._answers.labels(READ).inc(thought.answers - thought.unreadable)
        self._answers.labels(UNREADABLE).inc(thought.unreadable)
        self._verdicts.labels(thought.verdict.value).inc()
        self._latency.observe(1e3 * thought.seconds)

    def policy(self, measures: Mapping[str, float]) -> None:
        """Set what the training of the policy in use measured, by the names of `MEASURES`."""
        for name, gauge in self._measures.items():
            gauge.set(measures.get(name, math.nan))
