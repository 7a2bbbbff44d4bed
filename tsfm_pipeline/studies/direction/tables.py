"""The study's tables: prices, labels, features, the scores of every scorer and how good they are.

What belongs here: one record and one maker per table, and their columns. What does not: making them
(`making`), opening a market (`scope`), the statistics (`evaluation`).
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from tsfm_pipeline.catalogue.columns import FLAG, FLOAT64, INT32, TEXT
from tsfm_pipeline.catalogue.registry import Column, Table, registry
from tsfm_pipeline.steps.makers import Maker, with_model
from tsfm_pipeline.studies.direction.evaluation_columns import EVALUATED as MEASURES
from tsfm_pipeline.studies.direction.options import GROUPS, LABELS, Group
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA

if TYPE_CHECKING:
    from tsfm_pipeline.studies.direction.scope import MarketContext

MARKET = "market"
"""The name of the scope."""
DATA, SCORES, REPORTS = "market_data", "market_scores", "market_reports"
"""Groups of the asset graph."""
FORECASTS, RUNS = "zero_shot_forecasts", "fine_tuning_runs"
EVALUATED, CHECKED = "direction_scores", "direction_checks"
SCORE_TABLES: dict[Group, str] = {
    "base": "base_scores",
    "zero_shot": "zero_shot_scores",
    "covariates": "covariate_scores",
    "probes": "probe_scores",
    "patchtst": "patchtst_scores",
    "fine_tuned": "finetuned_scores",
}
"""The table of each group of scorers."""


def _prices(context: "MarketContext") -> dict[str, Any]:
    return {"prices": context.source_fingerprint}


def _labels(context: "MarketContext") -> dict[str, Any]:
    return {"labels": context.spec.study.labels.model_dump(mode="json")}


def _group(group: Group, *options: str, model: bool = False) -> Any:
    """Return a function that returns what decides the scores of a group: whether it takes part, the
    folds, the given options, and the model.
    """

    def decided(context: "MarketContext") -> dict[str, Any]:
        study = context.spec.study
        if group not in study.scorers:
            return {"takes_part": False}
        known: dict[str, Any] = {
            name: getattr(study, name).model_dump(mode="json") for name in ("splits", *options)
        }
        if model:
            known |= _model(context)
        return known

    return decided


def _forecasts(context: "MarketContext") -> dict[str, Any]:
    """Return what decides the frozen model's forecasts, which several groups and checks read."""
    options = context.spec.study.zero_shot.model_dump(mode="json")
    return {"zero_shot": options, **_model(context)}


def _model(context: "MarketContext") -> dict[str, Any]:
    return {"checkpoint": context.checkpoint_digest, "dtype": context.dtype}


def _statistics(context: "MarketContext") -> dict[str, Any]:
    study = context.spec.study
    return {
        "statistics": study.statistics.model_dump(mode="json"),
        "splits": study.splits.model_dump(mode="json"),
    }


_DAY = Column("day", INT32, "number of the trading day in the market, from 0", "number")
_HORIZON = Column("horizon", INT32, "trading days ahead", "days")
_SCORER = Column("scorer", TEXT, "name of the scorer")
_LABEL = Column("label", TEXT, "the event that is asked for")
_FOLD = Column("fold", INT32, "the test year that the scorer was fitted for", "year")
_MEANINGS = {
    "touch_up": "whether a high of the next days reaches the close plus the threshold",
    "touch_down": "whether a low of the next days reaches the close minus the threshold",
    "touch_up_scaled": "the same as touch_up, with a threshold in units of volatility",
    "touch_down_scaled": "the same as touch_down, with a threshold in units of volatility",
    "close_up": "whether the close at the horizon is above this close by the threshold",
    "sign": "whether the close at the horizon is above this close",
}
_SCORE_COLUMNS = (
    _SCORER,
    _LABEL,
    _HORIZON,
    _FOLD,
    Column("part", TEXT, "validation: the last training year; test: the test year"),
    _DAY,
    Column("score", FLOAT64, "the higher, the likelier is the label", "of the scorer"),
    Column("probability", FLOAT64, "of the label; null where the scorer gives none", "share"),
)
_LOSS = "mean loss of validation days"


