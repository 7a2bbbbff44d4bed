"""The search bundle: one file with everything that is needed to answer a request on any machine.

What belongs here: the content of a bundle, its file format, and the engines that are made from it.
What does not: fitting the content and the path of a fleet's bundle (`steps.bundle`), answering a
request (`engine`).

The file starts with a line of text, `tsfm-search-bundle sha256=<64 hex digits>`. The rest is an
uncompressed npz archive, and the line states its SHA-256. The archive's array `document` holds
everything that is not an array, as JSON in UTF-8. Opening a bundle runs no code from it. Equal
content gives equal bytes.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsfm_pipeline import __version__
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.autoresearch.policy import SearchPolicy
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.evaluation.events import Event
from tsfm_pipeline.evaluation.limits import Bounds
from tsfm_pipeline.evaluation.protocol import Protocol as EvaluationProtocol
from tsfm_pipeline.files import StorageError, write_atomically
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.registry import CheckpointInfo

Arrays = dict[str, NDArray[Any]]

SCHEMA_VERSION = 1
MemberKind = Literal["configuration"]
MEMBER_KINDS: tuple[str, ...] = get_args(MemberKind)
REMAKE = "copy it again, or materialise the asset 'search_bundle' of its fleet again"

UPGRADES: dict[int, Callable[[dict[str, Any], Arrays], tuple[dict[str, Any], Arrays]]] = {}
"""By schema version: the function that converts its document and arrays to the next version."""

_FIRST_LINE = re.compile(rb"tsfm-search-bundle sha256=([0-9a-f]{64})")
_FROZEN = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class BundleError(StorageError):
    """A file is not a bundle, is damaged, or was written by a release that this one cannot read."""


class Member(BaseModel):
    """One candidate that the search may choose: its name, and the kind of thing that is named."""

    model_config = _FROZEN

    name: str
    kind: MemberKind = "configuration"


class FixedChoice(BaseModel):
    """The single member that the search must beat, and the member that stands in for it."""

    model_config = _FROZEN

    member: str
    stand_in: str = Field(description="answers where `member` is not available")


class Checkpoint(BaseModel):
    """The model that the search was fitted with."""

    model_config = _FROZEN

    name: str
    sha256: str = Field(description="of its weights")
    dtype: str


class BundleFacts(BaseModel):
    """The fleet, time grid, protocol and model that a bundle's search was fitted for."""

    model_config = _FROZEN

    schema_version: int = SCHEMA_VERSION
    written_by: str = f"tsfm-pipeline {__version__}"
    made_from: str = Field("", description="fingerprint of the table that the file is written from")
    fleet: str = Field("", description="name of the fleet; like `made_from` only in a file")
    metrics: tuple[str, ...]
    step_minutes: float
    horizon: int = Field(description="steps")
    seasons: tuple[int, ...] = Field(description="steps, shortest first")
    bounds: dict[str, Bounds] = Field(description="by metric")
    max_gap: int | None = Field(
        None, description="longest gap that a forecast looks across, in steps; None: any"
    )
    events: tuple[Event, ...] = Field((), description="known times that are no ordinary evidence")
    protocol: EvaluationProtocol
    checkpoint: Checkpoint
    offsets: tuple[int, ...] = Field(description="validation origins, in steps before a request")
    members: tuple[Member, ...] = Field(description="of all portfolios")
    n_neighbours: int = Field(description="look-alikes whose experience is the retrieved prior")


class _Constants(BaseModel):
    """The part of a fitted search that is not an array."""

    model_config = _FROZEN

    policy: SearchPolicy
    fixed: dict[str, FixedChoice]


class _Document(BundleFacts):
    """The JSON of the file; `live` is None if the only fold's search is also the live one."""

    folds: dict[int, _Constants]
    live: _Constants | None


@dataclass(frozen=True, eq=False)
class FittedSearch:
    """The search as fitted on one set of tuning tenants.

    fixed: the fixed choice of each tier. priors and index cover the same tuning tenants, in the
    same order. tenants: ids of the test tenants that it answers, str [N]; none of them tuned it.
    """

    policy: SearchPolicy
    fixed: dict[str, FixedChoice]
    priors: TenantExperience
    index: WindowIndex
    tenants: NDArray[np.str_]

    @property
    def _constants(self) -> _Constants:
        return _Constants(policy=self.policy, fixed=self.fixed)

    def _to_arrays(self, prefix: str) -> Arrays:
        arrays: Arrays = {"tenants": self.tenants, "losses": self.priors.losses}
        if self.priors.violations is not None:
            arrays["violations"] = self.priors.violations
        arrays |= {f"index/{name}": array for name, array in self.index.to_arrays().items()}
        return {f"{prefix}/{name}": array for name, array in arrays.items()}

    @classmethod
    def _from_arrays(cls, constants: _Constants, prefix: str, arrays: Arrays) -> Self:
        own = _below(prefix, arrays)
        index = WindowIndex.from_arrays(_below("index", own))
        priors = TenantExperience(own["losses"], index.index.tenant_ids, own.get("violations"))
        return cls(constants.policy, constants.fixed, priors, index, own["tenants"])


