"""Test settings: the environment is read, mistakes are refused, and constants agree with each
other.
"""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.search_settings import EARLIER_CONSTANTS
from tsfm_pipeline.settings import (
    CHEAP,
    PROJECT_ROOT,
    RESAMPLES,
    EvaluationSettings,
    SearchSettings,
    Settings,
)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("TSFM_")]:
        monkeypatch.delenv(name)


def test_defaults_lie_in_the_project() -> None:
    settings = Settings()
    assert settings.data_dir == PROJECT_ROOT / "data"
    assert settings.fleet_specs_dir == PROJECT_ROOT / "data" / "fleets"
    assert settings.fleet_tables_dir == PROJECT_ROOT / "data" / "external"
    assert settings.lake_dir == PROJECT_ROOT / "data" / "lake"
    assert settings.checkpoint == "bundled"


def test_the_environment_is_read_down_to_nested_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TSFM_EVALUATION__BOOTSTRAP_DRAWS", "2000")
    monkeypatch.setenv("TSFM_SEARCH__CANDIDATES", '["ctx64", "ctx128-r5"]')
    settings = Settings()
    assert settings.reports_dir == tmp_path / "reports"
    assert settings.evaluation.bootstrap_draws == 2000
    assert settings.search.candidates == ("ctx64", "ctx128-r5")


def test_relative_folders_are_made_absolute_so_that_step_processes_agree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("data")).data_dir == tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("TSFM_DTYPE", "float16", "dtype"),
        ("TSFM_MATRIX_PRODUCT", "mkl", "matrix_product"),
        ("TSFM_PROFILE", "quick", "profile"),
        ("TSFM_SHARD_TENANTS", "0", "shard_tenants"),
        ("TSFM_EVALUATION__TUNING_SHARE", "1", "tuning_share"),
        ("TSFM_EVALUATION__BOOTSTRAP_DRAW", "2000", "bootstrap_draw"),
        ("TSFM_SEARCH__NEIGHBOURS", "none", "neighbours"),
    ],
)
def test_a_wrong_value_or_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=field):
        Settings()


def test_settings_survive_json_as_the_resources_carry_them(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, shard_tenants=3)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_the_candidates_suffice_for_every_size_that_is_timed_and_reach_two_days_back() -> None:
    search, evaluation = Settings().search, Settings().evaluation
    assert (
        len(search.candidates)
        >= search.ranked_size
        >= max(evaluation.latency_sizes)
        >= search.portfolio_size
    )
    assert any(
        ForecastConfig.from_name(name).context_len >= 2 * 1440 for name in search.candidates
    ), "no configuration sees two days"


def test_the_cheap_profile_lowers_what_is_above_its_limits_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TSFM_EVALUATION__BOOTSTRAP_DRAWS", "500")
    full = Settings()
    monkeypatch.setenv("TSFM_PROFILE", "cheap")
    cheap = Settings()
    assert cheap.evaluation.bootstrap_draws == 500
    assert cheap.search.portfolio_size == CHEAP["search"]["portfolio_size"]
    for section, limits in CHEAP.items():
        lowered = getattr(cheap, section).model_dump(exclude=set(limits))
        assert lowered == getattr(full, section).model_dump(exclude=set(limits))
    assert (cheap.lake_dir, full.lake_dir) == (tmp_path / "cheap" / "lake", tmp_path / "lake")
    assert cheap.fleet_specs_dir == full.fleet_specs_dir
    assert Settings.model_validate_json(cheap.model_dump_json()) == cheap


def test_the_cheap_profile_caps_every_number_of_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSFM_PROFILE", "cheap")
    many = dict.fromkeys(RESAMPLES, 1000000)
    evaluation = Settings(evaluation=EvaluationSettings(**many)).evaluation
    assert {name for name in RESAMPLES if getattr(evaluation, name) > 1_000} == set()
    drawn = [
        evaluation.bootstrap,
        evaluation.group_bootstrap,
        evaluation.latency_bootstrap,
        evaluation.control,
    ]
    swapped = [evaluation.label_swaps, evaluation.headroom_null, evaluation.control]
    assert all(0 < one["n_draws"] <= 1_000 for one in drawn)
    assert all(0 < one["n_permutations"] <= 200 for one in swapped)


