"""The study's report on one market in tables.

What belongs here: tables about its figures. What does not: sentences (`words`), figures
(`figures`), how they are computed (`numbers`).
"""

from collections.abc import Sequence

from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    number,
    p_value,
    percent,
    percent_interval,
    whole,
)
from tsfm_pipeline.studies.direction.report.model import DirectionReport, ScoreRow
from tsfm_pipeline.studies.direction.report.names import (
    days_ahead,
    label_text,
    scorer_label,
    target_text,
)
from tsfm_pipeline.studies.direction.report.wording import (
    auc_text,
    difference_text,
    plain_auc,
    rate_text,
)
from tsfm_pipeline.studies.direction.report.words import GATE_TEXTS, KIND_TEXTS

DIRECTION_LABELS = ("sign",)
"""Labels whose benchmark is an AUC of .5 and not volatility."""


def chosen(report: DirectionReport) -> Table:
    """Return one scorer per family on touch up, with the differences from three others."""
    rows = report.chosen("touch_up")
    cells = tuple(
        (
            scorer_label(row.scorer),
            auc_text(row.auc),
            difference_text(row.minus_volatility),
            difference_text(row.minus_untrained),
            difference_text(row.minus_patchtst),
        )
        for row in rows
    )
    columns = (
        "best of its family in the first validation year",
        "AUC",
        "minus volatility",
        "minus best untrained",
        "minus PatchTST",
    )
    caption = f"Touch up, {days_ahead(report.horizon)}: one variant of each family"
    return Table(caption, columns, cells, frozenset({0}), _emphasised(rows))


def chosen_on_sign(report: DirectionReport) -> Table:
    """Return one scorer per family on sign, with what is asked of a direction."""
    rows = report.chosen("sign")
    cells = tuple(
        (
            scorer_label(row.scorer),
            auc_text(row.auc),
            auc_text(row.auc_given_move),
            number(row.pesaran_timmermann),
            p_value(row.pesaran_timmermann_bootstrap_p),
            _yes(row.survives_stepm),
        )
        for row in rows
    )
    columns = (
        "best of its family in the first validation year",
        "AUC",
        f"AUC, moves above {100 * report.threshold:g} %",
        "Pesaran-Timmermann",
        "p",
        "kept by StepM",
    )
    caption = f"Sign, {days_ahead(report.horizon)}: one variant of each family"
    return Table(caption, columns, cells, frozenset({0}), _emphasised(rows))


def target(report: DirectionReport, label: str, horizon: int) -> Table:
    """Return every scorer of one question."""
    rows = report.scores(label, horizon)
    cells = tuple(
        (
            scorer_label(row.scorer),
            plain_auc(row.validation_auc),
            auc_text(row.auc),
            auc_text(row.auc_over_all_days),
            difference_text(row.minus_volatility),
            difference_text(row.minus_untrained),
            difference_text(row.minus_patchtst),
            auc_text(row.auc_given_move),
            auc_text(row.volatility_matched_auc),
            difference_text(row.up_minus_down),
            number(row.average_precision),
            number(row.brier),
            percent(row.brier_skill),
            number(row.log_loss),
            f"{plain_auc(row.precision_at_f1)} / {plain_auc(row.recall_at_f1)}",
            f"{plain_auc(row.precision_at_matched)} / {plain_auc(row.recall_at_matched)}",
            f"{number(row.pesaran_timmermann)} ({p_value(row.pesaran_timmermann_bootstrap_p)})",
            _yes(row.survives_stepm),
        )
        for row in rows
    )
    columns = (
        "scorer",
        "AUC, first validation year",
        "test AUC",
        "over all days",
        "minus volatility",
        "minus best untrained",
        "minus PatchTST",
        "AUC given a move",
        "AUC, volatility matched",
        "up minus down",
        "average precision",
        "Brier",
        "Brier skill",
        "log loss",
        "precision / recall, best F1",
        "as many days",
        "PT (p)",
        "StepM",
    )
    return Table(caption_of(report, label, horizon), columns, cells, frozenset({0}), _bold(rows))


def caption_of(report: DirectionReport, label: str, horizon: int) -> str:
    """Return a question with its days and base rate."""
    row = report.target(label, horizon)
    if row is None:
        return target_text(label, horizon).capitalize()
    return (
        f"{target_text(label, horizon).capitalize()}: base rate {percent(row.base_rate)} of "
        f"{whole(row.n_days)} days"
    )


def questions(report: DirectionReport) -> Table:
    """Return every label at every horizon with its days, base rate and test of all variants."""
    cells = tuple(
        (
            label_text(row.label),
            days_ahead(row.horizon),
            whole(row.n_days),
            whole(row.n_positives),
            percent(row.base_rate),
            whole(row.n_variants),
            p_value(row.spa_p_value),
            "AUC of .5" if row.label in DIRECTION_LABELS else "volatility logit",
        )
        for row in report.table_targets
    )
    columns = (
        "label",
        "horizon",
        "test days",
        "with the label",
        "base rate",
        "variants",
        "p of SPA",
        "benchmark of SPA",
    )
    return Table("Every question", columns, cells, frozenset({0, 1, 7}))


