"""Test the open-ended run: it survives being killed, rests when asked, and can be cooled down."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsfm_pipeline.files import StorageError
from tsfm_pipeline.forecaster.registry import REGISTRY
from tsfm_pipeline.pretraining import continue_training
from tsfm_pipeline.pretraining.continue_training import (
    Rhythm,
    begin_cool_down,
    main,
    only_run,
    options_of,
    train_on,
)
from tsfm_pipeline.pretraining.export import export_release
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.trainer import Trainer
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.pretraining.conftest import CPU, OPTIONS, SMALL

pytestmark = pytest.mark.heavy

OPEN = replace(OPTIONS, steps=None, open_ended=True, corpus="3")
RHYTHM = Rhythm(log_every=4, save_every_s=0.0, until=24)
CHILD = """
import sys
from pathlib import Path
from tsfm_pipeline.pretraining.continue_training import Rhythm, train_on
from tsfm_pipeline.pretraining.trainer import Trainer
from tsfm_pipeline_tests.pretraining.conftest import CPU, SMALL
from tsfm_pipeline_tests.pretraining.test_continue_training import OPEN

folder, save_every_s = Path(sys.argv[1]), float(sys.argv[2])
trainer = Trainer(OPEN, SMALL, CPU)
if (folder / "state.pt").exists():
    trainer.resume(folder / "state.pt")
train_on(trainer, folder, folder / "PAUSE", Rhythm(log_every=4, save_every_s=save_every_s))
"""


def rows_of(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not met():
        assert time.monotonic() < deadline, "waited ten minutes in vain"
        time.sleep(0.02)


def killed_at(folder: Path, step: int, save_every_s: float) -> None:
    """Train in a process of its own and kill it when its log holds the step."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(save_every_s)],
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"},
    )

    def there() -> bool:
        assert child.poll() is None, "the process ended by itself"
        log = folder / "log.jsonl"
        return log.exists() and f'"step": {step},' in log.read_text()

    until(there)
    child.send_signal(signal.SIGKILL)
    child.wait()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A run of 24 steps, and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = Trainer(OPEN, SMALL, CPU)
    assert train_on(trainer, folder, folder / "PAUSE", RHYTHM)
    return trainer, folder


@pytest.mark.slow
def test_a_run_killed_twice_equals_an_uninterrupted_one(
    uninterrupted: tuple[Trainer, Path], tmp_path: Path
):
    killed_at(tmp_path, 4, save_every_s=0.0)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["counters"]["step"] >= 3
    killed_at(tmp_path, 12, save_every_s=0.0)
    last = Trainer(OPEN, SMALL, CPU, workers=2)
    last.resume(tmp_path / "state.pt")
    assert train_on(last, tmp_path, tmp_path / "PAUSE", RHYTHM)
    expected, got = rows_of(uninterrupted[1]), rows_of(tmp_path)
    assert [row["step"] for row in got] == [0, 4, 8, 12, 16, 20, 24]
    assert [row["validation"] for row in got] == [row["validation"] for row in expected]
    assert got[-1]["loss"] == expected[-1]["loss"]
    for name, weights in uninterrupted[0].named.items():
        assert torch.equal(last.named[name], weights), name
        assert torch.equal(last.ema[name], uninterrupted[0].ema[name]), name


@pytest.mark.slow
def test_steps_that_were_lost_come_again_and_stand_in_the_log_once(
    uninterrupted: tuple[Trainer, Path], tmp_path: Path
):
    first = Trainer(OPEN, SMALL, CPU)
    assert train_on(first, tmp_path, tmp_path / "PAUSE", replace(RHYTHM, until=8))
    killed_at(tmp_path, 16, save_every_s=1e9)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 20, "lo')
    last = Trainer(OPEN, SMALL, CPU)
    last.resume(tmp_path / "state.pt")
    assert last.step == 8
    train_on(last, tmp_path, tmp_path / "PAUSE", RHYTHM)
    for name in ("step", "loss", "validation", "tokens"):
        assert [row[name] for row in rows_of(tmp_path)] == [
            row[name] for row in rows_of(uninterrupted[1])
        ]
    assert rows_of(tmp_path)[-1]["cpu_hours"] > rows_of(tmp_path)[2]["cpu_hours"] > 0


def test_a_run_rests_while_the_pause_file_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continue_training, "PAUSED_CHECK_S", 0.02)
    trainer = Trainer(OPEN, SMALL, CPU)
    pause, resting_at = tmp_path / "PAUSE", []
    pause.touch()

    def release_it() -> None:
        until((tmp_path / "state.pt").exists)
        time.sleep(0.2)
        resting_at.append(trainer.step)
        pause.unlink()

    thread = threading.Thread(target=release_it)
    thread.start()
    assert train_on(trainer, tmp_path, pause, replace(RHYTHM, until=4))
    thread.join()
    assert resting_at == [0]
    assert trainer.step == 4


