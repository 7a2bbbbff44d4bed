"""The figures of the study's report on one market.

What belongs here: their names, units and meanings. What does not: computing (`numbers`, `curves`),
wording (`words`) and drawing (`figures`) them.
"""

from datetime import date
from typing import Literal

from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, item, table

Gate = Literal["investigate", "fine_tune", "stop", "undecided"]
VerdictKind = Literal["direction", "volatility only", "nothing", "undecided"]


class TargetRow(Figures):
    """One question: a label at a horizon."""

    label: str = item("", "touch_up, touch_down, their scaled forms, close_up or sign")
    horizon: int = item("trading days", "how far ahead the label looks")
    n_days: int = item("count", "test days that every scorer has")
    n_positives: int = item("count", "of these days, those with the label")
    base_rate: Number = item("share", "of days with the label")
    n_dropped: int = item("count", "test days left out because some scorer lacks them")
    block_days: int = item("trading days", "mean length of the bootstrap's blocks")
    untrained: str = item("", "the untrained scorer that others are compared with on most days")
    patchtst: str = item("", "the PatchTST that others are compared with on most days")
    spa_p_value: Number = item(
        "share",
        "p-value of Hansen's test of superior predictive ability, that no variant is better than "
        "the benchmark: the volatility logit by Brier loss; for sign, an AUC of .5",
    )
    spa_p_value_log_loss: Number = item(
        "share", "the same of sign by log loss, against the base rate; sign only"
    )
    n_variants: int = item("count", "variants that these tests allow for; for sign, all horizons'")


class ScoreRow(Figures):
    """One scorer on one label at one horizon, on the test days that every scorer has."""

    scorer: str = item("", "name of the scorer")
    family: str = item("", "what it is one variant of: a way to read the model, or a baseline")
    label: str = item("", "touch_up, touch_down, their scaled forms, close_up or sign")
    horizon: int = item("trading days", "how far ahead the label looks")
    chosen: bool = item(
        "true or false",
        "whether it has the highest AUC of its family in the first validation year",
    )
    validation_auc: Number = item(
        "share", "AUC in the first validation year, which lies before all test days"
    )
    auc: Estimate = item(
        "share",
        "AUC on test days; .5 is no skill. Within folds; of sign over all days, with scores in "
        "units of their validation days' spread",
    )
    auc_over_all_days: Estimate = item(
        "share", "AUC over all test days, which also counts knowing which years move more"
    )
    minus_volatility: Estimate = item("share", "its AUC minus the volatility logit's, same days")
    minus_untrained: Estimate = item(
        "share", "its AUC minus that of the untrained scorers, one chosen per fold"
    )
    minus_patchtst: Estimate = item(
        "share", "its AUC minus that of the PatchTSTs, one chosen per fold"
    )
    auc_given_move: Estimate = item(
        "share", "AUC among the days whose close moves by more than the threshold"
    )
    volatility_matched_auc: Estimate = item(
        "share", "AUC among days of the same tenth of the volatility logit's score; not for sign"
    )
    up_minus_down: Estimate = item(
        "share",
        "AUC for the label minus that for the opposite touch, less the volatility logit's own "
        "difference; touches only",
    )
    average_precision: Number = item("share", "area under precision over recall")
    brier: Number = item("share", "mean squared error of the probability")
    brier_skill: Number = item("share", "1 - Brier score over that of the base rate")
    log_loss: Number = item("nats", "mean negative log-likelihood of the label")
    precision_at_f1: Number = item("share", "at the threshold of the best validation F1")
    recall_at_f1: Number = item("share", "at the threshold of the best validation F1")
    precision_at_matched: Number = item(
        "share", "calling as many validation days as have the label"
    )
    recall_at_matched: Number = item("share", "calling as many validation days as have the label")
    pesaran_timmermann: Number = item(
        "standard errors", "Pesaran and Timmermann's statistic of directional accuracy"
    )
    pesaran_timmermann_bootstrap_p: Number = item(
        "share", "its one-sided p-value by the block bootstrap"
    )
    survives_stepm: bool | None = item(
        "true or false", "whether StepM keeps it as better than the benchmark, given all variants"
    )


class GateRow(Figures):
    """What the earlier work's gates say about one scorer, on touch_up at the first horizon."""

    scorer: str = item("", "name of the scorer")
    family: str = item("", "what it is one variant of")
    auc: Estimate = item("share", "AUC within folds on test days")
    seed_gate: Gate = item("", "investigate, fine_tune, stop or undecided, by the figure alone")
    gates_in_interval: tuple[Gate, ...] = item(
        "", "every gate that an AUC inside of the interval would meet"
    )


class ReliabilityRow(Figures):
    """Tenth of the days by one scorer's probability of a label."""

    scorer: str = item("", "name of the scorer")
    label: str = item("", "the label")
    horizon: int = item("trading days", "how far ahead the label looks")
    bin: int = item("count", "from 1, the tenth with the lowest probabilities")
    n_days: int = item("count", "test days in it")
    forecast: Number = item("share", "their mean probability")
    observed: Estimate = item("share", "of these days with the label")


