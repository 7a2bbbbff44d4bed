"""Columns of the evaluation: one row per scorer and target.

What belongs here: name, type, meaning and unit of each column. What does not: computing them
(`evaluation`).
"""

import polars as pl

from tsfm_pipeline.catalogue.columns import FLAG, FLOAT64, INT32, TEXT
from tsfm_pipeline.catalogue.registry import Column


def _interval(name: str, meaning: str, unit: str) -> tuple[Column, ...]:
    return (
        Column(name, FLOAT64, meaning, unit),
        Column(f"{name}_low", FLOAT64, f"lower end of the bootstrap interval of {name}", unit),
        Column(f"{name}_high", FLOAT64, f"upper end of the bootstrap interval of {name}", unit),
    )


_AREA, _SHARE, _P = "area", "share", "p-value"
EVALUATED: tuple[Column, ...] = (
    Column("scorer", TEXT, "name of the scorer"),
    Column("label", TEXT, "label that is scored"),
    Column("horizon", INT32, "of the label", "trading days"),
    Column("n_days", INT32, "test days, the same for every scorer of the target", "days"),
    Column("n_dropped", INT32, "test days left out because some scorer lacks them", "days"),
    Column("n_positives", INT32, "test days with the label", "days"),
    Column("base_rate", FLOAT64, "share of test days with the label", _SHARE),
    *_interval(
        "auc",
        "area under the ROC curve: within folds and weighted by pairs; of sign over all days, with "
        "scores in units of their validation days' spread",
        _AREA,
    ),
    Column("auc_within_folds", FLOAT64, "the same within folds, for sign as well", _AREA),
    *_interval(
        "auc_over_all_days",
        "area over all test days, with scores as they are: it also counts knowing which years move "
        "more",
        _AREA,
    ),
    Column("delong_standard_error", FLOAT64, "of auc if days were independent", _AREA),
    Column("block_days", INT32, "mean block length of the target's bootstrap", "days"),
    *_interval("minus_volatility", "auc less that of the volatility logit, paired", _AREA),
    Column("untrained", TEXT, "untrained scorer that validation days chose for most test days"),
    *_interval(
        "minus_untrained",
        "auc less that of the untrained scorers, one chosen per fold on validation days, paired",
        _AREA,
    ),
    Column("patchtst", TEXT, "PatchTST that validation days chose for most test days"),
    *_interval(
        "minus_patchtst",
        "auc less that of the PatchTSTs, one chosen per fold on validation days, paired",
        _AREA,
    ),
    Column("average_precision", FLOAT64, "of the probabilities", _SHARE),
    Column("brier", FLOAT64, "mean squared error of the probabilities", "squared probability"),
    Column("brier_skill", FLOAT64, "1 - brier / that of the base rate before each fold", _SHARE),
    Column("log_loss", FLOAT64, "mean log loss of the probabilities", "nats"),
    Column("precision_at_f1", FLOAT64, "at the threshold of the best validation F1", _SHARE),
    Column("recall_at_f1", FLOAT64, "at the threshold of the best validation F1", _SHARE),
    Column("precision_at_matched", FLOAT64, "calling as many days as are positive", _SHARE),
    Column("recall_at_matched", FLOAT64, "calling as many days as are positive", _SHARE),
    Column("n_moved", INT32, "test days whose close moves by more than the threshold", "days"),
    *_interval(
        "auc_given_move",
        "area for the direction of the move (down for labels of falls) over days that move by more "
        "than the threshold, with scores in units of their validation days' spread",
        _AREA,
    ),
    Column("pesaran_timmermann", FLOAT64, "statistic of called against true days", "deviations"),
    Column("pesaran_timmermann_p", FLOAT64, "one-sided, if days were independent", _P),
    Column("pesaran_timmermann_bootstrap_p", FLOAT64, "one-sided, by the block bootstrap", _P),
    *_interval(
        "volatility_matched_auc",
        "area within deciles of the volatility logit's score, over all folds; not for sign",
        _AREA,
    ),
    *_interval(
        "up_minus_down",
        "area of the score for the label less that for the opposite touch, over all folds, less "
        "the volatility logit's own such difference; touches only",
        _AREA,
    ),
    Column("n_variants", INT32, "series that the tests over all variants compare", "number"),
    Column(
        "spa_p_value",
        FLOAT64,
        "that no variant is better (Hansen): for sign than an area of .5, over all horizons; "
        "otherwise than the volatility logit's daily Brier loss",
        _P,
    ),
    Column("survives_stepm", FLAG, "better in the same sense by Romano and Wolf's stepwise test"),
    Column(
        "spa_p_value_log_loss",
        FLOAT64,
        "that no variant's daily log loss is better than the base rate's (Hansen); sign only",
        _P,
    ),
    Column("survives_log_loss", FLAG, "better in that sense by the stepwise test; sign only"),
)
EVALUATION_SCHEMA = pl.Schema({column.name: column.dtype for column in EVALUATED})