@pytest.mark.parametrize("paused", [False, True])
def test_a_sigterm_saves_and_ends_also_while_resting(
    paused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(continue_training, "PAUSED_CHECK_S", 0.02)
    trainer = Trainer(OPEN, SMALL, CPU)
    if paused:
        (tmp_path / "PAUSE").touch()

    def send() -> None:
        until((tmp_path / "state.pt").exists if paused else lambda: trainer.step > 0)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=send)
    thread.start()
    rhythm = Rhythm(log_every=4, save_every_s=1e9)
    assert not train_on(trainer, tmp_path, tmp_path / "PAUSE", rhythm)
    thread.join()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["counters"]["step"]
    assert saved == trainer.step
    assert (saved > 0) != paused
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_cool_down_lowers_the_rate_to_zero_and_leaves_the_run_alone(
    uninterrupted: tuple[Trainer, Path], tmp_path: Path
):
    run, into = uninterrupted[1] / "state.pt", tmp_path / "cooled"
    before = run.read_bytes()
    begin_cool_down(run, 8, into)
    options = options_of(into / "state.pt", {})
    assert (options.cooled_from, options.steps, options.open_ended) == (24, 32, False)
    factors = [options.rate_factor(step, options.progress(step, 0.0)) for step in (24, 28, 32)]
    assert factors == [1.0, pytest.approx(0.5), 0.0]
    cooled = Trainer(options, SMALL, CPU)
    cooled.resume(into / "state.pt")
    assert train_on(cooled, into, tmp_path / "PAUSE", Rhythm(log_every=4))
    assert cooled.step == 32
    assert run.read_bytes() == before
    begin_cool_down(run, 99, into)
    assert options_of(into / "state.pt", {}) == options
    with pytest.raises(ValueError, match="open-ended"):
        begin_cool_down(into / "state.pt", 8, tmp_path / "again")

    folder = export_release(into / "state.pt", tmp_path / "release")
    provenance = json.loads((folder / "config.json").read_text())["provenance"]
    assert provenance["schedule_done"] == 1
    assert provenance["corpus_version"] == "3"
    assert provenance["trainer"].endswith("continue_training")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "--until 24 && " in card
    assert "--cool-down 8 --into RUN1/cooled" in card
    assert "Corpus 3 adds" in card
    assert "| trained on contexts of | 64 to 4,096 points |" in card


@pytest.mark.slow
def test_an_open_ended_run_is_exported_as_one_that_was_not_cooled_down(
    uninterrupted: tuple[Trainer, Path], tmp_path: Path
):
    folder = export_release(uninterrupted[1] / "state.pt", tmp_path / "release")
    assert json.loads((folder / "config.json").read_text())["provenance"]["schedule_done"] == 0
    assert "has not been cooled down" in (folder / "MODEL_CARD.md").read_text()


def test_only_one_process_trains_in_a_folder(tmp_path: Path):
    with (
        only_run(tmp_path),
        pytest.raises(StorageError, match=f"process {os.getpid()} trains in"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):
        pass


@pytest.mark.slow
def test_a_run_keeps_its_options(uninterrupted: tuple[Trainer, Path]):
    state = uninterrupted[1] / "state.pt"
    assert options_of(state, {"seed": OPEN.seed}) == OPEN
    with pytest.raises(ValueError, match=r"corpus 3.*asked for corpus 2.*leave these options out"):
        options_of(state, {"corpus": "2"})
    with pytest.raises(SystemExit):
        main(["--state", str(uninterrupted[1]), "--cool-down", "5"])


def test_options_of_corpus_and_cool_down_must_make_sense():
    with pytest.raises(ValueError, match="exactly one"):
        TrainOptions(steps=1, open_ended=True)
    with pytest.raises(ValueError, match="allowed: 2, 3"):
        TrainOptions(steps=1, corpus="5")
    with pytest.raises(ValueError, match="1 or more"):
        OPEN.cooled_down(10, 0)


@pytest.mark.slow
def test_the_command_starts_from_the_bundled_weights(tmp_path: Path):
    arguments = ["--state", str(tmp_path / "run"), "--until", "0", "--threads", "1"]
    assert main([*arguments, "--export", str(tmp_path / "release")]) == 0
    bundled = REGISTRY["bundled"].path
    assert bundled is not None
    expected = load_file(bundled / "model.safetensors")
    for name, tensor in load_file(tmp_path / "release" / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    bundled_config = json.loads((bundled / "config.json").read_text())
    assert config["provenance"]["base"]["sha256"] == bundled_config["sha256"]
    assert main([*arguments, "--seed", "2"]) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0]

    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    state["options"]["pool"] |= {"blocks": 1, "block_series": 8}
    torch.save(state, tmp_path / "run" / "state.pt")
    cooled = tmp_path / "run" / "cooled"
    run = ["--state", str(tmp_path / "run"), "--threads", "1"]
    assert main([*run, "--cool-down", "1", "--into", str(cooled)]) == 0
    saved = torch.load(cooled / "state.pt", weights_only=True)
    assert saved["counters"]["step"] == 1
    assert saved["base"]["sha256"] == bundled_config["sha256"]
