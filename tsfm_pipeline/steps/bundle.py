"""The fleet's search bundle: fitted from its tables, written as a file, and opened.

What belongs here: the table `search_bundle`, the live search for tenants outside of all test folds,
and the path of the file. What does not: a bundle's content and format (`autoresearch.bundle`),
fitting a search (`steps.policies`).
Axes: N tenants, R requests, D metrics, K configurations of all folds, A tiers, H horizon.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.bundle import (
    BundleError,
    BundleFacts,
    Checkpoint,
    FittedSearch,
    FixedChoice,
    Member,
    SearchBundle,
)
from tsfm_pipeline.autoresearch.portfolio import best_singles, rank_configs, request_tokens
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.baselines.combinations import SharedChoices
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.forecaster.registry import find_checkpoint
from tsfm_pipeline.lake import arrays_frame
from tsfm_pipeline.steps.archetypes import Retrieved, fit_request_index, retrieve_from, window_index
from tsfm_pipeline.steps.evidence import (
    Floats,
    grid_arrays,
    read_policies,
    tunes,
    validation_arrays,
)
from tsfm_pipeline.steps.policies import (
    TuningView,
    experience,
    fit_search,
    folds_and_tuners,
    read_shared_choices,
    request_priors,
    request_violations,
    tuning_losses,
)

FILE = "search.bundle"


def search_bundle(fleet: Fleet) -> pl.DataFrame:
    """Return everything that is needed to answer a request, one row per array."""
    return arrays_frame(make_bundle(fleet).to_arrays())


def make_bundle(fleet: Fleet) -> SearchBundle:
    """Return every fold's search, as stored in the tables, with the live one.

    With one test fold, the fold's search is also the live one, because it was fitted on all tuning
    tenants. With cross-fitted folds, the live search is fitted on the tenants of all folds.
    """
    policies, choices = read_policies(fleet), read_shared_choices(fleet)
    folds = {}
    for fold, tuners in folds_and_tuners(fleet):
        members = fleet.portfolio_mask(fold)
        folds[fold] = FittedSearch(
            policy=policies[fold],
            fixed=_fixed(fleet, choices[fold]),
            priors=experience(fleet, tuners, members).over(np.flatnonzero(members).tolist()),
            index=window_index(fleet, fold, "request"),
            tenants=fleet.tenant_ids[fleet.folds == fold],
        )
    live = next(iter(folds.values())) if len(folds) == 1 else _live_search(fleet, max(folds) + 1)
    return SearchBundle(_facts(fleet), folds, live)


def bundle_path(fleet: Fleet) -> Path:
    """Return the path of the fleet's bundle file."""
    return fleet.reports_dir / FILE


def publish_bundle(fleet: Fleet) -> dict[str, Any]:
    """Write the stored bundle as a file, and return its path, SHA-256 and size."""
    stored = SearchBundle.from_arrays(fleet.tables.read_arrays("search_bundle"))
    label = {"fleet": fleet.name, "made_from": fleet.tables.expected["search_bundle"]}
    bundle, path = replace(stored, facts=stored.facts.model_copy(update=label)), bundle_path(fleet)
    bundle.write(path)
    return {
        "bundle": str(path),
        "bundle_sha256": bundle.digest,
        "bundle_size_mib": round(path.stat().st_size / 2**20, 3),
    }


def open_bundle(fleet: Fleet) -> SearchBundle:
    """Return the fleet's bundle, read from its file.

    Raises `BundleError`, which names the asset to materialise, if the file is missing or damaged,
    or was made from other tables than now apply.
    """
    path, materialise = (
        bundle_path(fleet),
        f"materialise the asset 'search_bundle' of fleet {fleet.name!r}",
    )
    if not path.exists():
        raise BundleError(f"{path} is not there; {materialise} first")
    bundle = SearchBundle.open(path)
    if bundle.facts.made_from != fleet.tables.expected["search_bundle"]:
        raise BundleError(
            f"{path} was made from other tables than now apply (other code, settings, telemetry "
            f"or checkpoint); {materialise} again"
        )
    return bundle


