"""The policy in force: the file that a promotion writes and every fleet reads.

What belongs here: reading and writing that file with its provenance. What does not: deciding which
policy it holds (`promotion`), and reading it into settings (`settings`).
"""

from pathlib import Path
from typing import Any

import yaml

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError, policy_of
from tsfm_pipeline.studies.policy_search.promotion_records import Promotion
from tsfm_pipeline.studies.policy_search.verdict import FleetVerdict

FILE = "policies/search.yaml"
"""Below the profile's data folder; the distribution may bring one below its `data`."""


def policy_file(settings: Settings) -> Path:
    """Return the path of the file that a promotion writes. Every profile has its own, so that what
    a cheap run promotes is never in force in a full one.
    """
    return settings.output_dir / FILE


def policy_in_force(settings: Settings) -> Policy:
    """Return the policy that fleets use: that of the data folder's file, otherwise that of the file
    which the distribution brings, otherwise the default.

    Raises `PolicyError`, with the file's name, if it cannot be read.
    """
    for path in (policy_file(settings), packaged(f"data/{FILE}")):
        if path.is_file():
            return policy_of(_content(path)["search"], str(path))
    return Policy()


def provenance_in_force(settings: Settings) -> dict[str, Any]:
    """Return the provenance in the data folder's file; empty if there is no file, or no provenance
    in it.
    """
    path = policy_file(settings)
    return dict(_content(path).get("provenance") or {}) if path.is_file() else {}


def adopt(settings: Settings, promotion: Promotion) -> Path:
    """Write the promoted policy with its provenance as the policy in force, and return the file.

    A reader sees the old file or the new one. Raises `StorageError` if the disk is full.
    """
    path = policy_file(settings)
    content = {"search": promotion.policy.search, "provenance": _provenance(promotion)}
    write_text_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def _provenance(promotion: Promotion) -> dict[str, Any]:
    verdict = promotion.verdict
    return {
        "promotion": promotion.promotion,
        "promoted_at": promotion.time.isoformat(timespec="seconds"),
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


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("search"), dict):
        raise PolicyError(
            f"{path} must have the key `search`, with the changed fields; `provenance` beside it "
            "says where they come from"
        )
    return content
