"""Test slow thinking behind the protocol of forecasters."""

from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.adapters import save_adapter, with_adapter
from tsfm_pipeline.studies.time_r1.checkpoints import POLICY_VARIABLE, load_promoted
from tsfm_pipeline.studies.time_r1.forecaster import SlowThinkingForecaster
from tsfm_pipeline.studies.time_r1.forecaster_plugin import make
from tsfm_pipeline.studies.time_r1.options import LoraOptions
from tsfm_pipeline.studies.time_r1.own_policy import load_policy, save_policy
from tsfm_pipeline_tests.studies.time_r1.thinking_setting import (
    LOOK_BACK,
    SEASON,
    random_asker,
    random_policy,
)

ORIGINS = np.array([[60, 100], [31, 99], [70, 101]])


def forecaster() -> SlowThinkingForecaster:
    return SlowThinkingForecaster(random_asker(), None, (), LOOK_BACK)


def telemetry() -> np.ndarray:
    """Three noisy series; the second is observed from step 4 on, the third has a gap."""
    values = np.random.default_rng(0).gamma(2.0, 1.0, (3, 110)).astype(np.float32)
    values[1, :4] = np.nan
    values[2, 80:83] = np.nan
    return values


def panel(values: np.ndarray) -> Panel:
    return Panel(values, (SEASON,), lower=0.0, upper=4.0)


@pytest.mark.parametrize("horizon", [1, 3])
def test_deciles_have_the_form_of_the_protocol(horizon: int) -> None:
    deciles = forecaster().forecast(panel(telemetry()), ORIGINS, horizon)
    assert deciles.shape == (3, 2, horizon, 9)
    known = np.isfinite(deciles).all(axis=(2, 3))
    # Step 31 of the second series is the 28th that is observed, fewer than the look-back.
    assert known.tolist() == [[True, True], [False, True], [True, True]]
    assert np.isnan(deciles[1, 0]).all()
    assert (np.diff(deciles[known], axis=-1) >= 0).all()
    assert deciles[known].min() >= 0.0
    assert deciles[known].max() <= 4.0


def test_no_forecast_reads_a_value_after_its_origin() -> None:
    values, origins = telemetry(), ORIGINS[:, :1]
    before = forecaster().forecast(panel(values), origins, 3)
    noise = np.random.default_rng(1)
    for row, origin in zip(values, origins[:, 0], strict=True):
        row[origin + 1 :] = noise.exponential(20.0, len(row) - origin - 1)
    after = forecaster().forecast(panel(values), origins, 3)
    np.testing.assert_array_equal(before, after)


def test_requests_are_independent_of_each_other_and_of_the_panel_before_the_gap() -> None:
    values = telemetry()
    together = forecaster().forecast(panel(values), ORIGINS, 2)
    alone = forecaster().forecast(panel(values[:1]), ORIGINS[:1, 1:], 2)
    np.testing.assert_allclose(together[0, 1], alone[0, 0], rtol=1e-6)


def test_thoughts_tell_series_origin_and_reason() -> None:
    (rows, columns, thought), *others = forecaster().thoughts(panel(telemetry()), ORIGINS, 2)
    assert not others
    assert rows.tolist() == [0, 0, 1, 2, 2]
    assert columns.tolist() == [0, 1, 1, 0, 1]
    assert all(reason.startswith("The draft is ") for reason in thought.reasons)
    deciles = forecaster().forecast(panel(telemetry()), ORIGINS, 2)
    np.testing.assert_allclose(deciles[rows, columns], thought.deciles, rtol=1e-6)


@pytest.mark.heavy
def test_the_plugin_asks_the_policy_of_the_folder_and_names_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path))
    with pytest.raises(CheckpointError, match=r"base/config\.json does not exist"):
        make.digest()
    save_policy(random_policy(), tmp_path / "base", {})
    first = make.digest()
    made = make(100)
    assert isinstance(made, SlowThinkingForecaster)
    assert made.name == "slow_thinking"
    save_policy(random_policy(2), tmp_path / "base", {})
    assert make.digest() != first


def test_the_facts_of_a_policy_are_those_of_its_last_adapter_and_the_licence_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path))
    settings = Settings(data_dir=tmp_path)
    save_policy(random_policy(), tmp_path / "base", {"licence": "MIT", "validation_reward": 0.1})
    alone = load_promoted(settings)
    assert (alone.facts["licence"], alone.facts["validation_reward"]) == ("MIT", 0.1)
    adapted = with_adapter(load_policy(tmp_path / "base"), LoraOptions(rank=1), 0)
    save_adapter(adapted, tmp_path / "sft", {"validation_reward": 0.2})
    trained = load_promoted(settings)
    assert (trained.facts["licence"], trained.facts["validation_reward"]) == ("MIT", 0.2)
    assert trained.source == tmp_path
