"""Test that fitting recovers the constants planted for each rule, chooses the cheapest rule, and
reads only its sample.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.policy import SearchPolicy, TierPolicy, level_unit
from tsfm_pipeline.autoresearch.rules import PRIOR_KINDS, RULES
from tsfm_pipeline.autoresearch.tuning import fit_policy
from tsfm_pipeline.autoresearch.tuning_rows import TuningEvidence
from tsfm_pipeline.baselines.combinations import SharedChoices, TuningSample, choose
from tsfm_pipeline.evaluation.arrays import tier_losses
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS, decision_quantile
from tsfm_pipeline.evaluation.protocol import ALPHAS, HIGHEST_ALPHA, TIERS
from tsfm_pipeline.settings import SearchSettings

pytestmark = pytest.mark.heavy

R, D, K, J, A, H = 60, 2, 3, 4, 3, 5
TENANTS = np.repeat(np.arange(R // 4), 4)
NAMES = ("ctx64", "ctx128", "ctx256")
OFFSETS, SEASON = (60, 120, 180, 1440), 1440
SETTINGS = SearchSettings(
    candidates=NAMES,
    shrinkages=(0.01, 4.0, 1000.0),
    half_lives=(np.inf, 12.0),
    same_hours=(0.0, 50.0),
    temperatures=(0.01, 0.1, 10.0),
    top_ms=(2,),
    margins=(0.0, 0.05, np.inf),
    tilts=(0.05, np.inf),
    ensemble_epsilons=(0.0, 0.5),
    base_shifts=(-0.5, 0.0, 0.5),
    correction_gains=(0.0, 0.5, 1.0),
    correction_shrinkages=(0.01, 1000.0),
)


def _sample(
    errors: np.ndarray, actual: np.ndarray | None = None, **fields: np.ndarray
) -> TuningSample:
    """Decisions [R, D, K] or [R, D, K, H] that are the same at every tier and, per series, of
    spread 1; their losses; actual 0.
    """
    decisions = np.repeat(errors[..., None], H, axis=-1) if errors.ndim == 3 else errors
    actual = np.zeros((R, D, H)) if actual is None else actual
    losses = np.abs(decisions - actual[:, :, None]).mean(axis=-1)
    return TuningSample(
        losses=np.repeat(losses[..., None], A + 1, axis=-1),
        owners=TENANTS,
        archetypes=[""] * R,
        decisions=np.repeat(decisions[:, :, :, None], A, axis=3),
        spread=fields.get("spread", np.ones((R, D, K, H))),
        actual=actual,
        scale=fields.get("scale", np.ones((R, D))),
        tenants=TENANTS,
    )


def _evidence(
    losses: np.ndarray, violations: np.ndarray | None = None, **fields: np.ndarray
) -> TuningEvidence:
    """Validation losses [R, D, K, J], the same at every tier; nothing known of priors or violations
    unless given.
    """
    flat = np.ones((R, D, K, A))
    return TuningEvidence(
        losses=np.repeat(losses[..., None], A, axis=-1),
        violations=np.broadcast_to(1 - np.array(ALPHAS), (R, D, K, J, A))
        if violations is None
        else violations,
        priors={kind: fields.get(kind, flat) for kind in PRIOR_KINDS},
        violation_priors=np.full((R, D, K, A), np.nan),
    )


def _as_losses(errors: np.ndarray) -> np.ndarray:
    """The size of each configuration's error [R, D, K] as its loss at every validation origin [R,
    D, K, J].
    """
    return np.repeat(np.abs(errors)[..., None] + 0.1, J, axis=-1)


def _fit(
    sample: TuningSample,
    evidence: TuningEvidence,
    settings: SearchSettings = SETTINGS,
    choices: SharedChoices | None = None,
) -> SearchPolicy:
    return fit_policy(
        settings, NAMES, OFFSETS, SEASON, sample, evidence, choices or choose(sample, TIERS), TIERS
    )


def _tiers(policy: SearchPolicy) -> list[TierPolicy]:
    return list(policy.tiers.values())


def _shuffled(seed: int, *errors: float) -> np.ndarray:
    """These errors, dealt to the configurations anew at every series and request [R, D, K]."""
    return np.random.default_rng(seed).permuted(np.tile(errors, (R, D, 1)), axis=-1)


def test_evidence_that_tells_the_winner_is_trusted() -> None:
    """And the priors that say the opposite are not."""
    errors = _shuffled(5, 0.0, 2.0, 5.0)
    opposite = np.repeat((6 - np.abs(errors)[..., None]) ** 4, A, axis=-1)
    policy = _fit(
        _sample(errors), _evidence(_as_losses(errors), fleet=opposite, retrieved=opposite)
    )
    for tier in _tiers(policy):
        assert tier.rules["shrunken_argmin"].kappa == 0.01
        assert tier.rules["softmax"].temperature == 0.01
        assert tier.rules["no_harm"].margin < np.inf
        assert tier.figures[tier.default].loss == pytest.approx(0.0)
        assert tier.figures["argmin"].loss == pytest.approx(0.0)
        assert tier.figures["fixed"].loss > 0.1
    assert (policy.portfolio, policy.horizon, policy.offsets, policy.season) == (
        NAMES,
        H,
        OFFSETS,
        SEASON,
    )


@pytest.mark.parametrize("kind", PRIOR_KINDS)
def test_the_prior_that_tells_the_winner_is_trusted_where_evidence_is_noise(kind: str) -> None:
    errors = _shuffled(6, 0.0, 2.0, 5.0)
    noise = np.random.default_rng(6).exponential(size=(R, D, K, J))
    told = np.repeat(np.abs(errors)[..., None] + 0.1, A, axis=-1)
    for tier in _tiers(_fit(_sample(errors), _evidence(noise, **{kind: told}))):
        rule = tier.rules["shrunken_argmin"]
        assert (rule.prior, rule.kappa) == (kind, 1000.0)
        assert tier.default == "shrunken_argmin"


@pytest.mark.parametrize(
    ("telling", "half_life", "same_hour"), [(slice(0, 1), 12 * H, 0.0), (slice(3, 4), None, 50.0)]
)
def test_the_origins_that_tell_are_heard(
    telling: slice, half_life: float | None, same_hour: float
) -> None:
    """The latest origin alone is like what comes; or the same hour of yesterday alone."""
    errors = _shuffled(7, 0.0, 2.0, 5.0)
    losses = np.random.default_rng(7).exponential(3.0, size=(R, D, K, J))
    losses[..., telling] = _as_losses(errors)[..., telling]
    for tier in _tiers(_fit(_sample(errors), _evidence(losses))):
        rule = tier.rules["argmin"]
        assert rule.same_hour == same_hour
        assert half_life is None or rule.half_life == half_life


def test_the_seed_decides_which_tenants_judge_the_gate_and_not_the_gate_itself() -> None:
    errors = _shuffled(9, 0.0, 2.0, 5.0)
    noise = np.random.default_rng(9).exponential(size=(R, D, K, J))
    seeds = [0, 1, 0]
    settings = [SETTINGS.model_copy(update={"gate_seed": seed}) for seed in seeds]
    first, other, again = (_fit(_sample(errors), _evidence(noise), own) for own in settings)
    assert first == again
    for ours, theirs in zip(_tiers(first), _tiers(other), strict=True):
        assert ours.rules["gate"] == theirs.rules["gate"]
        assert ours.figures["gate"].loss != theirs.figures["gate"].loss


def test_averaging_is_chosen_where_errors_cancel() -> None:
    """Two configurations err to opposite sides by luck that no evidence tells; the third is far
    off, and evidence tells.
    """
    side = np.random.default_rng(7).choice([-1.0, 1.0], size=(R, D))
    errors = np.stack([side, -side, np.full((R, D), 30.0)], axis=-1)
    for tier in _tiers(_fit(_sample(errors), _evidence(_as_losses(errors)))):
        assert tier.default == "top_m", "of rules that cost the same, the simplest"
        assert tier.figures["softmax"].loss == tier.figures["top_m"].loss == pytest.approx(0.0)
        assert tier.figures["shrunken_argmin"].loss > 0.05
        assert tier.rules["softmax"].temperature < 10.0


def test_rules_are_judged_on_tenants_that_did_not_choose_their_constants() -> None:
    """Each configuration is right at a third of the tenants. Whichever a part's others prefer is
    right at fewer of the part's own.
    """
    lucky = TENANTS % K
    errors = np.where(np.arange(K) == lucky[:, None, None], 0.0, np.ones((R, D, 1)))
    nothing = _evidence(np.ones((R, D, K, J)))
    for alpha, tier in zip(ALPHAS, _tiers(_fit(_sample(errors), nothing)), strict=True):
        chosen_on_all = (1 - alpha) * 2 / 3
        assert tier.figures["fixed"].loss > 1.1 * chosen_on_all
        assert tier.figures["no_harm"].loss > 1.1 * chosen_on_all


def test_few_tenants_do_not_replace_the_declared_rule() -> None:
    side = np.random.default_rng(7).choice([-1.0, 1.0], size=(R, D))
    errors = np.stack([side, -side, np.full((R, D), 30.0)], axis=-1)
    sample, evidence = _sample(errors), _evidence(_as_losses(errors))
    for least, default in ((R // 4, "top_m"), (R // 4 + 1, "gate")):
        settings = SETTINGS.model_copy(update={"switch_tenants": least})
        assert {tier.default for tier in _tiers(_fit(sample, evidence, settings))} == {default}


def test_the_fixed_configuration_is_kept_where_leaving_it_costs() -> None:
    errors = np.tile([1.0, 2.0, 2.0], (R, D, 1))
    noise = np.random.default_rng(8).exponential(size=(R, D, K, J))
    for tier in _tiers(
        _fit(_sample(errors), _evidence(noise), SETTINGS.model_copy(update={"shrinkages": (0.01,)}))
    ):
        rule = tier.rules["no_harm"]
        assert (rule.margin, rule.fixed) == (np.inf, 0)
        assert tier.default == "no_harm"
        assert tier.figures["no_harm"].loss == tier.figures["fixed"].loss


def test_the_static_ensemble_is_left_alone_where_nothing_tells_more() -> None:
    side = np.random.default_rng(9).choice([-1.0, 1.0], size=(R, D))
    errors = np.stack([side, -side, 5 * side], axis=-1)
    sample = _sample(errors)
    misleading = _as_losses(np.tile([0.0, 9.0, 1.0], (R, D, 1)))
    choices = choose(sample, TIERS)
    for name, tier in _fit(sample, _evidence(misleading), choices=choices).tiers.items():
        rule = tier.rules["tilted_ensemble"]
        assert isinstance(rule, rules.TiltedEnsemble)
        assert (rule.temperature, rule.epsilon) == (np.inf, 0.0)
        assert rule.base == choices.tiers[name].ensemble_weights


def test_the_level_is_corrected_where_past_violations_tell_it() -> None:
    """Outcomes lie as many spreads above the decision as there were violations too many."""
    rng = np.random.default_rng(8)
    excess = rng.uniform(-0.2, 0.5, size=(R, D, 1, 1, 1))
    violations = 1 - np.array(ALPHAS) + np.broadcast_to(excess, (R, D, K, J, A))
    spread = rng.uniform(1, 9, size=(R, D, 1, H)) * np.ones((1, 1, K, 1))
    actual = excess[..., 0, 0] * spread[:, :, 0]
    nothing_to_choose = _evidence(np.ones((R, D, K, J)), violations)
    for tier in _tiers(
        _fit(_sample(np.zeros((R, D, K, H)), actual, spread=spread), nothing_to_choose)
    ):
        for correction in (tier.correction, tier.fixed_correction):
            assert correction is not None
            assert (correction.gain, correction.base_shift, correction.kappa) == (1.0, 0.0, 0.01)
        for corrected in ("corrected", "fixed_corrected"):
            assert tier.figures[corrected].loss < 0.02 * tier.figures["fixed"].loss
    opposite = _sample(np.zeros((R, D, K, H)), -actual, spread=spread)
    assert {
        tier.correction.gain
        for tier in _tiers(_fit(opposite, nothing_to_choose))
        if tier.correction
    } == {0.0}


def test_the_correction_can_be_switched_off_and_its_rival_stays() -> None:
    errors = _shuffled(10, 0.0, 2.0, 5.0)
    sample, evidence = _sample(errors), _evidence(_as_losses(errors))
    on, off = (
        _fit(sample, evidence),
        _fit(sample, evidence, SETTINGS.model_copy(update={"level_correction": False})),
    )
    for tier, without in zip(_tiers(on), _tiers(off), strict=True):
        assert without.correction is None
        assert without.fixed_correction == tier.fixed_correction
        assert without.rules == tier.rules
        assert without.figures["corrected"] == without.figures[without.default]


def test_fitting_is_not_swayed_by_units() -> None:
    """Row 5 of docs/evidence-protocol.md#mistakes-made-impossible: bytes per second decided
    everything. Metric 1 has a billion times the unit and says the opposite of metric 0.
    """
    errors = np.stack(
        [np.tile([0.0, 1.0, 1.0], (R, 1)), np.tile([0.3, 0.0, 1.0], (R, 1))], axis=1
    )  # [R, D, K]
    noise = np.random.default_rng(11).exponential(size=(R, D, K, J))
    fitted = []
    for unit in (1.0, 1e9):
        units = np.array([1.0, unit])[:, None]
        sample = _sample(
            errors * units,
            spread=np.ones((R, D, K, H)) * units[..., None],
            scale=np.ones((R, D)) * units[:, 0],
        )
        sample = replace(
            sample, losses=sample.losses / np.tile(units[:, 0], (R, 1))[:, :, None, None]
        )
        fitted.append(_fit(sample, _evidence(noise * units[..., None])))
    for small, large in zip(*map(_tiers, fitted), strict=True):
        gates = [tier.rules["gate"].model_dump() for tier in (small, large)]
        assert {**small.rules, "gate": None} == {**large.rules, "gate": None}
        assert gates[0]["coefficients"] == pytest.approx(
            gates[1]["coefficients"], rel=1e-3, abs=1e-4
        )
        assert gates[0]["intercepts"] == pytest.approx(gates[1]["intercepts"], rel=1e-3, abs=1e-4)


def test_what_cannot_be_scored_does_not_matter() -> None:
    """A series without a scale, a request without outcome, one without any forecast, and evidence
    where nothing is available.
    """
    errors = _shuffled(12, 0.0, 2.0, 5.0)
    sample, evidence = _sample(errors), _evidence(_as_losses(errors))
    expected = _fit(sample, evidence, choices=choose(sample, TIERS))
    decisions, actual, scale = sample.decisions.copy(), sample.actual.copy(), sample.scale.copy()
    scale[0, 0], actual[1, 1], decisions[2, 0] = np.nan, np.nan, np.nan
    cut = _fit(
        replace(sample, decisions=decisions, actual=actual, scale=scale),
        evidence,
        choices=choose(sample, TIERS),
    )
    for left, whole in zip(_tiers(cut), _tiers(expected), strict=True):
        assert {**left.rules, "gate": None} == {**whole.rules, "gate": None}
        assert np.isfinite(list(left.rules["gate"].model_dump()["coefficients"].values())).all()
    with pytest.raises(
        ValueError,
        match="none of the 60 valid tuning requests has a forecast, an observed outcome and a "
        "scale",
    ):
        _fit(
            replace(sample, scale=np.full((R, D), np.nan)), evidence, choices=choose(sample, TIERS)
        )


def test_figures_stand_beside_the_default_s_with_an_error_over_tenants() -> None:
    errors = _shuffled(13, 0.0, 1.0, 2.0) * [1.0, 1.2, 1.2]  # all parts choose the first one
    noisy = _as_losses(errors) * np.random.default_rng(13).lognormal(sigma=0.5, size=(R, D, K, J))
    for alpha, tier in zip(ALPHAS, _tiers(_fit(_sample(errors), _evidence(noisy))), strict=True):
        assert set(tier.figures) == {*RULES, "corrected", "fixed", "fixed_corrected"}
        assert set(tier.rules) == set(RULES)
        default = tier.figures[tier.default]
        assert (default.excess_over_default, default.standard_error) == (0.0, 0.0)
        for name in RULES:
            figures = tier.figures[name]
            assert figures.excess_over_default == pytest.approx(figures.loss - default.loss)
            assert figures.excess_over_default >= 0
        fixed = tier.figures["fixed"]
        assert fixed.violation_rate == 0.0, "errors are upwards, and nothing exceeds them"
        per_request = (1 - alpha) * errors[..., tier.fixed_config].reshape(R // 4, -1)
        if default.loss == 0:
            spread = per_request.mean(axis=1).std(ddof=1) / np.sqrt(R // 4)
            assert fixed.standard_error == pytest.approx(spread, rel=1e-4)


def test_every_tier_is_fitted_at_its_own_alpha_and_from_its_own_column() -> None:
    """At each tier another configuration is right, and only that tier's evidence says so."""
    decisions = np.ones((R, D, K, A, H))
    losses = np.ones((R, D, K, J, A))
    for a in range(A):
        decisions[:, :, a, a], losses[:, :, a, :, a] = 0.0, 0.1
    sample = replace(_sample(np.zeros((R, D, K))), decisions=decisions)
    evidence = replace(_evidence(np.ones((R, D, K, J))), losses=losses)
    for tier in _tiers(_fit(sample, evidence)):
        assert tier.figures["argmin"].loss == pytest.approx(0.0)


