"""The figures of the study's report: what was tried, what it cost, and what became of it.

What belongs here: their names, units and meanings. What does not: computing (`numbers`,
`importance`), wording (`words`) and drawing (`figures`) them.
"""

from datetime import datetime
from typing import Literal

from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, item, table

End = Literal["keep", "discard", "screened out", "crash", "timeout"]
"""How an experiment may end: the ledger's statuses, with `discard` told apart by its stage."""


class ExperimentRow(Figures):
    """One line of the ledger."""

    number: int = item("count", "its place in the ledger, from 1")
    time: datetime = item("", "when it was appended, UTC")
    experiment: str = item("", "its name in the ledger")
    policy: str = item("", "digest of its policy, empty for a proposal that was none")
    parent: str = item("", "digest of the policy that it was made from")
    driver: str = item("", "who proposed it")
    end: End = item("", "keep, discard, screened out, crash or timeout")
    objective: Number = item(
        "ratio",
        "loss to that of the default policy on the choosing folds, geometric mean of fleets",
    )
    p95_ms: Number = item("ms", "p95 latency of one request, predicted from its tokens")
    tokens: Number = item("count", "tokens of one request")
    seconds: Number = item("s", "that it took")
    n_changes: int = item("count", "fields that differ from the default")
    changes: str = item("", "those fields, as JSON")
    description: str = item("", "what the driver said about it")
    on_front: bool = item(
        "true or false", "whether no finished policy has both a lower objective and a lower p95"
    )


class ImportanceRow(Figures):
    """How much of the order of experiments depends on one field."""

    field: str = item("", "the field of the search's settings")
    importance: Estimate = item(
        "share",
        "drop of the forest's R2 on held-out experiments when the field's values are shuffled",
    )


class FieldRow(Figures):
    """What became of the experiments that moved one field away from its value in their parent, the
    policy that they were made from. Many of them moved other fields too.
    """

    field: str = item("", "the field of the search's settings")
    n_tried: int = item("count", "experiments that moved it")
    n_values: int = item("count", "different values among them")
    n_finished: int = item("count", "of these experiments, ran on all requests")
    n_kept: int = item("count", "of these experiments, kept")
    n_failed: int = item("count", "of these experiments, crashed or timed out")
    median_ratio: Number = item("ratio", "median objective of the finished ones to their parent's")
    best_ratio: Number = item("ratio", "lowest of these ratios")
    best_value: str | None = item("", "the field's value where the ratio is lowest, as JSON")


class PromotionRow(Figures):
    """One kept policy that was compared with the promoted one on the confirming folds."""

    number: int = item("count", "its place among the comparisons, from 1")
    time: datetime = item("", "when it was judged, UTC")
    challenger: str = item("", "digest of the kept policy")
    replaced: str = item("", "digest of the policy that was promoted until then")
    promoted: bool = item("true or false", "whether it took that policy's place")
    n_experiments: int = item("count", "experiments so far, which the interval is corrected for")
    p95_ms: Number = item(
        "ms", "p95 latency of one request; predicted if it was refused before it was timed"
    )
    reasons: tuple[str, ...] = item("", "every reason of the verdict")
    changes: str = item("", "the fields that the policy changes, as JSON")


class GainRow(Figures):
    """What one compared policy gains over the policy before it on one fleet, at three distances
    from the folds that chose it. A positive gain is a lower loss.
    """

    promotion: int = item("count", "the number of the comparison")
    challenger: str = item("", "digest of the compared policy")
    fleet: str = item("", "the fleet's name")
    promoted: bool = item("true or false", "whether the policy was promoted")
    choosing: Estimate = item(
        "share", "gain on the choosing folds, which the search saw; 95 % interval over tenants"
    )
    confirming: Estimate = item(
        "share",
        "gain on the confirming folds; the interval over tenants is corrected for the number of "
        "experiments",
    )
    test: Estimate = item(
        "share", "gain at the one look at test requests; 95 % interval over tenants and days"
    )


