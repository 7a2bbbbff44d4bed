"""Group `serving`: what the online service answered, what came of it, and what follows for the next
answers.

What belongs here: the records of the group's tables. What does not: how they are made
(`steps.serving_*`). None of them has a key, because a key's check asks for rows: before anything
was served, they have none.
"""

from tsfm_pipeline.catalogue import parameters
from tsfm_pipeline.catalogue.columns import columns
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.serving_columns import SERVED

_ANSWER = ("answer_id", "received", "market_id", "tenant_number", "metric", "as_of", "as_of_step")

TABLES = (
    Table(
        "served_forecasts",
        FLEET,
        "serving",
        1,
        question="What did the online service answer in the last weeks?",
        row="answer of the online service to one series, of the last 15 days",
        parameters=parameters.served,
        columns=columns(*(column.name for column in SERVED)),
    ),
    Table(
        "served_outcomes",
        FLEET,
        "serving",
        1,
        question="What happened after every answer of the online service, as far as the telemetry "
        "knows?",
        row="answer of the online service to one series, in the order of as_of",
        inputs=("served_forecasts", "tenant_telemetry", "tenant_manifest"),
        columns=columns(
            *_ANSWER,
            "freq_minutes",
            "horizon",
            "served_deciles",
            "low_80",
            "high_80",
            "low_90",
            "high_90",
            "outcome",
            "n_known",
            "unmatched",
            "segment",
            "runtime",
            "model",
            "version",
            "calibration",
            "route",
            "stage",
            "fallback_reason",
        ),
    ),
    Table(
        "conformal_calibration",
        FLEET,
        "serving",
        1,
        question="How far must the service's intervals be moved so that they hold what they "
        "promise? Also publishes that as the file that the service reads.",
        row="segment, target and bucket of steps",
        inputs=(
            "served_outcomes",
            "search_bundle",
            "forecast_requests",
            "forecast_grid",
            "request_targets",
            "tenant_manifest",
        ),
        parameters=parameters.calibration,
        columns=columns(
            "source",
            "calibrated_until",
            "newest_value",
            "runtime",
            "model",
            "version",
            "freq_minutes",
            "horizon",
            "segment_key",
            "target",
            "first_of_bucket",
            "last_of_bucket",
            "n_scores",
            "conformal_score",
        ),
    ),
    Table(
        "band_alerts",
        FLEET,
        "serving",
        1,
        question="Which values left the band that the service had last forecast for them, and did "
        "the series move on?",
        row="series and step whose value lay outside the latest 90 % interval before it",
        inputs=("served_outcomes", "tenant_telemetry", "tenant_manifest"),
        parameters=parameters.bounds,
        columns=columns(
            *_ANSWER,
            "time",
            "observed",
            "band_low",
            "band_high",
            "band_source",
            "fallback_used",
            "breach_size",
            "followed",
        ),
    ),
)