def gates(report: DirectionReport) -> Table:
    """Return what the earlier work's gates say of each family's chosen variant."""
    cells = tuple(
        (
            scorer_label(row.scorer),
            auc_text(row.auc),
            GATE_TEXTS[row.seed_gate],
            ", ".join(GATE_TEXTS[gate] for gate in row.gates_in_interval) or NO_FIGURE,
            report.verdict,
        )
        for row in report.table_gates
    )
    columns = (
        "scorer",
        "AUC on touch up",
        "gate, by the figure",
        "gates inside of the interval",
        "verdict of this study",
    )
    return Table(
        "The earlier work's gates beside the verdict", columns, cells, frozenset({0, 2, 3, 4})
    )


def deciles(report: DirectionReport, label: str) -> Table:
    """Return the AUC of the drawn scorers by tenth of expected volatility."""
    rows = [row for row in report.table_deciles if row.label == label]
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    numbers = sorted({row.decile for row in rows})
    by_key = {(row.scorer, row.decile): row for row in rows}
    cells = tuple(
        (
            str(decile),
            whole(by_key[scorers[0], decile].n_days),
            percent(by_key[scorers[0], decile].base_rate),
            *(auc_text(by_key[scorer, decile].auc) for scorer in scorers),
        )
        for decile in numbers
    )
    columns = ("tenth", "days", "base rate", *map(scorer_label, scorers))
    return Table(f"{label_text(label).capitalize()} by expected volatility", columns, cells)


def reliability(report: DirectionReport, label: str) -> Table:
    """Return what happened by tenth of each probability of a label."""
    cells = tuple(
        (
            scorer_label(row.scorer),
            str(row.bin),
            whole(row.n_days),
            percent(row.forecast),
            percent_interval(*row.observed),
        )
        for row in report.table_reliability
        if row.label == label
    )
    columns = ("scorer", "tenth", "days", "mean probability", "observed (95 % interval)")
    return Table(f"Reliability of the probability of {label_text(label)}", columns, cells)


def learning_rates(report: DirectionReport) -> Table:
    """Return what each learning rate did to the validation loss."""
    cells = tuple(
        (
            KIND_TEXTS.get(row.kind, row.kind),
            rate_text(row.learning_rate),
            whole(row.n_trainings),
            number(row.loss_before),
            number(row.best_loss),
            whole(row.best_step),
            whole(row.n_diverged),
            whole(row.n_chosen),
        )
        for row in report.table_learning_rates
    )
    columns = (
        "training",
        "learning rate",
        "trainings",
        "loss before",
        "lowest loss",
        "after updates",
        "diverged",
        "chosen",
    )
    emphasised = frozenset(i for i, row in enumerate(report.table_learning_rates) if row.n_chosen)
    return Table(
        "Learning rates, by the loss on validation days", columns, cells, frozenset({0}), emphasised
    )


def checks(report: DirectionReport, passed: bool) -> Table:
    """Return the green or the red checks."""
    rows = [row for row in report.table_checks if row.passed is passed]
    cells = tuple(
        (
            row.name.replace("_", " "),
            "PASS" if row.passed else "FAIL",
            scorer_label(row.subject),
            row.sentence,
        )
        for row in rows
    )
    columns = ("check", "result", "of", "what was measured")
    caption = "Green checks" if passed else "Red checks"
    return Table(caption, columns, cells, frozenset({0, 1, 2, 3}))


def folds(report: DirectionReport, horizon: int) -> Table:
    """Return the test years of one horizon."""
    cells = tuple(
        (
            str(row.year),
            whole(row.n_train),
            whole(row.n_validation),
            whole(row.n_test),
            percent(row.touch_rate),
            percent(row.up_rate),
        )
        for row in report.table_folds
        if row.horizon == horizon
    )
    columns = ("test year", "training days", "validation", "test", "touch up", "close higher")
    return Table(f"Folds, {days_ahead(horizon)}", columns, cells)


def excluded(report: DirectionReport) -> Table:
    """Return what takes no part, and why."""
    cells = tuple((row.what, whole(row.n), row.why) for row in report.table_excluded)
    return Table("What takes no part", ("what", "how many", "why"), cells, frozenset({0, 2}))


def _bold(rows: Sequence[ScoreRow]) -> frozenset[int]:
    return frozenset(i for i, row in enumerate(rows) if row.chosen)


def _emphasised(rows: Sequence[ScoreRow]) -> frozenset[int]:
    """The volatility logit, which all others are compared with."""
    return frozenset(i for i, row in enumerate(rows) if row.family == "volatility")


def _yes(value: bool | None) -> str:
    return NO_FIGURE if value is None else "yes" if value else "no"
