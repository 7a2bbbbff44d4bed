"""The constants of one policy for one fold, chosen by the tenants of all other folds.

What belongs here: the portfolio, the priors and the search's constants, from the rows of a fleet,
as `steps.portfolio` and `steps.policies` choose them from its tables. What does not: choosing them
(`autoresearch`), and what they cost at other tenants (`evaluation`).
Axes: N tenants, R requests, D metrics, C candidates of the policy, K members of its portfolio, J
validation origins, A tiers, H horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.index import ArchetypeIndex
from tsfm_pipeline.autoresearch.fitting import (
    draw_for_requests,
    draw_tenants,
    fit_search,
    spread_origins,
)
from tsfm_pipeline.autoresearch.policy import SearchPolicy
from tsfm_pipeline.autoresearch.portfolio import (
    PortfolioSample,
    answers_like,
    choose_portfolio,
    request_tokens,
)
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.autoresearch.space import candidates, is_plain, validation_offsets
from tsfm_pipeline.autoresearch.tuning_rows import TuningEvidence
from tsfm_pipeline.baselines.combinations import SharedChoices, TuningSample
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings
from tsfm_pipeline.steps.archetypes import Retrieved
from tsfm_pipeline.steps.policies import request_priors, request_violations
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.rows import FleetRows

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


class View:
    """The part of a fleet's rows that a policy uses.

    requests [R]: positions of its requests among the rows', by tenant and then by origin.
    candidates [C] and offsets [J]: positions among the rows' of the policy's candidates, the last
    resort included, and of its validation origins.
    """

    def __init__(self, rows: FleetRows, search: SearchSettings, stride: int = 1) -> None:
        self.rows = rows
        self.search = search
        self.stride = stride
        order = np.lexsort((rows.origins, rows.tenants))
        self.requests = order[(rows.origins[order] % stride == 0) & rows.valid[order]]
        wanted = [config.name for config in candidates(search)]
        self.candidates = _positions("candidate", wanted, rows.candidates)
        steps = validation_offsets(search, rows.horizon, rows.season)
        self.offsets = _positions("validation origin", steps, rows.offsets)
        if self.last_resort is not None and self.last_resort not in self.candidates:
            self.candidates = np.append(self.candidates, self.last_resort)

    @property
    def n_tiers(self) -> int:
        return len(self.rows.alphas)

    @property
    def seed(self) -> int:
        """The seed of all draws: the fleet graph's default, so that it makes the same draws."""
        return EvaluationSettings().seed

    @cached_property
    def origins_per_tenant(self) -> int:
        """How many requests a tenant has at most, over all shares."""
        return int(self.rows.origins.max(initial=0)) + 1

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The validation origins [J] in steps before a request."""
        return tuple(self.rows.offsets[j] for j in self.offsets)

    @cached_property
    def tokens(self) -> Ints:
        """Tokens that each candidate of the rows and its validation take for one series; those that
        the policy does not use are 0.
        """
        configs = [ForecastConfig.from_name(self.rows.candidates[c]) for c in self.candidates]
        tokens = np.zeros(len(self.rows.candidates), dtype=np.int64)
        tokens[self.candidates] = request_tokens(configs, self.steps)
        return tokens

    @cached_property
    def last_resort(self) -> int | None:
        """The position of the policy's plain candidate with the longest context that has a forecast
        at every request, otherwise of the one that the tables hold for fleets with short histories;
        None if neither has.
        """
        names = self.rows.candidates
        own = [c for c in self.answering if c in self.candidates]
        of_tables = [c for c in self.answering if names[c] not in DEFAULT.candidates]
        length = {c: ForecastConfig.from_name(names[c]).context_len for c in self.answering}
        return max(own or of_tables, key=length.__getitem__, default=None)

    @cached_property
    def answering(self) -> list[int]:
        """The positions of the plain candidates, of the study's tables or of the policy, that have
        a forecast at every request. The rows may hold what another policy names.
        """
        spread = self.rows.spread[self.requests, :, :, 0]
        given = np.asarray(np.isfinite(spread).all(axis=(0, 1)))
        configs = [ForecastConfig.from_name(name) for name in self.rows.candidates]
        given[self.rows.n_sealed :] &= np.isin(
            np.arange(self.rows.n_sealed, given.size), self.candidates
        )
        return [c for c in np.flatnonzero(given).tolist() if is_plain(configs[c])]

    def require_last_resort(self) -> None:
        """Raise ValueError if plain candidates have a forecast at every request, but none of the
        policy's: a fleet would then choose a context that the tables lack.
        """
        if self.answering and self.last_resort is None:
            names = [self.rows.candidates[c] for c in self.answering]
            raise ValueError(
                "the policy lists no plain context that every request fills; add one of "
                f"{', '.join(names)}"
            )

    def of_tenants(self, tenants: Ints) -> Ints:
        """Return the requests of some tenants, in order."""
        return self.requests[np.isin(self.rows.tenants[self.requests], tenants)]

    def request_tokens(self, members: Ints) -> float:
        """Return the tokens of one request with all its metrics."""
        return float(self.tokens[members].sum() * self.rows.n_metrics)

    def at(self, array: Floats, requests: Ints, members: Ints) -> Floats:
        """Return the array [R, D, C, ...] of all rows at some requests and candidates."""
        metrics = np.arange(self.rows.n_metrics)
        return np.asarray(array[np.ix_(requests, metrics, members)])

    def evidence_at(self, array: Floats, requests: Ints, members: Ints) -> Floats:
        """Return evidence [R, D, K, J, A] at some requests and candidates, and at the policy's
        validation origins.
        """
        metrics = np.arange(self.rows.n_metrics)
        return np.asarray(array[np.ix_(requests, metrics, members, self.offsets)])


@dataclass(frozen=True)
class FittedFold:
    """What the tenants of all folds but one chose under a policy.

    members [K]: the portfolio, as positions among the rows' candidates. experience and index: of
    the fitting tenants, for the priors. choices: the rivals' shared choices.
    """

    members: Ints
    experience: TenantExperience
    index: ArchetypeIndex
    policy: SearchPolicy
    choices: SharedChoices


def _positions(what: str, wanted: Sequence[str | int], held: Sequence[str | int]) -> Ints:
    """Return the positions of values among those that the rows hold. Raises ValueError, which names
    those that are lacking.
    """
    known = {name: position for position, name in enumerate(held)}
    lacking = [str(name) for name in wanted if name not in known]
    if lacking:
        raise ValueError(
            f"the rows hold no {what} {', '.join(lacking)}; they hold {', '.join(map(str, held))}"
        )
    return np.array([known[name] for name in wanted], dtype=np.int64)


def fit_fold(view: View, fold: int) -> FittedFold:
    """Return everything that the tenants of all other folds choose under the view's policy, as the
    fleet graph chooses it for a test fold (`steps.portfolio`, `steps.policies`).
    """
    view.require_last_resort()
    rows, search = view.rows, view.search
    fitting = np.flatnonzero(rows.folds != fold)
    known = view.of_tenants(fitting)
    if not len(known):
        raise ValueError(
            f"fleet {rows.fleet!r}: the tenants outside of fold {fold} have no valid request, so "
            "nothing can be fitted for it; use fewer folds or give the fleet more tenants"
        )
    members = _portfolio(view, fitting)
    losses = view.at(rows.losses, known, members).astype(np.float64)
    scaled = losses / rows.scale[known][..., None, None]
    experience = _experience(view, fitting, known, members, scaled)
    ids = [rows.tenant_ids[tenant] for tenant in fitting]
    index = ArchetypeIndex.fit(rows.tenant_features[fitting], ids)
    drawn = view.of_tenants(
        draw_for_requests(
            fitting, search.policy_requests, view.origins_per_tenant, (view.seed, fold)
        )
    )
    fitted = fit_search(
        search,
        [rows.candidates[c] for c in members],
        np.ones(len(members), dtype=bool),
        view.steps,
        rows.season,
        tuning_sample(view, drawn, members, known, scaled),
        tuning_evidence(view, drawn, members, experience, index),
        rows.alphas,
        only_deciding=True,
    )
    return FittedFold(members, experience, index, fitted.policy, fitted.choices)


def _portfolio(view: View, fitting: Ints) -> Ints:
    """Return the members [K] that the fitting tenants choose, in the order of the candidates."""
    rows, search, own = view.rows, view.search, view.candidates
    configs = [ForecastConfig.from_name(rows.candidates[c]) for c in own]
    n_origins, seed = view.origins_per_tenant, (view.seed,)
    singles = view.of_tenants(draw_for_requests(fitting, search.single_requests, n_origins, seed))
    single_losses = view.at(rows.losses, singles, own)[..., : view.n_tiers]
    sampled = view.of_tenants(draw_tenants(fitting, search.portfolio_tenants, seed))
    spread_out = spread_origins(-(-n_origins // view.stride), search.portfolio_origins)
    sampled = sampled[np.isin(rows.origins[sampled], spread_out * view.stride)]
    scored = np.isfinite(rows.scale[sampled]) & ~np.isnan(rows.actual[sampled]).all(axis=-1)
    if not scored.any():
        raise ValueError(
            f"fleet {rows.fleet!r}: the sampled tenants have no request that can be scored, so no "
            "configurations can be chosen; raise portfolio_tenants or portfolio_origins"
        )
    sample = PortfolioSample(
        view.at(rows.decisions, sampled, own)[scored][..., : view.n_tiers, :],
        view.evidence_at(rows.evidence, sampled, own)[scored][:, :, : search.recent_origins],
        rows.actual[sampled][scored],
        rows.scale[sampled][scored],
    )
    answering, last_resort = np.ones(len(own), dtype=bool), 0
    if view.last_resort is not None:
        last_resort = own.tolist().index(view.last_resort)
        seasons = () if rows.season is None else (rows.season,)
        answering = answers_like(configs, configs[last_resort], seasons)
    no_further = min(search.ranked_size, search.portfolio_size)  # only the portfolio is read
    ranking = choose_portfolio(
        search.model_copy(update={"ranked_size": no_further}),
        sample,
        (single_losses / rows.scale[singles][..., None, None]).astype(np.float32),
        tuple(rows.alphas.values()),
        view.tokens[own],
        answering,
        last_resort,
    )
    return np.asarray(own[sorted(ranking.portfolio(search.portfolio_size))])


def _experience(
    view: View, fitting: Ints, known: Ints, members: Ints, scaled: Floats
) -> TenantExperience:
    """Return the fitting tenants' mean losses and violation rates over their requests `known`, at
    which the scaled losses are [R, D, K, A + 1].
    """
    rows = view.rows
    violations = view.at(rows.violations, known, members).astype(np.float64)
    shape = (len(fitting), view.origins_per_tenant, *violations.shape[1:])
    places = (np.searchsorted(fitting, rows.tenants[known]), rows.origins[known])
    grids = []
    for values in (scaled[..., : view.n_tiers], violations):
        grid = np.full(shape, np.nan)
        grid[places] = values
        grids.append(grid[:, :: view.stride])
    ids = np.array([rows.tenant_ids[tenant] for tenant in fitting], dtype=str)
    return TenantExperience.from_requests(grids[0], ids, grids[1])


def tuning_sample(
    view: View, requests: Ints, members: Ints, known: Ints, scaled: Floats
) -> TuningSample:
    """Return forecasts and outcomes of some requests, with scaled losses of all fitting ones, which
    are `known`.
    """
    rows = view.rows
    return TuningSample(
        losses=scaled,
        owners=rows.tenants[known],
        archetypes=[""] * len(scaled),
        decisions=view.at(rows.decisions, requests, members)[..., : view.n_tiers, :],
        spread=view.at(rows.spread, requests, members),
        actual=rows.actual[requests],
        scale=rows.scale[requests],
        tenants=rows.tenants[requests],
        limits=rows.limits,
    )


def tuning_evidence(
    view: View,
    requests: Ints,
    members: Ints,
    experience: TenantExperience,
    index: ArchetypeIndex,
) -> TuningEvidence:
    """Return validation losses and priors of some requests; a request's own tenant is left out of
    its priors.
    """
    rows, known = view.rows, experience
    own_ids = [rows.tenant_ids[tenant] for tenant in rows.tenants[requests]]
    found = _neighbours(index, rows.features[requests], own_ids, view.search.neighbours)
    priors = request_priors(known, found, own_ids)
    return TuningEvidence(
        losses=view.evidence_at(rows.evidence, requests, members),
        violations=view.evidence_at(rows.evidence_violations, requests, members),
        priors={kind: prior.astype(np.float32) for kind, prior in priors.items()},
        violation_priors=request_violations(known, found, own_ids).astype(np.float32),
    )


def _neighbours(index: ArchetypeIndex, features: Floats, own_ids: list[str], k: int) -> Retrieved:
    """Return the nearest tenants of requests by their features [R, F], without their own; none if
    that is the index's only tenant.
    """
    labels = np.full(len(own_ids), "", dtype=str)
    if len(index.tenant_ids) == 1 and index.tenant_ids[0] in own_ids:
        return Retrieved(np.empty((len(labels), 0), np.int64), np.empty((len(labels), 0)), labels)
    found = index.query(features, k, own_ids)
    return Retrieved(found.indices, found.similarity, labels)
