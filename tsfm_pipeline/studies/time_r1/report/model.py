"""The figures of the study's report on one recipe.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from typing import Literal

from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, item, table
from tsfm_pipeline.studies.time_r1.measure_units import MEASURES
from tsfm_pipeline.studies.time_r1.methods import SLOW_THINKING

Outcome = Literal["kept, lower", "kept, higher", "dropped, lower", "dropped, higher", "equal"]
OUTCOMES: tuple[Outcome, ...] = (
    "kept, lower",
    "dropped, higher",
    "kept, higher",
    "dropped, lower",
    "equal",
)
"""What the gate did with the refined answer, and whether its error was lower or higher than the
draft's: first the two right ones, then the two wrong ones.
"""
Question = tuple[str, int, str]
"""Data set, horizon and window set."""


def _measure(name: str) -> Estimate:
    meaning, unit = MEASURES[name]
    made: Estimate = item(unit, meaning)
    return made


class MethodRow(Figures):
    """One method on the test windows of one data set."""

    data_set: str = item("", "name of the data set")
    horizon: int = item("steps", "how far ahead is forecast")
    window_set: str = item("", "own, paper or fleet")
    method: str = item("", "name of the method")
    n_windows: int = item("count", "test windows, the same for every method")
    n_channels: int = item("count", "channels of these windows")
    n_origins: int = item("count", "origins of these windows")
    n_unscaled: int = item("count", "windows without a scale, which MASE leaves out")
    n_floored: int = item("count", "steps whose actual the floor of MAPE replaced")
    n_failed: int = item("count", "windows whose answer failed, so that the draft stands")
    gate_rate: Estimate = item("share", "windows whose refined answer the gate kept")
    mse: Estimate = _measure("mse")
    mae: Estimate = _measure("mae")
    mape: Estimate = _measure("mape")
    r2: Estimate = _measure("r2")
    nrmse: Estimate = _measure("nrmse")
    mase: Estimate = _measure("mase")
    wql: Estimate = _measure("wql")
    n_left_out: int = item("count", "further windows, left out for values that were not observed")


class ComparisonRow(Figures):
    """One method against another on the same windows, by MASE."""

    data_set: str = item("", "name of the data set")
    horizon: int = item("steps", "how far ahead is forecast")
    window_set: str = item("", "own, paper or fleet")
    method: str = item("", "name of the method")
    reference: str = item("", "what it is compared with")
    ratio: Estimate = item("ratio", "of the two MASE")
    difference: Estimate = item("ratio", "of the two MASE, the method's minus the reference's")


class WarmUpRow(Figures):
    """Loss of one supervised training after some updates."""

    run: str = item("", "name of the training; of the base the kind of prompt")
    part: Literal["training", "validation"] = item("", "on which windows")
    step: Number = item("updates", "done so far; of training, the mean of the steps that are shown")
    template: Number = item("nats per token", "loss on the tags")
    think: Number = item("nats per token", "loss on the reason")
    number: Number = item("nats per token", "loss on the numbers of the answer")


class RewardRow(Figures):
    """Rewards and KL divergence of one reinforced training after some updates."""

    run: str = item("", "grip or grpo")
    step: Number = item("updates", "mean of the steps that are shown")
    reward_all: Number = item("reward", "mean over all completions that were sampled")
    reward_kept: Number = item("reward", "mean over the completions that were learned from")
    exact_kl: Number = item("nats per token", "KL divergence to the reference, exact")
    k3: Number = item("nats per token", "the same, estimated on all completions by k3")


class ValidationRow(Figures):
    """Reward of one reinforced training on validation windows after some updates."""

    run: str = item("", "grip or grpo")
    step: Number = item("updates", "done so far")
    reward: Number = item("reward", "mean over completions on validation windows")
    gain: Estimate = item(
        "reward", "over that before the first update, with two standard errors to each side"
    )
    kept: bool = item("true or false", "whether the training ends with the adapter of this step")


class TermRow(Figures):
    """One term of the reward in one reinforced training after some updates."""

    run: str = item("", "grip or grpo")
    step: Number = item("updates", "mean of the steps that are shown")
    term: str = item("", "format, length, error, season, trend or change_points")
    contribution: Number = item("reward", "what it adds to the reward on average")
    variance_share: Number = item("share", "of the variance of the reward within groups")


class GateRow(Figures):
    """One kind of decision of the gate."""

    outcome: Outcome = item("", "what it did, and whether the refined answer's error was lower")
    n: int = item("count", "windows")
    share: Number = item("share", "of all windows")
    difference: Number = item("ratio", "their mean MASE of the refined answer minus the draft's")


class RuleRow(Figures):
    """What the headline's error would be if another rule chose between draft and refined answer."""

    rule: Literal["gate", "always refined", "oracle"] = item(
        "", "gate: as it is; oracle: the lower error of the two, which only the truth can tell"
    )
    over_draft: Estimate = item("ratio", "of its MASE to the draft's")


