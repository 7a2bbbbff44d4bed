"""The trainer: it learns, resumes to the bit, and releases what the package's own class loads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.export import export_release, main
from tsfm_pipeline.pretraining.objective import SegmentLosses, objective, patch_targets
from tsfm_pipeline.pretraining.train import Trainer, TrainOptions, run
from tsfm_pipeline.pretraining.yardsticks import checkpoint_forecast, random_walk_check

CPU = torch.device("cpu")
SMALL = Architecture(model_dims=32, ff_dims=32, num_layers=2, num_heads=2, output_quantile_len=128, context_limit=16_384)
OPTIONS = TrainOptions(
    seed=5,
    steps=20,
    batch_patches=512,
    warmup_steps=2,
    learning_rate=5e-3,
    pool=PoolShape(blocks=2, block_series=16, renew_every=8),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(OPTIONS, SMALL, CPU)
    assert run(trainer, folder, log_every=5)
    return trainer, folder


def test_twenty_steps_lower_the_loss(finished: tuple[Trainer, Path]):
    rows = [json.loads(line) for line in (finished[1] / "losses.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.02
    assert finished[0].skipped == 0


def test_a_resumed_run_equals_an_uninterrupted_one(finished: tuple[Trainer, Path], tmp_path: Path):
    first = Trainer(OPTIONS, SMALL, CPU)
    for _ in range(11):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second = Trainer(OPTIONS, SMALL, CPU, workers=2)
    second.resume(tmp_path / "state.pt")
    for _ in range(9):
        second.train_step()
    for name, expected in finished[0].named.items():
        assert torch.equal(second.named[name], expected), name
        assert torch.equal(second.ema[name], finished[0].ema[name]), name


def test_a_release_loads_strictly_and_forecasts(finished: tuple[Trainer, Path], tmp_path: Path):
    assert main([str(finished[1] / "state.pt"), str(tmp_path)]) == 0
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    module = build_module(Architecture(**{name: config[name] for name in Architecture.model_fields}))
    module.load_state_dict(tensors, strict=True)
    assert config["licence"] == "MIT"
    assert config["provenance"]["steps"] == 20
    assert config["provenance"]["tokens"] == 20 * 512
    assert torch.equal(
        tensors["output_projection_quantiles.output_layer.weight"],
        tensors["output_projection_point.output_layer.weight"],
    )
    walk = random_walk_check(checkpoint_forecast(tmp_path), 64, n=4)
    assert set(walk) == {"median_stray_rms", "median_stray_mean", "spread_over_ideal"}
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "Not measured for this export." in card
    assert str(Path.home()) not in card


def test_a_release_quotes_only_measured_figures(finished: tuple[Trainer, Path], tmp_path: Path):
    row = {"ratio_to_change_quantiles": {"0.9": 0.81, "0.75": 0.92, "0.65": 0.93}, "coverage": [0.1] * 9}
    export_release(finished[1] / "state.pt", tmp_path, {"model ctx512": {"smd": row}})
    assert "0.810 / 0.920 / 0.930" in (tmp_path / "MODEL_CARD.md").read_text()


def test_a_state_of_another_size_is_refused(finished: tuple[Trainer, Path]):
    other = Trainer(OPTIONS, SMALL.model_copy(update={"ff_dims": 64}), CPU)
    with pytest.raises(ValueError, match="ff_dims"):
        other.resume(finished[1] / "state.pt")


def test_length_and_batch_must_make_sense():
    with pytest.raises(ValueError, match="exactly one"):
        TrainOptions()
    with pytest.raises(ValueError, match="multiple of 512"):
        TrainOptions(steps=1, batch_patches=700)
    with pytest.raises(ValueError, match="does not divide"):
        TrainOptions(steps=1, batch_patches=512, micro_batches=3)


def test_the_rate_warms_up_and_ends_at_zero():
    options = TrainOptions(steps=100, warmup_steps=10)
    assert options.rate_factor(0, 0.0) == pytest.approx(0.1)
    assert options.rate_factor(50, 0.5) == 1.0
    assert options.rate_factor(100, 1.0) == 0.0


def test_targets_are_the_points_after_each_patch():
    values = torch.arange(2 * 32 + 128, dtype=torch.float32)[None]
    targets = patch_targets(values, 2)
    assert targets.shape == (1, 2, 128)
    assert targets[0, :, 0].tolist() == [32.0, 64.0]
    assert targets[0, 1, -1] == 191.0


def test_the_objective_weighs_relative_improvements_alike():
    def of(pinball: list[float]) -> float:
        losses = torch.tensor([pinball])
        return float(objective(SegmentLosses(losses, losses.square(), torch.ones_like(losses, dtype=torch.bool))))

    assert of([10.0, 1.0]) - of([5.0, 1.0]) == pytest.approx(of([10.0, 1.0]) - of([10.0, 0.5]), rel=0.02)