class DecileRow(Figures):
    """One scorer among the days of one tenth of expected volatility."""

    scorer: str = item("", "name of the scorer")
    label: str = item("", "the label")
    horizon: int = item("trading days", "how far ahead the label looks")
    decile: int = item(
        "count", "from 1, the calmest tenth by the volatility logit, within its year"
    )
    n_days: int = item("count", "test days in it")
    base_rate: Number = item("share", "of these days with the label")
    auc: Estimate = item("share", "AUC within folds among them; none with few days of one kind")


class RateRow(Figures):
    """One learning rate of one kind of fine-tuning."""

    kind: str = item("", "forecast (TFM-03) or labels (TFM-04)")
    learning_rate: Number = item("", "of the training")
    n_trainings: int = item("count", "trainings with it, one per block of test years")
    n_chosen: int = item("count", "of these, those with the lowest validation loss of all rates")
    n_diverged: int = item("count", "of these, those whose validation loss grew by a tenth")
    loss_before: Number = item("", "mean validation loss before the first update")
    best_loss: Number = item("", "mean of the lowest validation losses after an update")
    best_step: Number = item("updates", "mean number of updates at the lowest loss")


class CheckRow(Figures):
    """One check of one scorer."""

    name: str = item("", "of the check")
    subject: str = item("", "the scorer or model that was checked")
    passed: bool = item("true or false", "whether it is green")
    sentence: str = item("", "what was measured and required")


class FoldRow(Figures):
    """One test year at one horizon."""

    horizon: int = item("trading days", "how far ahead the label looks")
    year: int = item("", "the test year")
    n_train: int = item("count", "training days")
    n_validation: int = item("count", "validation days: the year before")
    n_test: int = item("count", "test days")
    touch_rate: Number = item("share", "of test days with touch_up")
    up_rate: Number = item("share", "of test days whose close is higher at the horizon")


class ExcludedRow(Figures):
    """What takes no part, and why."""

    what: str = item("", "days, years or scorers")
    n: int = item("count", "how many")
    why: str = item("", "the reason")


class DirectionReport(Figures):
    """Everything that the study says about one market."""

    market: str = item("", "the market's name")
    title: str = item("", "what the market is")
    simulated_truth: str = item("", "what a simulated market was made with; empty for a real one")
    first_day: date = item("", "first day of the prices")
    last_day: date = item("", "last day of the prices")
    n_market_days: int = item("count", "days of the prices")
    n_features: int = item("count", "features of a day")
    horizons: tuple[int, ...] = item("trading days", "how far ahead the labels look")
    threshold: Number = item("share", "of touch and close labels")
    scaled_threshold: Number = item("standard deviations", "of the scaled touches")
    confidence: Number = item("share", "of every interval")
    n_draws: int = item("count", "draws of the stationary bootstrap")
    checkpoint: str = item("", "the frozen model; empty if none took part")
    n_variants: int = item("count", "scorers that were tried, all of which the tests allow for")
    verdict: VerdictKind = item("", "direction, volatility only, nothing or undecided")
    headline: str = item("", "the verdict as part of a sentence; it says more where undecided")
    reasons: tuple[str, ...] = item("", "sentences with the figures that decided")
    n_found: int = item(
        "count", "scorers and horizons that show a direction on this market, confirmed or not"
    )
    second_market: str = item("", "where a direction must be found again; empty without one")
    direction_scorer: str = item(
        "",
        "the scorer that the answer on direction is about: the first that shows one, otherwise the "
        "best on sign in the first validation year",
    )
    direction_horizon: int = item("trading days", "the horizon of that answer")
    table_targets: tuple[TargetRow, ...] = table()
    table_scores: tuple[ScoreRow, ...] = table()
    table_gates: tuple[GateRow, ...] = table()
    table_reliability: tuple[ReliabilityRow, ...] = table()
    table_deciles: tuple[DecileRow, ...] = table()
    table_learning_rates: tuple[RateRow, ...] = table()
    table_checks: tuple[CheckRow, ...] = table()
    table_folds: tuple[FoldRow, ...] = table()
    table_excluded: tuple[ExcludedRow, ...] = table()

    @property
    def horizon(self) -> int:
        """The horizon that the first lines are about: the shortest."""
        return min(self.horizons)

    def target(self, label: str, horizon: int | None = None) -> TargetRow | None:
        """Return a question; None if it was not evaluated."""
        wanted = label, horizon or self.horizon
        return next((r for r in self.table_targets if (r.label, r.horizon) == wanted), None)

    def scores(self, label: str, horizon: int | None = None) -> list[ScoreRow]:
        """Return the scorers of a question, in the order of the table."""
        wanted = label, horizon or self.horizon
        return [row for row in self.table_scores if (row.label, row.horizon) == wanted]

    def score(self, scorer: str, label: str, horizon: int | None = None) -> ScoreRow | None:
        """Return a scorer's row of a question; None if it did not take part."""
        rows = self.scores(label, horizon)
        return next((row for row in rows if row.scorer == scorer), None)

    def chosen(self, label: str, horizon: int | None = None) -> list[ScoreRow]:
        """Return the variant of each family with the highest validation AUC, in family order."""
        return [row for row in self.scores(label, horizon) if row.chosen]