class ExampleRow(Figures):
    """One window of the gallery."""

    kind: Literal["best", "worst"] = item("", "by MASE of the refined answer minus the draft's")
    channel: str = item("", "which channel")
    origin: int = item("number", "row of the last known value")
    history: tuple[Number, ...] = item("units of the data", "the look-back")
    truth: tuple[Number, ...] = item("units of the data", "what came after it")
    draft: tuple[Number, ...] = item("units of the data", "the draft")
    refined: tuple[Number, ...] = item("units of the data", "the refined answer, before the gate")
    kept: bool = item("true or false", "whether the gate kept it")
    reason: str = item("", "the reasoning, in plain sentences")
    draft_mase: Number = item("ratio", "MASE of the draft")
    refined_mase: Number = item("ratio", "MASE of the refined answer")


class ParseRow(Figures):
    """Completions that could be read, with or without a grammar."""

    mode: Literal["free", "constrained"] = item("", "without or with the grammar")
    n: int = item("count", "completions at temperature 1 on held-out prompts")
    n_read: int = item("count", "of these, those that could be read")
    rate: Estimate = item("share", "of completions that could be read; Wilson's interval")


class ProblemRow(Figures):
    """One thing that was wrong with completions that had no grammar."""

    problem: str = item("", "what was wrong")
    n: int = item("count", "completions")


class CostRow(Figures):
    """What one request of a method costs."""

    method: str = item("", "name of the method")
    n_answers: int = item("count", "answers that are sampled per request")
    tokens: Number = item("count", "tokens that are generated per request, on average")
    p50_ms: Number = item("ms", "median latency of a request")
    p95_ms: Number = item("ms", "95 % of requests take at most this long")
    training_cpu_s: Number = item("s", "processor time of GRIP behind it; 0 without it")


class DataSetRow(Figures):
    """A data set of the study."""

    name: str = item("", "its name")
    title: str = item("", "what it is")
    role: str = item("", "what it was used for; empty if it was not used")
    licence: str = item("", "its licence")
    note: str = item("", "why it was not used, or what a reader must know")
    pinned: bool = item("true or false", "whether its content is known by a digest or a seed")
    problems: tuple[str, ...] = item("", "what the checks of schema and drift found")