def test_a_difference_that_few_tenants_cannot_carry_changes_no_declared_constant() -> None:
    """What speaks for other constants at one tenant and as loudly against them at another is noise;
    the same at all of them is not.
    """
    errors = _shuffled(15, 0.0, 2.0, 5.0)
    nothing = _evidence(np.ones((R, D, K, J)))
    declared = _fit(_sample(np.ones((R, D, K))), nothing)
    for tier in _tiers(declared):
        assert tier.default == "gate"
        for rule in tier.rules.values():
            assert (rule.prior, rule.half_life, rule.same_hour) == ("retrieved", np.inf, 50.0)
        assert tier.rules["softmax"].kappa == 4.0
    told = np.repeat(np.abs(errors)[..., None] + 0.1, A, axis=-1)
    tenant = np.arange(R)[:, None, None] // 4
    lucky = np.where(tenant == 0, errors, np.where(tenant == 1, 0.8 * (5 - errors), 1.0))
    chosen = {}
    for name, sample in (("lucky", _sample(lucky)), ("all", _sample(errors))):
        chosen[name] = _fit(
            sample, _evidence(np.ones((R, D, K, J)), fleet=told, retrieved=np.ones((R, D, K, A)))
        )
    for tier in TIERS:
        assert chosen["lucky"].tiers[tier].rules["softmax"].prior == "retrieved"
        assert chosen["all"].tiers[tier].rules["softmax"].prior == "fleet"