def _scores(group: Group, question: str, parameters: Any, inputs: tuple[str, ...] = ()) -> Table:
    return Table(
        SCORE_TABLES[group],
        MARKET,
        SCORES,
        1,
        question=question,
        row="scorer, label, horizon, fold, part and day",
        inputs=("market_labels", "market_features", *inputs),
        parameters=parameters,
        columns=_SCORE_COLUMNS,
    )


TABLES: dict[str, Table] = registry(
    (
        Table(
            "market_prices",
            MARKET,
            DATA,
            1,
            question="What did the market cost, day by day?",
            row="trading day",
            parameters=_prices,
            key=("day",),
            columns=(
                _DAY,
                Column("date", pl.Date(), "date of the trading day"),
                *(
                    Column(name, FLOAT64, f"{meaning}, adjusted as the other prices are", "price")
                    for name, meaning in (
                        ("open", "first price"),
                        ("high", "highest price"),
                        ("low", "lowest price"),
                        ("close", "last price"),
                    )
                ),
                Column("volume", FLOAT64, "traded volume", "of the source"),
                Column(
                    "covariate_{covariate}",
                    FLOAT64,
                    "covariate {covariate}, as known at the close",
                    "of the source",
                ),
                Column(
                    "given_{given}", FLOAT64, "indicator {given} of the source", "of the source"
                ),
            ),
        ),
        Table(
            "market_labels",
            MARKET,
            DATA,
            1,
            question="What happened on the days that followed?",
            row="trading day and horizon",
            inputs=("market_prices",),
            parameters=_labels,
            key=("day", "horizon"),
            columns=(
                _DAY,
                _HORIZON,
                *(
                    Column(name, pl.Boolean(), f"{_MEANINGS[name]}; null: not known yet")
                    for name in LABELS
                ),
                Column(
                    "forward_return",
                    FLOAT64,
                    "return from this close to that at the horizon",
                    "share of the close",
                ),
            ),
        ),
        Table(
            "market_features",
            MARKET,
            DATA,
            1,
            question="What could be known at the close of each day?",
            row="trading day",
            inputs=("market_prices",),
            key=("day",),
            columns=(
                _DAY,
                Column("{feature}", FLOAT64, "feature {feature} (docs/direction.md)", "of feature"),
                Column(
                    "sigma", FLOAT64, "volatility of the next day's return, by EWMA", "log return"
                ),
            ),
        ),
        _scores(
            "base",
            "What do untrained indicators, plain volatility and trained indicators say?",
            _group("base"),
        ),
        Table(
            FORECASTS,
            MARKET,
            SCORES,
            1,
            question="What does the frozen model forecast from the close of every day?",
            row="representation, context, trading day and step ahead",
            inputs=("market_prices", "market_labels"),
            parameters=_forecasts,
            columns=(
                Column("representation", TEXT, "what the model sees: returns, log_close or close"),
                Column("context", INT32, "days that the model sees", "days"),
                _DAY,
                Column("step", INT32, "trading days ahead", "days"),
                Column("mean", FLOAT64, "mean of the forecast", "log return"),
                *(
                    Column(f"q{decile}0", FLOAT64, f"quantile .{decile}", "log return")
                    for decile in range(1, 10)
                ),
            ),
        ),
        _scores(
            "zero_shot",
            "What does the frozen model say, read as mean, spread and probability?",
            _group("zero_shot", "zero_shot"),
            (FORECASTS,),
        ),
        _scores(
            "covariates",
            "What does it say when covariates correct it?",
            _group("covariates", "zero_shot", model=True),
            (FORECASTS,),
        ),
        _scores(
            "probes",
            "What do its hidden states hold?",
            _group("probes", "zero_shot", model=True),
        ),
        _scores(
            "patchtst",
            "What does a transformer say that was trained for this task?",
            _group("patchtst", "patchtst"),
        ),
        Table(
            RUNS,
            MARKET,
            SCORES,
            1,
            question="Which learning rates were tried in further training, and what came of each?",
            row="kind, block of test years and learning rate",
            inputs=("market_labels", "market_features"),
            parameters=_group("fine_tuned", "fine_tuning", model=True),
            columns=(
                Column("kind", TEXT, "forecast (TFM-03) or labels (TFM-04)"),
                Column("first_year", INT32, "first test year that the training serves", "year"),
                Column("last_year", INT32, "last test year that the training serves", "year"),
                Column("learning_rate", FLOAT64, "of the training", "1"),
                Column("loss_before", FLOAT64, f"{_LOSS} before the first update", "loss"),
                Column("best_loss", FLOAT64, f"the least {_LOSS} after an update", "loss"),
                Column("best_step", INT32, "updates at the least loss", "updates"),
                Column("last_loss", FLOAT64, f"the last {_LOSS}", "loss"),
                Column("steps", INT32, "updates made", "updates"),
                Column("diverged", FLAG, "whether the last loss is well above that before"),
                Column("chosen", FLAG, "whether it has the least loss of its kind and block"),
                Column("scores", pl.List(pl.Struct(SCORE_SCHEMA)), "rows of finetuned_scores"),
            ),
        ),
        _scores(
            "fine_tuned",
            "What does the model say after further training on this market?",
            _group("fine_tuned"),
            (RUNS,),
        ),
        Table(
            EVALUATED,
            MARKET,
            REPORTS,
            1,
            question="How good is each scorer, paired against plain volatility, and is it luck?",
            row="scorer, label and horizon",
            inputs=tuple(SCORE_TABLES[group] for group in GROUPS),
            parameters=_statistics,
            key=("scorer", "label", "horizon"),
            columns=MEASURES,
        ),
        Table(
            CHECKED,
            MARKET,
            REPORTS,
            1,
            question="Are the forecasts fit to be compared: not constant, not late, read rightly?",
            row="check and subject",
            inputs=(EVALUATED, FORECASTS),
            parameters=_group("covariates", "zero_shot", model=True),
            key=("name", "subject"),
            columns=(
                Column("name", TEXT, "name of the check"),
                Column("subject", TEXT, "the scorer or model that was checked"),
                Column("passed", FLAG, "whether it is green"),
                Column("sentence", TEXT, "what was measured and required"),
                Column("figures", TEXT, "the same as JSON, by name"),
            ),
        ),
    )
)
"""Every table of the study by name."""

