"""The policy in force: the file that a promotion writes and every fleet reads.

What belongs here: reading and writing that file with its provenance. What does not: deciding which
policy it holds (`promotion`), and reading it into settings (`settings`).
"""

from pathlib import Path
from typing import Any

import yaml

from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.policy_file import PLACE, find_policy_file, read_policy_file
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.promotion_records import Promotion
from tsfm_pipeline.studies.policy_search.verdict import FleetVerdict


def adopted_file(settings: Settings) -> Path:
    """Return the path of the file that a promotion writes. Every profile has its own, so that what
    a cheap run promotes is never in force in a full one.
    """
    return settings.output_dir / PLACE


def policy_in_force(settings: Settings) -> Policy:
    """Return the policy that a challenger would replace: that of the file which promotions write,
    otherwise that of the file which fleets read, otherwise the default.

    Raises `PolicyFileError`, with the file's name, if it cannot be read.
    """
    own = adopted_file(settings)
    path = own if own.is_file() else find_policy_file(settings.data_dir, None)
    return Policy() if path is None else policy_of(read_policy_file(path).changes, str(path))


def adopt(settings: Settings, promotion: Promotion) -> Path:
    """Write the promoted policy with its provenance as the policy in force, and return the file.

    A reader sees the old file or the new one. Raises `StorageError` if the disk is full.
    """
    path = adopted_file(settings)
    content = {"search": promotion.policy.search, "provenance": _provenance(promotion)}
    write_text_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def _provenance(promotion: Promotion) -> dict[str, Any]:
    verdict = promotion.verdict
    return {
        "promotion": promotion.promotion,
        "time": promotion.time.isoformat(timespec="seconds"),
        "policy": promotion.policy.digest,
        "replaced": promotion.replaced.digest,
        "experiment": promotion.experiment,
        "commit": promotion.commit,
        "yardstick": promotion.yardstick,
        "n_experiments": verdict.n_experiments,
        "p95_ms": round(verdict.p95_ms, 1),
        "gains": {fleet.fleet: _gain(fleet) for fleet in verdict.fleets},
    }


def _gain(fleet: FleetVerdict) -> dict[str, float | int]:
    effect = fleet.corrected
    limits = {name: round(getattr(effect, name), 5) for name in ("gain", "low", "high")}
    return {**limits, "confidence": effect.confidence, "n_tenants": effect.n_tenants}
