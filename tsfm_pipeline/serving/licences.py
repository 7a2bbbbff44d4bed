"""The licence guard: which models may answer in production.

What belongs here: what a licence allows, and what is known of the licences of the models that can
be asked for by name. What does not: refusing a request (`service`), and reading a licence from a
checkpoint (`forecaster.registry`) or from a daemon (`tollama`).

In production only a licence that is known to allow commercial use is accepted. Everything else is
refused: research-only weights such as those of TimesFM 3.0, and licences that nobody stated.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from tsfm_pipeline.forecaster.registry import REGISTRY
from tsfm_pipeline.serving.settings import ServingSettings

Environment = Literal["dev", "prod"]
UNKNOWN_LICENCE = "unknown"

COMMERCIAL = ("MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC-BY-4.0")
"""SPDX names of the licences that allow commercial use of weights, with notice or attribution."""

DAEMON_LICENCES: Mapping[str, str] = {
    "chronos2": "apache-2.0",
    "forecastpfn": "apache-2.0",
    "granite-ttm-r2": "apache-2.0",
    "lag-llama": "apache-2.0",
    "mock": "mit",
    "moirai-2.0-R-small": "cc-by-nc-4.0",
    "nbeatsx": "apache-2.0",
    "nhits": "apache-2.0",
    "patchtst": "apache-2.0",
    "sundial-base-128m": "apache-2.0",
    "tide": "apache-2.0",
    "timemixer-base": "apache-2.0",
    "timer-base": "apache-2.0",
    "timesfm-2.5-200m": "apache-2.0",
    "toto-open-base-1.0": "apache-2.0",
}
"""As tollama 0.1.0 lists its models; for the time before a daemon has been asked."""

_RESEARCH = re.compile(r"(^|-)nc(-|$)|non-?commercial|research|academic|^timesfm-?3")
_ALLOWED = frozenset(name.lower() for name in COMMERCIAL)


class LicenceTag(StrEnum):
    """What a licence allows, in the words of model registries."""

    COMMERCIAL_OK = "commercial_ok"
    RESEARCH_ONLY = "research_only"
    UNKNOWN = "unknown"


class ModelNotAllowed(Exception):
    """A model's licence does not allow its use here."""

    def __init__(self, licence: str, tag: LicenceTag, model: str = "") -> None:
        super().__init__(
            f"model {model or 'of this request'} has the licence {licence[:80]!r} ({tag}); allowed "
            f"in production: {', '.join(COMMERCIAL)}"
        )
        self.licence, self.tag, self.model = licence, tag, model


def tag_of(licence: str) -> LicenceTag:
    """Return what a licence allows: its SPDX name in any case, or the tag itself.

    An expression such as `MIT AND X` is unknown, and so is everything that is not listed.
    """
    name = re.sub(r"[\s_]+", "-", licence.strip().lower())
    if name in _ALLOWED or name == LicenceTag.COMMERCIAL_OK.replace("_", "-"):
        return LicenceTag.COMMERCIAL_OK
    return LicenceTag.RESEARCH_ONLY if _RESEARCH.search(name) else LicenceTag.UNKNOWN


def check_licence(licence: str, environment: Environment, model: str = "") -> None:
    """Raise `ModelNotAllowed` in production unless the licence allows commercial use.

    model: its name, for the message.
    """
    tag = tag_of(licence)
    if environment == "prod" and tag is not LicenceTag.COMMERCIAL_OK:
        raise ModelNotAllowed(licence, tag, model)


def default_licences(settings: ServingSettings) -> dict[str, str]:
    """Return the licence of every model that these settings serve without being asked for it, by
    `provider/model`: the local checkpoint, and the daemon's model. One that no registry names is
    `unknown`.
    """
    checkpoint, daemon = settings.local.checkpoint, settings.tollama.model
    entry = REGISTRY.get(checkpoint)
    return {
        f"local/{checkpoint}": UNKNOWN_LICENCE if entry is None else entry.licence,
        f"tollama/{daemon}": DAEMON_LICENCES.get(daemon, UNKNOWN_LICENCE),
    }