_MAKING = "tsfm_pipeline.studies.direction.making"
MAKERS: dict[str, Maker] = {
    "market_prices": Maker(f"{_MAKING}:market_prices"),
    "market_labels": Maker(f"{_MAKING}:market_labels"),
    "market_features": Maker(f"{_MAKING}:market_features", leakage=f"{_MAKING}:features_leakage"),
    "base_scores": Maker(f"{_MAKING}:base_scores", kinds=("scikitlearn",)),
    FORECASTS: with_model(f"{_MAKING}:zero_shot_forecasts"),
    "zero_shot_scores": Maker(f"{_MAKING}:zero_shot_scores"),
    "covariate_scores": with_model(f"{_MAKING}:covariate_scores"),
    "probe_scores": with_model(f"{_MAKING}:probe_scores"),
    "patchtst_scores": Maker(f"{_MAKING}:patchtst_scores", heavy=True, kinds=("torch",)),
    RUNS: Maker(f"{_MAKING}:fine_tuning_runs", heavy=True, kinds=("torch",)),
    "finetuned_scores": Maker(f"{_MAKING}:finetuned_scores"),
    EVALUATED: Maker(f"{_MAKING}:direction_scores"),
    CHECKED: with_model(f"{_MAKING}:direction_checks"),
}
"""The maker of every table of the study."""