def test_a_single_tuning_tenant_leaves_everything_as_declared() -> None:
    errors = _shuffled(16, 0.0, 2.0, 5.0)
    nobody_else = np.zeros(R, dtype=np.int64)
    alone = replace(_sample(errors), owners=nobody_else, tenants=nobody_else)
    for tier in _tiers(_fit(alone, _evidence(_as_losses(errors)))):
        assert tier.default == "gate"
        assert tier.rules["gate"].model_dump()["coefficients"]["spread"] == pytest.approx(
            SETTINGS.gate_coefficients["spread"], abs=0.1
        )
        assert tier.rules["softmax"].kappa == 4.0
        assert tier.correction is not None
        assert tier.correction.base_shift == 0.0


def test_the_gate_hears_what_no_posterior_tells() -> None:
    """The configuration that forecasts most narrowly is right; evidence and priors know nothing."""
    errors = _shuffled(17, 0.0, 2.0, 5.0)
    narrow = np.repeat(1.0 + np.abs(errors)[..., None], H, axis=-1)
    noise = np.random.default_rng(17).exponential(size=(R, D, K, J))
    misled = np.where(np.arange(R)[:, None, None] // 4 % 2 == 0, 5.0 - errors, errors)
    learned, untaught = (
        _tiers(_fit(_sample(truth, spread=narrow), _evidence(noise))) for truth in (errors, misled)
    )
    for tier, other in zip(learned, untaught, strict=True):
        assert tier.default == "gate"
        assert tier.figures["gate"].loss < 0.7 * tier.figures["softmax"].loss
        heard, unsure = (
            one.rules["gate"].model_dump()["coefficients"]["spread"] for one in (tier, other)
        )
        assert heard < 2 * SETTINGS.gate_coefficients["spread"]
        assert unsure > heard, (
            "what is right at every other tenant and wrong at the rest teaches nothing"
        )


def test_fitting_is_repeatable() -> None:
    errors = _shuffled(14, 0.0, 1.0, 1.5)
    sample, evidence = _sample(errors), _evidence(_as_losses(errors))
    assert _fit(sample, evidence) == _fit(sample, evidence)
    fitted = _fit(sample, evidence)
    assert SearchPolicy.model_validate_json(fitted.model_dump_json()) == fitted


class _TrueDeciles:
    """Requests of a world in which every configuration forecasts the true deciles of one law."""

    def __init__(
        self, law: stats.rv_continuous, n_requests: int, alphas: tuple[float, ...], seed: int
    ) -> None:
        rng, shape = np.random.default_rng(seed), (n_requests, 1, K)
        self.deciles = np.broadcast_to(law.ppf(DECILE_LEVELS), (*shape, H, 9))
        self.actual = law.rvs(size=(n_requests, 1, H), random_state=rng)
        past = np.repeat(law.rvs(size=(n_requests, 1, 1, J, H), random_state=rng), K, axis=2)
        self.evidence = tier_losses(
            past, self.deciles[:, :, :, None], alphas
        )  # [R, D, K, J, A] each
        self.priors = {kind: np.ones((*shape, len(alphas))) for kind in PRIOR_KINDS}
        self.violation_priors = np.full((*shape, len(alphas)), np.nan)


LAWS = {
    "normal": stats.norm(10),
    "exponential": stats.expon(),
    "lognormal": stats.lognorm(1.0),
    "uniform": stats.uniform(),
}


@pytest.mark.parametrize("law", LAWS)
def test_alphas_above_the_deciles_are_exceeded_about_as_often_as_they_say(law: str) -> None:
    """The tail that is assumed there is that of one of these laws; the others are the tuning
    tenants' to correct.
    """
    tiers = {"gold": HIGHEST_ALPHA, "silver": 0.95}
    alphas = tuple(tiers.values())
    seen, new = _TrueDeciles(LAWS[law], 400, alphas, 0), _TrueDeciles(LAWS[law], 4000, alphas, 1)
    tenants = np.repeat(np.arange(100), 4)
    sample = TuningSample(
        losses=tier_losses(seen.actual[:, :, None], seen.deciles, (*alphas, 0.5))[0],
        owners=tenants,
        archetypes=[""] * 400,
        decisions=np.stack([decision_quantile(seen.deciles, alpha) for alpha in alphas], axis=3),
        spread=level_unit(seen.deciles),
        actual=seen.actual,
        scale=np.ones((400, 1)),
        tenants=tenants,
    )
    evidence = TuningEvidence(*seen.evidence, seen.priors, seen.violation_priors)
    settings = SETTINGS.model_copy(
        update={"base_shifts": SearchSettings().base_shifts, "correction_shrinkages": (16.0,)}
    )
    choices = choose(sample, tiers)
    policy = fit_policy(settings, NAMES, OFFSETS, SEASON, sample, evidence, choices, tiers)
    assert policy.alphas == tiers
    decided = policy.decide(
        new.deciles, *new.evidence, new.priors, new.violation_priors
    ).decision  # [R, D, A, H]
    deciles = new.deciles[:, :, 0]
    for a, (tier, alpha) in enumerate(tiers.items()):
        shifted = decision_quantile(deciles, alpha) + choices.tiers[tier].shift * level_unit(
            deciles
        )
        for decision in (decided[:, :, a], shifted):
            assert (new.actual > decision).mean() == pytest.approx(1 - alpha, abs=0.012)


def test_only_rules_of_the_settings_decide_and_the_others_are_scored_beside_them() -> None:
    errors = _shuffled(5, 0.0, 2.0, 5.0)
    sample, evidence = _sample(errors), _evidence(_as_losses(errors))
    free = _fit(sample, evidence)
    few = {"rules": ("no_harm", "top_m"), "declared_rule": "top_m"}
    for tier, other in zip(
        _tiers(_fit(sample, evidence, SETTINGS.model_copy(update=few))), _tiers(free), strict=True
    ):
        assert tier.default == "no_harm", "which saves more than an error against the declared rule"
        assert tier.rules == other.rules
        assert {name: tier.figures[name].loss for name in RULES} == {
            name: other.figures[name].loss for name in RULES
        }


def test_the_rule_that_was_declared_decides_unless_another_saves_more_than_an_error() -> None:
    nothing = _evidence(np.ones((R, D, K, J)))
    for name in RULES:
        settings = SETTINGS.model_copy(update={"declared_rule": name})
        assert {
            tier.default for tier in _tiers(_fit(_sample(np.ones((R, D, K))), nothing, settings))
        } == {name}


def test_the_rules_that_may_not_decide_can_be_left_out_and_no_decision_changes() -> None:
    errors = _shuffled(9, 0.0, 2.0, 5.0)
    noise = np.random.default_rng(9).exponential(size=(R, D, K, J))
    sample, evidence = _sample(errors), _evidence(noise)
    for names in (("gate",), ("argmin", "gate"), ("no_harm",)):
        settings = SETTINGS.model_copy(update={"rules": names, "declared_rule": names[-1]})
        choices = choose(sample, TIERS)
        whole, alone = (
            fit_policy(
                settings,
                NAMES,
                OFFSETS,
                SEASON,
                sample,
                evidence,
                choices,
                TIERS,
                only_deciding=only,
            )
            for only in (False, True)
        )
        for tier, other in zip(_tiers(whole), _tiers(alone), strict=True):
            assert set(other.rules) == set(names)
            assert other.figures == {name: tier.figures[name] for name in other.figures}
            assert other == tier.model_copy(update={"rules": other.rules, "figures": other.figures})
            assert other.rules == {name: tier.rules[name] for name in names}


def test_the_gate_uses_only_the_traits_of_the_settings() -> None:
    """The narrowest forecast is right; without the trait that tells it, the gate cannot know."""
    errors = _shuffled(17, 0.0, 2.0, 5.0)
    narrow = np.repeat(1.0 + np.abs(errors)[..., None], H, axis=-1)
    noise = np.random.default_rng(17).exponential(size=(R, D, K, J))
    sample, evidence = _sample(errors, spread=narrow), _evidence(noise)
    every = ("posterior", "fleet", "retrieved", "spread", "every_origin", "other_hours")
    fitted = {
        names: _tiers(_fit(sample, evidence, SETTINGS.model_copy(update={"gate_traits": names})))
        for names in (None, (*every, "seasons_ago_1"), ("spread",), ("posterior", "fleet"))
    }
    assert fitted[None] == fitted[(*every, "seasons_ago_1")]
    for whole, told, blind in zip(
        fitted[None], fitted[("spread",)], fitted[("posterior", "fleet")], strict=True
    ):
        coefficients = told.rules["gate"].model_dump()["coefficients"]
        assert list(coefficients) == list(whole.rules["gate"].model_dump()["coefficients"])
        assert {name for name, value in coefficients.items() if value} == {"spread"}
        assert coefficients["spread"] < 2 * SETTINGS.gate_coefficients["spread"]
        assert told.figures["gate"].loss < 0.7 * blind.figures["gate"].loss


def test_the_gate_starts_from_the_coefficients_of_the_settings() -> None:
    """And stays there under a penalty that no evidence outweighs."""
    errors = _shuffled(16, 0.0, 2.0, 5.0)
    heavy = {"gate_coefficients": {"spread": 0.5, "seasons_ago_9": -1.0}, "gate_ridge": 1e6}
    settings = SETTINGS.model_copy(update=heavy)
    for tier in _tiers(_fit(_sample(errors), _evidence(_as_losses(errors)), settings)):
        coefficients = tier.rules["gate"].model_dump()["coefficients"]
        assert coefficients.pop("spread") == pytest.approx(0.5, abs=1e-3)
        assert max(map(abs, coefficients.values())) < 1e-3
        assert "seasons_ago_9" not in coefficients, "no validation origin lies there"
