"""Test the GRIP loop: it learns, it measures, and a killed run goes on to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.studies.time_r1.adapters import load_adapter
from tsfm_pipeline.studies.time_r1.answers import Problem, completion
from tsfm_pipeline.studies.time_r1.grip_loop import (
    CHECKPOINTS,
    METRICS_FILE,
    STATE_FILE,
    TIMINGS_FILE,
    GripResult,
    GripRun,
    train_grip,
)
from tsfm_pipeline.studies.time_r1.grip_measures import COLUMNS
from tsfm_pipeline.studies.time_r1.options import RewardOptions
from tsfm_pipeline.studies.time_r1.own_policy import load_policy, save_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.questions import Questions
from tsfm_pipeline_tests.studies.time_r1 import grip_setting
from tsfm_pipeline_tests.studies.time_r1.grip_setting import (
    CODEC,
    HORIZON,
    THOUGHT,
    questions,
    task,
    warmed_up,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a policy that answers in the right form, with noisy numbers."""
    folder = tmp_path_factory.mktemp("policy")
    save_policy(warmed_up(), folder, {})
    return folder


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GripResult]:
    """A run of five steps with two updates each, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    _, result = train_grip(load_policy(source), task(5, updates=2), folder, save_every=2)
    return folder, result


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files but that of the seconds, which differ between runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != TIMINGS_FILE
    }


def mean_reward(policy: LanguagePolicy, asked: Questions) -> float:
    drawn = policy.sample(asked.prompts, 4, Sampling(1, HORIZON + 4), forced=asked.forced)
    return float(asked.judged(drawn.texts, RewardOptions()).rewards.total.mean())


def test_every_step_is_measured(finished: tuple[Path, GripResult]) -> None:
    folder, result = finished
    assert result.history.shape == (5, len(COLUMNS))
    assert np.isfinite(result.history).all()
    rows = dict(zip(COLUMNS, result.history.T, strict=True))
    terms = sum(values for name, values in rows.items() if name.startswith("term_"))
    assert terms == pytest.approx(rows["reward_all"])
    shares = sum(values for name, values in rows.items() if name.startswith("share_"))
    assert shares == pytest.approx(1)
    assert (rows["parse_failures"] < 0.5).all()
    assert (rows["objections"] == 0).all()
    assert (rows["entropy"] > 1).all()
    assert (rows["exact_kl"] > 0).all()
    assert (rows["gradient_norm"] > 0).all()
    # The ratio moves between the two updates on the same completions.
    assert rows["clipped"].max() > 0
    assert len(result.seconds) == 5
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    assert [line["validated_step"] for line in lines if "validated_step" in line] == [0, 2, 4, 5]
    assert [line["step"] for line in lines if "step" in line] == [0, 1, 2, 3, 4]


def test_the_best_validation_rewards_are_kept_and_the_best_is_returned(
    source: Path, finished: tuple[Path, GripResult]
) -> None:
    folder, result = finished
    means = result.validation.mean(1)
    best = [result.validated[i] for i in np.argsort(-means, kind="stable")[:2]]
    names = {path.name for path in (folder / CHECKPOINTS).iterdir()}
    assert names == {f"step-{step:06d}" for step in best}
    assert result.best_step == best[0]
    facts = json.loads((folder / "config.json").read_text())
    assert facts["step"] == best[0]
    assert facts["validation_reward"] == pytest.approx(means.max())
    adapted = load_adapter(load_policy(source), folder, trainable=False)
    kept = load_adapter(
        load_policy(source), folder / CHECKPOINTS / f"step-{best[0]:06d}", trainable=False
    )
    asked = questions(2, seed=5)
    assert mean_reward(adapted, asked) == mean_reward(kept, asked)


def test_a_state_beyond_the_limit_of_the_divergence_is_not_kept(
    source: Path, finished: tuple[Path, GripResult], tmp_path: Path
) -> None:
    _, free = finished
    divergences = free.history[:, COLUMNS.index("exact_kl")]
    _, near = train_grip(
        load_policy(source), task(5, updates=2, kl_limit=divergences.min() / 2), tmp_path / "near"
    )
    assert (near.history == free.history).all()
    assert near.best_step == 0
    assert {path.name for path in (tmp_path / "near" / CHECKPOINTS).iterdir()} == {"step-000000"}
    _, far = train_grip(
        load_policy(source), task(5, updates=2, kl_limit=2 * divergences.max()), tmp_path / "far"
    )
    assert far.best_step == free.best_step


def test_threads_and_pauses_do_not_change_a_byte(
    source: Path, finished: tuple[Path, GripResult], tmp_path: Path
) -> None:
    train_grip(load_policy(source), task(4, updates=2), tmp_path, save_every=3, threads=2)
    other = GripRun(load_policy(source), task(5, updates=2, beta=0.5), tmp_path)
    with pytest.raises(ValueError, match="another policy, other questions or options"):
        other.resume()
    train_grip(load_policy(source), task(5, updates=2), tmp_path)
    assert contents(tmp_path) == contents(finished[0])


def test_a_finished_run_returns_the_same_result_again(
    source: Path, finished: tuple[Path, GripResult]
) -> None:
    folder, result = finished
    before = contents(folder)
    _, again = train_grip(load_policy(source), task(5, updates=2), folder)
    assert contents(folder) == before
    assert again.best_step == result.best_step
    assert (again.history == result.history).all()
    assert again.seconds == pytest.approx(result.seconds, abs=1e-3)


def test_before_the_first_update_the_policy_is_its_reference(source: Path, tmp_path: Path) -> None:
    run = GripRun(load_policy(source), task(1), tmp_path)
    row = run.update()
    assert row["k3_kept"] == pytest.approx(0, abs=1e-6)
    assert row["clipped"] == 0
    # At a ratio of 1 the objective is the weighted mean advantage, whatever the lengths.
    assert row["objective"] == pytest.approx(row["policy_objective"], abs=1e-6)
    assert row["reward_kept"] != row["reward_all"]


@pytest.mark.parametrize("sampling", ["local", "all"])
def test_local_sampling_and_grpo_run_by_the_same_loop(
    source: Path, tmp_path: Path, sampling: str
) -> None:
    grpo = {"oversampling": 1, "weights": "uniform"} if sampling == "all" else {}
    row = GripRun(load_policy(source), task(1, sampling=sampling, **grpo), tmp_path).update()
    if sampling == "all":
        assert row["reward_kept"] == pytest.approx(row["reward_all"])
        assert row["policy_objective"] == pytest.approx(0, abs=1e-5)
    else:
        assert row["reward_kept"] > row["reward_all"]


def test_a_step_needs_as_many_questions_as_it_asks() -> None:
    with pytest.raises(ValueError, match=r"32 training questions of a data set .* a step asks 40"):
        task(1, questions=40)


def test_completions_are_read_and_rewarded_by_their_own_question() -> None:
    asked = questions(2, seed=3)
    truth = CODEC.write_answer(asked.windows.truth, asked.frames)
    good = [completion(THOUGHT, words, CODEC) for words in truth]
    longer = completion(THOUGHT, [*truth[0], truth[0][-1]], CODEC)
    texts = [good[0], longer, good[1], good[0] + " and more"]
    judged = asked.judged(texts, RewardOptions())
    assert judged.problems == (None, Problem.TOO_MANY, None, Problem.TEXT_AFTER)
    total = judged.rewards.total
    assert total[0] > 0.7
    assert total[1] == pytest.approx(0.1 * HORIZON / (HORIZON + 1))
    assert total[2] > 0.7
    assert total[3] == -1
    with pytest.raises(ValueError, match="equally many"):
        Questions(asked.windows, asked.frames, asked.prompts[:1], CODEC)
    assert asked.digest() != asked.at(np.array([1, 0])).digest()
    assert asked.digest() == questions(2, seed=3).digest()


@pytest.mark.slow
def test_the_policy_learns_and_the_estimated_divergence_agrees(
    source: Path, tmp_path: Path
) -> None:
    asked = task(40, validate_every=20, held_out=96)
    learnt, result = train_grip(load_policy(source), asked, tmp_path)
    gains = result.validation[result.validated.index(result.best_step)] - result.validation[0]
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains))
    others = questions(96, seed=9)
    assert mean_reward(learnt, others) > mean_reward(load_policy(source), others)
    rows = dict(zip(COLUMNS, result.history.T, strict=True))
    # Each step's estimate is skewed, and so is its own standard error; their mean is neither.
    differences = rows["k3"] - rows["exact_kl"]
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    assert error < rows["exact_kl"].mean() / 5
    assert abs(differences.mean()) < 2 * error


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    source: Path, tmp_path: Path
) -> None:
    steps, whole, killed = 8, tmp_path / "whole", tmp_path / "killed"
    train_grip(load_policy(source), task(steps), whole, save_every=3)
    child = [sys.executable, grip_setting.__file__, str(source), str(killed), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for saved in ("3", "6"):
        process = subprocess.Popen(child, env=environment)
        while process.poll() is None and saved not in steps_saved(killed):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run(child, env=environment, check=True).returncode == 0
    assert contents(killed) == contents(whole)


def steps_saved(folder: Path) -> list[str]:
    """The numbers of steps in the run's history; empty before the first state."""
    if not (folder / STATE_FILE).exists() or not (folder / METRICS_FILE).exists():
        return []
    lines = (folder / METRICS_FILE).read_text().splitlines()
    return [str(json.loads(line)["step"] + 1) for line in lines if "step" in json.loads(line)]


def test_sampling_leaves_the_global_generator_alone(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    GripRun(load_policy(source), task(1), tmp_path).update()
    assert torch.rand(1) == expected