class SlowThinkingReport(Figures):
    """Everything that the study says about one recipe."""

    recipe: str = item("", "the recipe's name")
    title: str = item("", "what the recipe is")
    model: str = item("", "own, an id of the hub, or a directory")
    n_parameters: int = item("count", "of the policy")
    n_trained: int = item("count", "of these, those that SFT and GRIP trained")
    trained_on: tuple[str, ...] = item("", "data sets that the policy was trained on")
    look_back: int = item("steps", "that a prompt shows")
    data_set: str = item("", "data set of the headline")
    horizon: int = item("steps", "of the headline")
    window_set: str = item("", "window set of the headline")
    group: int = item("count", "completions that GRIP keeps per question")
    oversampling: int = item("count", "completions drawn for each one kept")
    sampling: str = item("", "how GRIP chooses them: local, cluster or all")
    n_samples: int = item("count", "sampled answers that give the deciles of a refined forecast")
    max_iterations: int = item("count", "passes of slow thinking at most")
    confidence: Number = item("share", "of every interval")
    n_draws: int = item("count", "draws of the two-way bootstrap")
    seed: int = item("number", "of the run")
    exact_kl: Estimate = item(
        "nats per token",
        "KL divergence to the reference over the tokens of the answer, held-out prompts",
    )
    k3: Estimate = item("nats per token", "the same, estimated by k3")
    n_prompts: int = item("count", "held-out prompts of the two")
    table_methods: tuple[MethodRow, ...] = table()
    table_comparisons: tuple[ComparisonRow, ...] = table()
    table_base: tuple[WarmUpRow, ...] = table()
    table_warm_ups: tuple[WarmUpRow, ...] = table()
    table_rewards: tuple[RewardRow, ...] = table()
    table_validations: tuple[ValidationRow, ...] = table()
    table_terms: tuple[TermRow, ...] = table()
    table_gate: tuple[GateRow, ...] = table()
    table_rules: tuple[RuleRow, ...] = table()
    table_gallery: tuple[ExampleRow, ...] = table()
    table_parsing: tuple[ParseRow, ...] = table()
    table_problems: tuple[ProblemRow, ...] = table()
    table_costs: tuple[CostRow, ...] = table()
    table_data_sets: tuple[DataSetRow, ...] = table()

    @property
    def headline(self) -> Question:
        """What the first lines are about."""
        return self.data_set, self.horizon, self.window_set

    @property
    def questions(self) -> list[Question]:
        """Everything that was evaluated, the headline first."""
        found = ((r.data_set, r.horizon, r.window_set) for r in self.table_methods)
        return list(dict.fromkeys((self.headline, *found)))

    def methods(self, question: Question | None = None) -> list[MethodRow]:
        """Return the methods of a question (default: the headline), in the order of the table."""
        wanted = question or self.headline
        return [
            row
            for row in self.table_methods
            if (row.data_set, row.horizon, row.window_set) == wanted
        ]

    def method(self, name: str, question: Question | None = None) -> MethodRow | None:
        """Return a method's row of a question; None if it took no part."""
        return next((row for row in self.methods(question) if row.method == name), None)

    def comparisons(self, method: str, question: Question | None = None) -> list[ComparisonRow]:
        """Return the comparisons of a method on a question."""
        wanted = (*(question or self.headline), method)
        return [
            row
            for row in self.table_comparisons
            if (row.data_set, row.horizon, row.window_set, row.method) == wanted
        ]

    def over(
        self, reference: str, method: str = SLOW_THINKING, question: Question | None = None
    ) -> Estimate:
        """Return the ratio of a method's MASE to a reference's; NaN if one took no part."""
        rows = self.comparisons(method, question)
        return next((row.ratio for row in rows if row.reference == reference), Estimate())

    def rule(self, name: str) -> Estimate:
        """Return what a rule's MASE is over the draft's."""
        rows = self.table_rules
        return next((row.over_draft for row in rows if row.rule == name), Estimate())

    def outcome(self, name: str) -> GateRow | None:
        """Return one kind of decision of the gate."""
        return next((row for row in self.table_gate if row.outcome == name), None)

    def parsing(self, mode: str) -> ParseRow | None:
        """Return how many completions could be read in a mode."""
        return next((row for row in self.table_parsing if row.mode == mode), None)

    def kept_validation(self, run: str) -> ValidationRow | None:
        """Return the validation of the step that a training ends with."""
        rows = self.table_validations
        return next((row for row in rows if row.run == run and row.kept), None)

    def cost(self, method: str = SLOW_THINKING) -> CostRow | None:
        """Return what a request of a method costs."""
        return next((row for row in self.table_costs if row.method == method), None)
