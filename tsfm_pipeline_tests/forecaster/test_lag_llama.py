"""Test Lag-Llama's architecture on random weights; no published weights are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import t as student_t

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.lag_llama import (
    LagLlama,
    LagLlamaPredictor,
    LagLlamaSizes,
    load_lag_llama,
    published_lags,
)
from tsfm_pipeline.forecaster.registry import CheckpointError

SIZES = LagLlamaSizes(num_layers=2, num_heads=2, head_dims=8, lags=(0, 1, 4, 9))
WINDOWS = np.random.default_rng(0).normal(3, 2, (5, 40)).astype(np.float32)


def network(sizes: LagLlamaSizes = SIZES) -> LagLlama:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LagLlama(sizes)


def test_the_published_sizes_have_the_published_lags_and_parameters():
    lags = published_lags()
    assert (len(lags), lags[:6], lags[-3:]) == (84, (0, 7, 8, 10, 11, 12), (1090, 1091, 1092))
    n_parameters = sum(p.numel() for p in network(LagLlamaSizes()).parameters())
    # The earlier work counts 2,450,708: with its projection of 20 features to one (20 to 64 to 1).
    assert n_parameters == 2_449_299
    assert n_parameters + (20 * 64 + 64) + (64 + 1) == 2_450_708


def test_a_token_holds_the_scaled_values_at_the_lags_then_location_and_scale():
    values = torch.from_numpy(WINDOWS).double()
    tokens, location, scale = network().tokens(values)
    assert tokens.shape == (5, 40 - 9, 4 + 2 + 6)
    quarter, median, three = np.quantile(WINDOWS, [0.25, 0.5, 0.75], axis=1)
    np.testing.assert_allclose(location[:, 0], median, rtol=1e-6)
    np.testing.assert_allclose(scale[:, 0], three - quarter, rtol=1e-5)
    scaled = (WINDOWS - median[:, None]) / (three - quarter)[:, None]
    np.testing.assert_allclose(tokens[:, -1, :4], scaled[:, [39, 38, 35, 30]], atol=1e-5)
    np.testing.assert_allclose(tokens[:, 7, 5], np.log(three - quarter), atol=1e-5)


def test_no_output_depends_on_a_later_token():
    model = network()
    tokens = torch.randn(2, 20, SIZES.n_features, generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 12:] = 5.0
    for before, after in zip(model(tokens), model(changed), strict=True):
        torch.testing.assert_close(before[:, :12], after[:, :12])
        assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_attention_knows_how_far_away_a_token_is():
    model = network()
    tokens = torch.randn(1, 20, SIZES.n_features, generator=torch.Generator().manual_seed(1))
    moved = tokens[:, torch.cat([torch.arange(18).flip(0), torch.arange(18, 20)])]
    assert not torch.allclose(model(tokens)[1][:, -1], model(moved)[1][:, -1])


def test_the_columns_are_the_location_and_the_deciles_of_the_students_t():
    model = network()
    forecast = LagLlamaPredictor(model)(WINDOWS, 3)
    assert forecast.shape == (5, 3, 10)
    assert (np.diff(forecast[..., 1:], axis=-1) > 0).all()
    tokens, centre, unit = model.tokens(torch.from_numpy(WINDOWS).double())
    freedom, location, scale = (part[:, -1].double() for part in model(tokens.float()))
    expected = student_t.ppf(
        np.arange(1, 10) / 10,
        freedom.detach().numpy()[:, None],
        (location * unit[:, 0] + centre[:, 0]).detach().numpy()[:, None],
        (scale * unit[:, 0]).detach().numpy()[:, None],
    )
    np.testing.assert_allclose(forecast[:, 0, 1:], expected, rtol=1e-6)


def test_a_saved_model_forecasts_a_grid_in_the_units_of_the_values(tmp_path: Path):
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    forecaster = load_lag_llama(tmp_path, SIZES)
    config = [ForecastConfig(context_len=40)]
    grid = forecaster.forecast_grid(WINDOWS, np.array([39]), config, 2)
    assert grid.shape == (5, 1, 1, 2, 10)
    larger = forecaster.forecast_grid(WINDOWS * 2, np.array([39]), config, 2)
    assert np.isfinite(larger).all()
    assert np.isnan(forecaster.forecast_grid(WINDOWS, np.array([38]), config, 2)).all()


def test_without_weights_or_with_others_it_refuses(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match="no weights in this project, and none are downloaded"
    ):
        load_lag_llama(None)
    with pytest.raises(CheckpointError, match="neither a registered checkpoint nor a directory"):
        load_lag_llama(tmp_path / "absent")
    (tmp_path / "lag-llama.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled"):
        load_lag_llama(tmp_path / "lag-llama.ckpt")
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit Lag-Llama"):
        load_lag_llama(tmp_path)
