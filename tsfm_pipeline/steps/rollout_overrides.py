"""What people decide about the rollout of the online service.

What belongs here: the record table `rollout_overrides`, and publishing a decision. What does not:
what an override means, and the automatic decision (`evaluation.rollout`).
"""

from typing import Any

import polars as pl
from pydantic import ValidationError

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.records import ROLLOUT_OVERRIDES, RecordTable
from tsfm_pipeline.evaluation.rollout import Override, RolloutDecision, overridden
from tsfm_pipeline.evaluation.served import ROLLOUT_FILE
from tsfm_pipeline.files import StorageError, write_text_atomically

SCHEMA: dict[str, Any] = {
    "at": pl.Datetime("us", "UTC"),
    "action": pl.String,
    "percent": pl.Int32,
    "reason": pl.String,
    "by": pl.String,
}


def overrides(fleet: Fleet) -> list[Override]:
    """Return all overrides of a fleet, in the order of time. Raises `StorageError` for a record
    that is not what was written.
    """
    rows = _table(fleet).read().select(*SCHEMA).sort("at")
    return [Override.model_validate(row) for row in rows.iter_rows(named=True)]


def decide(fleet: Fleet, override: Override) -> RolloutDecision:
    """Record an override and publish the decision that follows from it, which is returned.

    The service obeys it without a run, and every later run knows it. Raises `StorageError` if
    either file cannot be written.
    """
    _table(fleet).append(pl.DataFrame([override.model_dump()], schema=SCHEMA))
    try:
        before = published(fleet)
    except StorageError:
        before = None  # A damaged file must not stand in the way of a rollback.
    decision = overridden(before, override)
    publish(fleet, decision)
    return decision


def publish(fleet: Fleet, decision: RolloutDecision) -> None:
    """Put a decision where the service reads it. Raises `StorageError` if the disk is full."""
    path = fleet.published_dir / ROLLOUT_FILE
    write_text_atomically(path, decision.model_dump_json(indent=1) + "\n")


def published(fleet: Fleet) -> RolloutDecision | None:
    """Return the decision that the service reads; None before the first. Raises `StorageError` if
    it cannot be read.
    """
    path = fleet.published_dir / ROLLOUT_FILE
    try:
        return RolloutDecision.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"the decision {path} cannot be read: {error}; the asset rollout_decision writes it "
            "anew"
        ) from error


def _table(fleet: Fleet) -> RecordTable:
    return RecordTable(fleet.records_dir / ROLLOUT_OVERRIDES, SCHEMA)
