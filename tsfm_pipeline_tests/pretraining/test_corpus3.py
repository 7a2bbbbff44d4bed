"""Test what corpus 3 adds: missing points that cost nothing, rows of hours and days, heavy tails."""

import numpy as np
import pytest
import torch

from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.pretraining.added_processes import ADDED, daily_rows, event_sizes, workweek
from tsfm_pipeline.pretraining.corpus import CORPUS_2, PATCH, TARGET_LEN, Pool, PoolShape
from tsfm_pipeline.pretraining.corpus3 import (
    CORPUS_3,
    generate_block,
    sample_windows,
    spliced,
    standardised_observed,
    windows_of,
)
from tsfm_pipeline.pretraining.draw import Draw
from tsfm_pipeline.pretraining.heldout import validation_sets
from tsfm_pipeline.pretraining.network import normalised_inputs, running_statistics
from tsfm_pipeline.pretraining.objective import segment_losses

CPU = torch.device("cpu")


def flags(n: int, value: bool) -> torch.Tensor:
    return torch.full((n, 1), value)


def nobody_leads(n: int) -> torch.Tensor:
    return torch.zeros(n, 1, dtype=torch.long)


def gappy(n: int = 6, patches: int = 4) -> torch.Tensor:
    x = torch.randn(n, patches * PATCH + TARGET_LEN, generator=torch.Generator().manual_seed(1))
    lost = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    lost[:, 40:110] = True
    lost[0, :5] = True
    return torch.where(lost, torch.nan, x)


def test_corpus_2_has_none_of_the_added_processes():
    assert not set(ADDED) & set(CORPUS_2.processes)
    assert len(CORPUS_2.processes) == 23
    assert set(CORPUS_3.processes) == set(CORPUS_2.processes) | set(ADDED)
    for recipe in (CORPUS_2, CORPUS_3):
        assert {name for group in recipe.groups.values() for name in group} <= set(recipe.processes)


@pytest.mark.parametrize("name", ADDED)
def test_every_added_process_is_finite_and_moves(name: str):
    x = ADDED[name](Draw(1, 2, CPU), 16, 4096)
    assert x.shape == (16, 4096)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert (x.std(dim=-1) > 0).float().mean() >= 0.5


