"""Test what a foundation model is shown of a market, and what its losses count."""

import numpy as np
import pytest
import torch

from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.pretraining.network import initialise
from tsfm_pipeline.pretraining.objective import segment_losses
from tsfm_pipeline.studies.direction.tuning_tasks import (
    ForecastTask,
    LabelledDays,
    LabelTask,
    ReturnWindows,
)

CPU = torch.device("cpu")
TINY = Architecture(
    model_dims=32,
    ff_dims=32,
    num_layers=1,
    num_heads=2,
    output_quantile_len=128,
    context_limit=1024,
)
RETURNS = np.concatenate([[np.nan], np.random.default_rng(0).normal(0, 0.01, 599)])


def tiny() -> torch.nn.Module:
    module = build_module(TINY)
    initialise(module, 0)
    return module


def label_task(known_to: int = 400) -> LabelTask:
    rng = np.random.default_rng(1)
    labels = (rng.random((600, 2)) < (0.2, 0.6)).astype(float)
    training, validation = np.zeros((600, 2), bool), np.zeros((600, 2), bool)
    training[100:known_to], validation[410:500, 0] = True, True
    beside = rng.normal(size=(600, 3)).astype(np.float32)
    windows = ReturnWindows(RETURNS, 80, CPU)
    return LabelTask(windows, LabelledDays(beside, labels), training, validation, 32, seed=0)


def test_a_window_ends_on_its_day_and_is_divided_by_the_deviation_of_its_context():
    values, masked, observed = ReturnWindows(RETURNS, 80, CPU).ending(np.array([200]), 210)
    context = RETURNS[121:201]
    assert values.shape == (1, 96 + 128)
    np.testing.assert_allclose(values[0, 16:96].numpy(), context / context.std(), rtol=1e-5)
    assert masked[0].tolist() == [True] * 16 + [False] * 80
    assert observed[0, 96:106].all()
    assert not observed[0, 106:].any()
    assert values[0, 106:].eq(0).all()


def test_the_first_day_has_a_whole_context_of_known_returns():
    assert ReturnWindows(RETURNS, 80, CPU).first_day() == 80


def test_no_return_after_the_last_training_day_is_seen_in_training():
    later = RETURNS.copy()
    later[401:] = 7.0
    batches = [
        ForecastTask(ReturnWindows(r, 80, CPU), 400, np.arange(410, 500), 5, 0).batch(3, 64, 3)
        for r in (RETURNS, later)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one, other)


def test_a_target_that_is_not_observed_changes_no_loss():
    windows = ReturnWindows(RETURNS, 64, CPU).ending(np.array([300, 301]), 310)
    values = windows.values.clone()
    values[~windows.observed] += 5.0
    points, mu, sigma = torch.zeros(2, 2, 128, 10), torch.zeros(2, 2), torch.ones(2, 2)
    losses = [
        segment_losses(points, some, mu, sigma, windows.observed)
        for some in (windows.values, values)
    ]
    assert torch.equal(losses[0].pinball, losses[1].pinball)


def test_the_validation_loss_of_a_forecast_is_the_mean_decile_loss_of_the_next_days():
    windows = ReturnWindows(RETURNS, 64, CPU)
    task, module = ForecastTask(windows, 400, np.arange(410, 500), 2, 0), tiny()
    with torch.no_grad():
        for name in ("output_layer", "residual_layer"):
            module.get_submodule(f"output_projection_point.{name}").weight.zero_()
    # Every decile is now the context's mean, so half of the absolute error is lost.
    expected = []
    for day in task.validation_days:
        context, ahead = RETURNS[day - 63 : day + 1], RETURNS[day + 1 : day + 3]
        expected.append(np.abs(ahead - context.mean()).mean() / context.std() / 2)
    found = task.validation(module)["loss"]
    # At levels other than .5 the two halves of the loss balance only on average over days.
    assert found == pytest.approx(np.mean(expected), rel=0.05)


def test_labels_start_at_their_base_rates_and_only_known_labels_count():
    task, module = label_task(), tiny()
    days = np.arange(100, 400)
    rates = task.days.labels[days].mean(axis=0)
    np.testing.assert_allclose(
        task.probabilities(module, days), np.tile(rates, (300, 1)), rtol=1e-4
    )
    labels = task.days.labels[410:500, 0]
    entropy = -np.mean(labels * np.log(rates[0]) + (1 - labels) * np.log(1 - rates[0]))
    assert task.validation(module)["loss"] == pytest.approx(entropy, rel=1e-3)


def test_a_classification_learns_from_training_days_alone():
    task, other = label_task(), label_task()
    other.days.labels[400:] = 1 - other.days.labels[400:]
    assert torch.equal(task.batch(1, 32, 3).labels, other.batch(1, 32, 3).labels)
    assert set(task.training_days) == set(range(100, 400))


def test_a_score_depends_on_no_later_day():
    task, module = label_task(), tiny()
    torch.nn.init.normal_(task.head.linear.weight)
    changed = label_task()
    changed.head = task.head
    later = np.where(np.arange(600) > 450, 3.0, RETURNS)
    changed.windows = ReturnWindows(later, 80, CPU)
    before, after = (t.probabilities(module, np.array([449, 450])) for t in (task, changed))
    np.testing.assert_array_equal(before, after)