def test_groups_are_not_resampled_more_often_than_the_whole() -> None:
    few = EvaluationSettings(bootstrap_draws=300, permutations=150)
    assert (few.group_bootstrap["n_draws"], few.headroom_null["n_permutations"]) == (300, 150)
    full = EvaluationSettings()
    assert (full.group_bootstrap["n_draws"], full.headroom_null["n_permutations"]) == (2_000, 999)


def test_dagsters_home_lies_with_the_data_and_for_a_checkouts_own_data_where_make_has_it(
    tmp_path: Path,
) -> None:
    assert Settings(data_dir=tmp_path).dagster_home == tmp_path / ".dagster"
    assert Settings().dagster_home == PROJECT_ROOT / ".dagster"
    assert "export DAGSTER_HOME ?= $(CURDIR)/.dagster\n" in (PROJECT_ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("fields", "field", "allowed"),
    [
        (
            {"rules": ["softmax", "best"]},
            "rules",
            "unknown: best; allowed: argmin, shrunken_argmin",
        ),
        ({"rules": []}, "rules", "at least 1 item"),
        ({"rules": ["gate", "gate"]}, "rules", "a name is listed twice"),
        ({"rules": ["argmin"]}, "", "declared_rule is 'gate', .* allowed: argmin "),
        ({"declared_rule": "best"}, "", "declared_rule is 'best', .* allowed: argmin, "),
        ({"gate_traits": ["width"]}, "gate_traits", "unknown: width; allowed: posterior, fleet, "),
        ({"gate_traits": ["seasons_ago_0"]}, "gate_traits", "allowed: .* seasons_ago_<n>"),
        ({"gate_coefficients": {"width": 1}}, "gate_coefficients", "unknown: width; allowed: "),
        ({"gate_coefficients": {"spread": math.inf}}, "gate_coefficients.spread", "finite"),
        ({"base_shift_errors": -1}, "base_shift_errors", "greater than or equal to 0"),
        ({"portfolio_temperature": 0}, "portfolio_temperature", "greater than 0"),
        ({"token_budget": 0}, "token_budget", "greater than or equal to 1"),
    ],
)
def test_a_constant_of_the_search_that_makes_no_sense_is_refused_with_what_is_allowed(
    fields: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(ValidationError, match=allowed) as refused:
        SearchSettings(**fields)
    (problem,) = refused.value.errors()
    assert ".".join(map(str, problem["loc"])) == field


def test_traits_of_seasons_may_lie_any_number_of_seasons_back() -> None:
    chosen = SearchSettings(gate_traits=("spread", "seasons_ago_14"))
    assert chosen.gate_traits == ("spread", "seasons_ago_14")
    assert SearchSettings(gate_coefficients={"seasons_ago_10": -1}).parameters()[
        "gate_coefficients"
    ] == {"seasons_ago_10": -1.0}


def test_the_constants_of_earlier_releases_are_fields_with_valid_values() -> None:
    assert EARLIER_CONSTANTS.keys() < SearchSettings.model_fields.keys()
    changed = {"gate_even_share", "switch_tenants"}  # their defaults are others since
    earlier = SearchSettings(**EARLIER_CONSTANTS)
    assert earlier == SearchSettings().model_copy(
        update={name: EARLIER_CONSTANTS[name] for name in changed}
    )
    assert not EARLIER_CONSTANTS.keys() & earlier.parameters().keys()
    others = SearchSettings.model_fields.keys() - EARLIER_CONSTANTS.keys()
    assert earlier.parameters().keys() == others
    assert SearchSettings().parameters().keys() == others | changed
    assert SearchSettings().parameters("token_budget", "neighbours") == {"neighbours": 5}
