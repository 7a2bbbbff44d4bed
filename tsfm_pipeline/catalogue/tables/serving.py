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
from tsfm_pipeline.catalogue.serving_columns import (
    ALERTS,
    CALIBRATIONS,
    DECISIONS,
    OUTCOMES,
    SERVED,
)

TABLES = (
    Table(
        "served_forecasts",
        FLEET,
        "serving",
        1,
        question="What did the online service answer in the last weeks?",
        row="answer of the online service to one series, of the last 18 days",
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
        columns=columns(*OUTCOMES),
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
        columns=columns(*CALIBRATIONS),
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
        columns=columns(*ALERTS),
    ),
    Table(
        "rollout_decision",
        FLEET,
        "serving",
        1,
        question="For which share of the markets is the model's forecast sent, since when, and "
        "why? Also publishes the last decision as the file that the service reads.",
        row="decision about the rollout, in the order of time",
        inputs=("served_forecasts", "band_alerts"),
        parameters=parameters.rollout,
        columns=columns(*DECISIONS),
    ),
)