class LiveView(TuningView):
    """The tuning tenants of all folds. Each request's neighbours are the other tuning tenants."""

    @cached_property
    def index(self) -> WindowIndex:
        """The window index over the tuners."""
        return fit_request_index(
            self.fleet, np.isin(np.arange(self.fleet.manifest.height), self.tuners)
        )

    @cached_property
    def known(self) -> TenantExperience:
        """The tuners' experience with the K configurations."""
        return experience(self.fleet, self.tuners, self.members)

    def archetypes(self, requests: Requests) -> NDArray[np.str_]:
        """As `TuningView.archetypes`."""
        return self._retrieved(requests).labels

    def priors(self, requests: Requests) -> tuple[dict[str, Floats], Floats]:
        """As `TuningView.priors`, in float32 like the table."""
        ids = self.fleet.manifest["tenant_id"].to_list()
        retrieved, tenant_ids = (
            self._retrieved(requests),
            [ids[number] for number in requests.tenants.tolist()],
        )
        priors = request_priors(self.known, retrieved, tenant_ids)
        relative = {kind: prior.astype(np.float32) for kind, prior in priors.items()}
        return relative, request_violations(self.known, retrieved, tenant_ids).astype(np.float32)

    def _retrieved(self, requests: Requests) -> Retrieved:
        return retrieve_from(
            self.index, self.fleet, requests, self.fleet.settings.search.neighbours
        )


def _live_search(fleet: Fleet, number: int) -> FittedSearch:
    """Return the search fitted on all tuning tenants, as a fold `number` without test tenants."""
    tuners = np.flatnonzero(tunes(fleet))
    view = LiveView(fleet, number, tuners, _live_portfolio(fleet, tuners))
    fitted = fit_search(view)
    priors = view.known.over(np.flatnonzero(view.members).tolist())
    return FittedSearch(
        fitted.policy,
        _fixed(fleet, fitted.choices),
        priors,
        view.index,
        np.array([], dtype=np.str_),
    )


def _live_portfolio(fleet: Fleet, tuners: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the K configurations, bool [K], serve the requests of all tuning tenants
    best.

    They are ranked like a fold's portfolio, but only from the configurations of the folds'
    portfolios, and on the stored forecasts.
    """
    search = fleet.settings.search
    requests = fleet.arrays.requests("tuning", only=tuners.tolist())
    everything = np.ones(len(fleet.configs), dtype=bool)
    losses, _, scale = tuning_losses(fleet, requests, everything)
    valid = requests.valid.ravel()
    singles = best_singles(
        (losses[..., : len(fleet.protocol.alphas)] / scale[..., None, None])[valid]
    )
    deciles, actual, scale = grid_arrays(fleet, requests)
    quantiles = [decision_quantile(deciles, alpha) for alpha in fleet.protocol.alphas]
    within = fleet.arrays.limits.clip(np.stack(quantiles, axis=3), axis=1)  # [R, D, K, A, H]
    scored = valid[:, None] & np.isfinite(scale) & ~np.isnan(actual).all(axis=-1)  # [R, D]
    decisions = within[scored]  # [M, K, A, H]
    evidence = validation_arrays(fleet, requests)[0][scored][:, :, : search.recent_origins]
    ranking = rank_configs(
        search,
        decisions,
        evidence,
        actual[scored],
        scale[scored],
        fleet.protocol.alphas,
        singles,
        search.portfolio_size,
        request_tokens(fleet.configs, fleet.offsets),
    )
    members = ranking.portfolio(search.portfolio_size)
    return np.isin(np.arange(len(fleet.configs)), members)


def _fixed(fleet: Fleet, choices: SharedChoices) -> dict[str, FixedChoice]:
    names: Sequence[str] = [config.name for config in fleet.configs]
    return {
        tier: FixedChoice(member=names[choice.fixed_config], stand_in=names[choice.fallback_config])
        for tier, choice in choices.tiers.items()
    }


def _facts(fleet: Fleet) -> BundleFacts:
    checkpoint, _, _ = find_checkpoint(fleet.settings.checkpoint)
    return BundleFacts(
        metrics=fleet.grid.metrics,
        step_minutes=fleet.grid.step_minutes,
        horizon=fleet.spec.horizon,
        seasons=fleet.grid.seasons,
        bounds={metric: fleet.spec.bounds_of(metric) for metric in fleet.grid.metrics},
        max_gap=fleet.spec.max_gap,
        events=fleet.spec.events,
        protocol=fleet.protocol,
        checkpoint=Checkpoint(
            name=checkpoint.name, sha256=checkpoint.sha256, dtype=fleet.settings.dtype
        ),
        offsets=fleet.offsets,
        members=tuple(Member(name=config.name) for config in fleet.configs),
        n_neighbours=fleet.settings.search.neighbours,
    )
