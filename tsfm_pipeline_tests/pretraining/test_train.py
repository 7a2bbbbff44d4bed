"""Test that the trainer learns, resumes to the bit, and releases what the package's own class
loads.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.pretraining.export import export_release
from tsfm_pipeline.pretraining.objective import SegmentLosses, objective, patch_targets
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.train import main
from tsfm_pipeline.pretraining.trainer import Trainer
from tsfm_pipeline_tests.pretraining.conftest import CPU, OPTIONS, SMALL

pytestmark = pytest.mark.heavy


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


def test_threads_inside_operators_learn_the_same_as_workers():
    whole = replace(OPTIONS, steps=3, micro_batches=1)
    threads = torch.get_num_threads()
    try:
        together = Trainer(whole, SMALL, CPU, threads_per_operator=2)
        assert torch.get_num_threads() == 2
        ours = [together.train_step()["loss"] for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    apart = Trainer(whole, SMALL, CPU)
    assert ours == pytest.approx([apart.train_step()["loss"] for _ in range(3)], abs=1e-3)


def test_a_release_loads_strictly_and_its_continuous_head_is_the_point_head(
    finished: tuple[Trainer, Path], tmp_path: Path
):
    export_release(finished[1] / "state.pt", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    module = build_module(
        Architecture(**{name: config[name] for name in Architecture.model_fields})
    )
    module.load_state_dict(tensors, strict=True)
    assert torch.equal(
        tensors["output_projection_quantiles.output_layer.weight"],
        tensors["output_projection_point.output_layer.weight"],
    )


def test_a_state_of_an_older_trainer_is_exported_too(
    finished: tuple[Trainer, Path], tmp_path: Path
):
    state = torch.load(finished[1] / "state.pt", weights_only=True)
    del state["commit"], state["hardware"]
    torch.save(state, tmp_path / "old.pt")
    config = json.loads(
        (export_release(tmp_path / "old.pt", tmp_path / "old") / "config.json").read_text()
    )
    assert config["provenance"]["commit"] == "not recorded"


def test_the_averages_alone_give_the_same_release_with_the_command_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tsfm_pipeline.pretraining.train.BUNDLED", SMALL)
    run = [
        *("--steps", "2", "--corpus", "3", "--seed", "4", "--device", "cpu", "--threads", "1"),
        *("--batch-patches", "512", "--micro-batches", "1", "--block-series", "2"),
        *("--decay-from", "0.2"),
    ]
    files = ["--folder", str(tmp_path / "run"), "--averages", str(tmp_path / "averages.pt")]
    assert main([*run, *files]) == 0
    state = tmp_path / "run" / "state.pt"
    assert (tmp_path / "averages.pt").stat().st_size < 0.6 * state.stat().st_size
    release = export_release(tmp_path / "averages.pt", tmp_path / "small")
    whole = load_file(export_release(state, tmp_path / "whole") / "model.safetensors")
    for name, tensor in load_file(release / "model.safetensors").items():
        assert torch.equal(tensor, whole[name]), name
    options = (
        "--corpus 3 --batch-patches 512 --micro-batches 1 --block-series 2 --decay-from 0.2 "
        "--folder RUN1"
    )
    assert options in (release / "MODEL_CARD.md").read_text()


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
    with pytest.raises(ValueError, match="decay_from is 1"):
        TrainOptions(steps=1, decay_from=1)


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
        return float(
            objective(
                SegmentLosses(losses, losses.square(), torch.ones_like(losses, dtype=torch.bool))
            )
        )

    assert of([10.0, 1.0]) - of([5.0, 1.0]) == pytest.approx(
        of([10.0, 1.0]) - of([10.0, 0.5]), rel=0.02
    )