class FixedRow(Figures):
    """What the search gains over the fixed configuration on the choosing folds of one fleet: at one
    tier, for all tenants or one archetype. A positive gain is a lower loss. The fixed configuration
    is the default policy's, chosen per fold by the tenants of all other folds.
    """

    fleet: str = item("", "the fleet's name")
    tier: str = item("", "SLA tier")
    group: str = item("", "an archetype; empty for all tenants")
    n_tenants: int = item("count", "tenants of the choosing folds")
    default: Estimate = item("share", "gain under the default policy; 95 % interval over tenants")
    incumbent: Estimate = item(
        "share", "gain under the last kept policy; 95 % interval over tenants"
    )


class LookRow(Figures):
    """One look at test requests: one fleet and tier, all tenants or one archetype."""

    promotion: int = item(
        "count", "the number of the comparison that led to it; 0 for an earlier yardstick's"
    )
    time: datetime = item("", "when, UTC")
    challenger: str = item("", "digest of the promoted policy")
    fleet: str = item("", "the fleet's name")
    tier: str = item("", "SLA tier")
    group: str = item("", "an archetype; empty for all tenants")
    ratio: Estimate = item("ratio", "loss of the promoted policy to that of the policy before it")
    n_tenants: int = item("count", "test tenants")
    n_requests: int = item("count", "test requests")


class PolicySearchReport(Figures):
    """Everything that the study says about one yardstick."""

    yardstick: str = item("", "digest of fleets, folds, budget, code and data; all rows share it")
    fleets: tuple[str, ...] = item("", "the fleets that every experiment is judged on")
    budget_ms: Number = item("ms", "highest p95 latency that a kept policy may have")
    n_folds: int = item("count", "folds of tuning tenants")
    choosing_folds: tuple[int, ...] = item("", "folds that screen, keep and discard")
    confirming_folds: tuple[int, ...] = item("", "folds that only a promotion sees")
    n_experiments: int = item("count", "lines of the ledger")
    n_kept: int = item("count", "of these, kept")
    n_discarded: int = item("count", "of these, discarded after all requests")
    n_screened_out: int = item("count", "of these, discarded after a third of the requests")
    n_crashed: int = item("count", "of these, crashed")
    n_timed_out: int = item("count", "of these, ran out of time")
    first_time: datetime | None = item("", "time of the first line, UTC")
    last_time: datetime | None = item("", "time of the last line, UTC")
    experiment_seconds: Number = item("s", "that the experiments took, one after the other")
    incumbent: str = item("", "digest of the last kept policy")
    incumbent_objective: Number = item("ratio", "its objective")
    incumbent_p95_ms: Number = item("ms", "its predicted p95 latency")
    incumbent_changes: str = item("", "the fields that it changes, as JSON")
    promoted: str | None = item("", "digest of the promoted policy, null while it is the default")
    n_promotions_considered: int = item("count", "kept policies compared on the confirming folds")
    n_promoted: int = item("count", "of these, promoted")
    n_final_looks: int = item(
        "count", "looks at test requests so far, those of earlier yardsticks included"
    )
    optimism: Number = item(
        "share",
        "mean over compared policies and fleets of the gain on choosing minus that on confirming "
        "folds",
    )
    test_optimism: Number = item(
        "share",
        "mean over promoted policies and fleets of the gain on choosing folds minus that at test "
        "requests",
    )
    importance_r2: Estimate = item(
        "share", "R2 of the forest on held-out experiments, of their ranks by objective"
    )
    n_importance: int = item("count", "experiments with an objective, which the forest learns from")
    untried_fields: tuple[str, ...] = item(
        "", "fields that a policy may change and no experiment has moved"
    )
    table_experiments: tuple[ExperimentRow, ...] = table()
    table_fields: tuple[FieldRow, ...] = table()
    table_importance: tuple[ImportanceRow, ...] = table()
    table_promotions: tuple[PromotionRow, ...] = table()
    table_gains: tuple[GainRow, ...] = table()
    table_fixed: tuple[FixedRow, ...] = table()
    table_looks: tuple[LookRow, ...] = table()

    @property
    def front(self) -> list[ExperimentRow]:
        """The policies that no other one beats in loss and latency, lowest loss first."""
        rows = [row for row in self.table_experiments if row.on_front]
        return sorted(rows, key=lambda row: (row.objective, row.p95_ms))

    @property
    def default(self) -> ExperimentRow | None:
        """The finished experiment of the default policy, if there is one."""
        rows = [row for row in self.table_experiments if row.end in ("keep", "discard")]
        return next((row for row in rows if not row.n_changes), None)
