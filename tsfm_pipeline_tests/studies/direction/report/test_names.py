"""Test that names in tables become names for people.

What belongs here: names and families. What does not: sentences (`test_shown`).
"""

import pytest

from tsfm_pipeline.studies.direction.report.names import FAMILIES, family_of, scorer_label


@pytest.mark.parametrize(
    ("scorer", "family", "label"),
    [
        ("volatility_logit", "volatility", "volatility logit"),
        ("garch", "garch", "GJR-GARCH"),
        ("egarch", "garch", "EGARCH"),
        ("untrained_rsi", "untrained", "minus RSI, untrained"),
        ("untrained_vix", "untrained", "untrained: VIX"),
        ("patchtst", "patchtst", "PatchTST"),
        ("patchtst_revin", "patchtst", "PatchTST, RevIN"),
        ("zero_shot_returns_80_mean", "mean", "frozen model: returns, 80 days, mean"),
        ("zero_shot_log_close_512_spread", "spread", "frozen model: log close, 512 days, spread"),
        ("zero_shot_close_256_probability", "probability", "frozen model: close, 256 days, P"),
        ("probe_returns_80_all", "probe", "probe: returns, 80 days, all"),
        ("covariates_first_80_mean", "covariates", "with covariates: first, 80 days, mean"),
        ("fine_tuned_labels", "fine_tuned", "fine-tuned: labels"),
        ("something_new", "other", "something new"),
    ],
)
def test_a_scorer_has_a_family_and_a_plain_name(scorer: str, family: str, label: str) -> None:
    assert family_of(scorer) == family
    assert family in FAMILIES
    assert scorer_label(scorer) == label