class LoadedForecaster(GridForecaster, Protocol):
    """A model that states its checkpoint; `forecaster.load_forecaster` returns one."""

    checkpoint: CheckpointInfo


@dataclass(frozen=True, eq=False)
class SearchBundle:
    """The fitted searches of one fleet.

    folds: by test fold. live: fitted on all tuning tenants, for tenants that no fold tests. If
    there is only one fold, its search is the live one.
    """

    facts: BundleFacts
    folds: Mapping[int, FittedSearch]
    live: FittedSearch

    def __post_init__(self) -> None:
        """Raise ValueError if a search has another horizon, or a portfolio name is not a member."""
        known = {member.name for member in self.facts.members}
        for search in (*self.folds.values(), self.live):
            if unknown := [name for name in search.policy.portfolio if name not in known]:
                members = ", ".join(sorted(known))
                raise ValueError(
                    f"{', '.join(unknown)}: in a portfolio, but not among the members {members}"
                )
            if search.policy.horizon != self.facts.horizon:
                steps = search.policy.horizon, self.facts.horizon
                raise ValueError(
                    f"a policy has a horizon of {steps[0]} steps, the bundle one of {steps[1]}; "
                    "both must be equal"
                )

    # -- answering

    def engine(
        self, forecaster: LoadedForecaster, tenant_id: str | None = None
    ) -> AutoresearchEngine:
        """Return the engine that answers one tenant.

        Args:
            forecaster: the frozen model, loaded from the checkpoint that the search was fitted with
            tenant_id: id of the tenant; None for a tenant that is not in the fleet

        Returns the engine of the fold that tests the tenant, and the live search's for any other
        tenant (see `search_of`). Raises ValueError, with both names, for another checkpoint.
        """
        return self.engine_of(self.search_of(tenant_id), forecaster)

    def engine_of(self, search: FittedSearch, forecaster: LoadedForecaster) -> AutoresearchEngine:
        """Return the engine of one of the bundle's searches. Raises the errors of `engine`."""
        self.require(forecaster)
        return AutoresearchEngine(
            forecaster,
            search.policy,
            search.priors,
            search.index,
            n_neighbours=self.facts.n_neighbours,
            events=self.facts.events,
            step=timedelta(minutes=self.facts.step_minutes),
        )

    def require(self, forecaster: LoadedForecaster) -> None:
        """Raise ValueError, with both names, if the model has another checkpoint."""
        own, given = self.facts.checkpoint, forecaster.checkpoint
        if given.sha256 != own.sha256:
            raise ValueError(
                f"the search of fleet {self.facts.fleet!r} was fitted with checkpoint {own.name!r} "
                f"(sha256 {own.sha256[:12]}), the model is {given.name!r} (sha256 "
                f"{given.sha256[:12]}): "
                f"load {own.name!r}, or run the fleet with {given.name!r}"
            )

    def search_of(self, tenant_id: str | None) -> FittedSearch:
        """Return the search of the fold that tests the tenant, which was fitted without that
        tenant, or else the live search.
        """
        fold = None if tenant_id is None else self._fold_of.get(tenant_id)
        return self.live if fold is None else self.folds[fold]

    @property
    def median_choice(self) -> FixedChoice:
        """The live search's fixed choice of the tier nearest to the median, for plain quantiles."""
        tiers = self.facts.protocol.tiers
        return self.live.fixed[min(tiers, key=lambda tier: abs(tiers[tier] - 0.5))]

    def panel(self, values: NDArray[np.float32]) -> Panel:
        """Return telemetry [S, T] (S a multiple of the metrics) as a panel with seasons, bounds
        and longest gap.

        Where metrics have different bounds, each series has those of its metric.
        """
        bounds = [self.facts.bounds[metric] for metric in self.facts.metrics]
        return Panel.of_tenants(values, self.facts.seasons, bounds, self.facts.max_gap)

    @cached_property
    def _fold_of(self) -> dict[str, int]:
        tests = ((fold, search.tenants.tolist()) for fold, search in self.folds.items())
        return {tenant: fold for fold, tenants in tests for tenant in tenants}

    # -- storing

    def write(self, path: Path) -> None:
        """Write the file; a reader sees either the old file or the new one.

        Raises `StorageError` if the disk is full.
        """
        line = f"tsfm-search-bundle sha256={self.digest}\n".encode()
        write_atomically(path, lambda temporary: temporary.write_bytes(line + self._payload))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content, 64 hex digits, as in the first line of the file."""
        return hashlib.sha256(self._payload).hexdigest()

    @cached_property
    def _payload(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **dict(sorted(self.to_arrays().items())))  # type: ignore[arg-type]
        return buffer.getvalue()

    def to_arrays(self) -> Arrays:
        """Return the whole bundle as named arrays for storage."""
        refitted = not any(self.live is search for search in self.folds.values())
        document = _Document(
            **dict(self.facts),
            folds={fold: search._constants for fold, search in self.folds.items()},
            live=self.live._constants if refitted else None,
        )
        # Without events the document is that of earlier releases, which can then read it.
        unsaid = None if document.events else {"events"}
        text = document.model_dump_json(exclude=unsaid).encode()
        arrays: Arrays = {"document": np.frombuffer(text, dtype=np.uint8)}
        for fold, search in self.folds.items():
            arrays |= search._to_arrays(f"folds/{fold}")
        return arrays | (self.live._to_arrays("live") if refitted else {})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a bundle file, on any machine.

        Args:
            path: a file that `write` wrote

        Returns the bundle. Raises `BundleError` if the file is missing, is not a bundle, is
        truncated or altered, or has a schema version that this release cannot read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            make = "materialise the asset 'search_bundle' of its fleet"
            raise BundleError(f"{path} cannot be read ({error.strerror}); {make}") from error
        line, _, payload = content.partition(b"\n")
        match = _FIRST_LINE.fullmatch(line)
        if match is None:
            first = "its first line is not 'tsfm-search-bundle sha256=...'"
            raise BundleError(f"{path} is not a search bundle: {first}; {REMAKE}")
        stated, actual = match[1].decode(), hashlib.sha256(payload).hexdigest()
        if stated != actual:
            both = f"its SHA-256 is {actual[:12]}..., its first line says {stated[:12]}..."
            raise BundleError(f"{path} is damaged: {both}; {REMAKE}")
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            return cls.from_arrays({name: archive[name] for name in archive.files}, str(path))

    @classmethod
    def from_arrays(cls, arrays: Arrays, where: str = "search bundle") -> Self:
        """Return the bundle that `to_arrays` described, in this schema version or an older one.

        where: what messages call the bundle. Raises `BundleError` if this release cannot read it.
        """
        arrays = dict(arrays)
        document: dict[str, Any] = json.loads(arrays.pop("document").tobytes())
        document, arrays = _upgraded(document, arrays, where)
        kinds = {str(member.get("kind")) for member in document["members"]}
        if unknown := sorted(kinds - set(MEMBER_KINDS)):
            raise BundleError(
                f"{where}, written by {document['written_by']}, has members of kind "
                f"{', '.join(unknown)}; "
                f"tsfm-pipeline {__version__} knows: {', '.join(MEMBER_KINDS)}; update this "
                "installation"
            )
        try:
            read = _Document.model_validate_json(json.dumps(document))
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            raise BundleError(f"{where}: {field}: {problem['msg']}; {REMAKE}") from error
        fitted = FittedSearch._from_arrays
        folds = {fold: fitted(own, f"folds/{fold}", arrays) for fold, own in read.folds.items()}
        (live,) = folds.values() if read.live is None else [fitted(read.live, "live", arrays)]
        return cls(
            BundleFacts(**{name: getattr(read, name) for name in BundleFacts.model_fields}),
            folds,
            live,
        )


def _below(prefix: str, arrays: Arrays) -> Arrays:
    start = f"{prefix}/"
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }


def _upgraded(
    document: dict[str, Any], arrays: Arrays, where: str
) -> tuple[dict[str, Any], Arrays]:
    """Return document and arrays, converted to this schema version."""
    writer = document.get("written_by", "an unknown release")
    while (version := document["schema_version"]) != SCHEMA_VERSION:
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{where} has schema version {version}, written by {writer}; "
                f"tsfm-pipeline {__version__} reads up to {SCHEMA_VERSION}: update this "
                "installation"
            )
        if version not in UPGRADES:
            raise BundleError(
                f"{where} has schema version {version}, written by {writer}; "
                f"tsfm-pipeline {__version__} reads "
                f"{', '.join(map(str, sorted({*UPGRADES, SCHEMA_VERSION})))}: {REMAKE}"
            )
        document, arrays = UPGRADES[version](document, arrays)
        document["schema_version"] = version + 1
    return document, arrays