@pytest.mark.parametrize(("process", "season"), [(daily_rows, 7), (workweek, 24 * 7)])
def test_rows_of_days_and_hours_have_a_week(process, season: int):
    x = process(Draw(4, 2, CPU), 48, 168 * 40).double()
    changed = x - x.roll(season // 2 + 1, dims=-1)
    after_a_week = x - x.roll(season, dims=-1)
    ratio = after_a_week.square().mean(-1) / changed.square().mean(-1)
    # Some series have other days than of 24 rows, and some weeks drown in the rest.
    assert ratio.quantile(0.3) < 0.4


def test_events_have_heavy_tails_of_different_weight():
    sizes = event_sizes(Draw(1, 2, CPU), 200, 2000)
    top = sizes.quantile(0.99, dim=-1) / sizes.median(dim=-1).values
    assert (sizes.median(dim=-1).values - 1).abs().max() < 0.2
    assert top.min() < 2.5
    assert top.max() > 20


@pytest.mark.heavy
def test_a_block_depends_on_seed_and_number_alone_and_has_gaps():
    first = generate_block(3, 5, 64, CPU)
    torch.manual_seed(99)
    assert torch.equal(first.nan_to_num(9.0), generate_block(3, 5, 64, CPU).nan_to_num(9.0))
    missing = first.isnan()
    assert torch.isfinite(first[~missing]).all()
    assert 0.25 < missing.any(-1).float().mean() < 0.6
    assert 0.02 < missing.float().mean() < 0.2


def test_filled_windows_are_filled_as_the_forecaster_fills_them():
    x = gappy()
    windows = windows_of(x, flags(len(x), False), nobody_leads(len(x)))
    expected = Panel(standardised_observed(x).numpy()).filled
    known = ~np.isnan(expected)
    assert np.array_equal(windows.values.numpy()[known], expected[known])
    assert torch.equal(windows.masked, torch.from_numpy(~known[:, :-TARGET_LEN]))
    assert torch.equal(windows.observed, ~x.isnan())


def test_masked_windows_mask_what_is_missing_and_nothing_else():
    x = gappy()
    windows = windows_of(x, flags(len(x), True), nobody_leads(len(x)))
    assert torch.equal(windows.masked, x[:, :-TARGET_LEN].isnan())
    led = windows_of(x, flags(len(x), True), nobody_leads(len(x)) + 7)
    assert led.masked[:, :7].all()
    assert torch.equal(led.masked[:, 7:], windows.masked[:, 7:])


def test_neither_the_input_nor_the_loss_depends_on_a_missing_point():
    x = gappy()
    values, masked, observed = windows_of(x, flags(len(x), True), nobody_leads(len(x)))
    points = torch.randn(len(x), 4, 128, 10, generator=torch.Generator().manual_seed(3))

    def seen(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        patches, mask = values[:, :-TARGET_LEN].view(-1, 4, PATCH), masked.view(-1, 4, PATCH)
        mu, sigma = running_statistics(patches, mask)
        losses = segment_losses(points, values, mu, sigma, observed)
        return normalised_inputs(patches, mask, mu, sigma), losses.pinball, losses.scored

    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(4))
    for before, after in zip(
        seen(values), seen(torch.where(observed, values, 50 * noise)), strict=True
    ):
        assert torch.equal(before, after)


def test_a_loss_on_some_points_is_the_mean_over_these_points():
    x = torch.randn(2, 2 * PATCH + TARGET_LEN, generator=torch.Generator().manual_seed(5))
    points = torch.zeros(2, 2, 128, 10)
    mu, sigma = torch.zeros(2, 2), torch.ones(2, 2)
    observed = torch.ones_like(x, dtype=torch.bool)
    whole = segment_losses(points, x, mu, sigma)
    assert torch.allclose(segment_losses(points, x, mu, sigma, observed).pinball, whole.pinball)
    observed[:, PATCH + 1 :] = False
    only = segment_losses(points, x, mu, sigma, observed)
    # Zero forecasts cost half the size of the actual at the mean of the nine levels. The second
    # patch has no target left, so the first patch's first step is all that counts.
    assert torch.allclose(only.pinball[:, 0], 0.5 * x[:, PATCH].abs())


def test_windows_are_reproducible_and_some_mask_where_others_fill():
    pool = generate_block(0, 0, 64, CPU, 4096)
    for patches in (2, 16):
        values, masked, observed = sample_windows(pool, 7, 11, 64, patches)
        again = sample_windows(pool, 7, 11, 64, patches)
        assert all(map(torch.equal, (values, masked, observed), again))
        assert values.shape == (64, patches * PATCH + TARGET_LEN)
        assert torch.isfinite(values).all()
        lost = ~observed[:, PATCH:-TARGET_LEN]
        assert (lost & masked[:, PATCH:]).any()
        assert (lost & ~masked[:, PATCH:]).any()
        assert not (masked[:, PATCH:] & ~lost).any()


def test_a_spliced_series_follows_the_other_one_until_it_changes():
    x, earlier = (
        torch.zeros(400, 640),
        torch.randn(400, 640, generator=torch.Generator().manual_seed(3)),
    )
    joined = spliced(Draw(5, 2, CPU), x, earlier)
    last = (joined != 0).int().cumsum(-1).argmax(-1)
    assert (joined[:, -TARGET_LEN:] == 0).all()
    assert last.min() < 50
    assert last.max() > 460
    for row, other, until in zip(joined, earlier, last.tolist(), strict=True):
        if until > 50:
            scale = row[:until].std() / other[:until].std()
            assert 0.09 < scale < 11
            assert torch.corrcoef(torch.stack([row[:until], other[:until]]))[0, 1] > 0.999


def test_long_windows_of_corpus_4_are_spliced_more_often():
    walks = torch.arange(4096.0).expand(64, -1)  # every window is the same ramp, unless spliced
    shares = []
    for patches in (2, 64):
        plain, changed = (
            sample_windows(walks, 7, 11, 400, patches, splices).values for splices in (False, True)
        )
        bends = plain.diff(n=2).abs().amax(-1), changed.diff(n=2).abs().amax(-1)
        shares.append((bends[1] > bends[0].max() + 0.01).float().mean().item())
    assert shares[0] < 0.03
    assert 0.14 < shares[1] < 0.26


def test_an_aggregated_point_is_the_mean_of_what_is_not_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tsfm_pipeline.pretraining.corpus3.AGGREGATIONS", (4,))
    slow = torch.sin(torch.arange(4096) / 300).expand(8, -1)
    lost = torch.rand(slow.shape, generator=torch.Generator().manual_seed(6)) < 0.3
    whole = sample_windows(slow, 0, 1, 8, 2)
    partly = sample_windows(torch.where(lost, torch.nan, slow), 0, 1, 8, 2)
    assert 0.98 < partly.observed.float().mean() < 1
    assert (whole.values - partly.values)[partly.observed].abs().max() < 0.05


@pytest.mark.heavy
def test_a_pool_of_corpus_3_opened_late_equals_one_that_grew_there():
    shape = PoolShape(blocks=2, block_series=4, renew_every=2)
    grown = Pool(1, CPU, shape, generate_block)
    for step in range(5):
        grown.at(step)
    late = Pool(1, CPU, shape, generate_block).at(5)
    assert torch.equal(grown.at(5).nan_to_num(9.0), late.nan_to_num(9.0))


@pytest.mark.heavy
def test_validation_compares_the_same_gaps_masked_and_filled():
    sets = validation_sets("3", CPU)
    assert set(validation_sets("2", CPU)) < set(sets)
    masked, filled = sets["gaps_masked"], sets["gaps_filled"]
    assert torch.equal(masked.values, filled.values)
    assert masked.masked.float().mean() > filled.masked.float().mean() + 0.02
    assert sets["short"].masked.shape[1] == 4 * PATCH
    assert all(torch.isfinite(windows.values).all() for windows in sets.values())
