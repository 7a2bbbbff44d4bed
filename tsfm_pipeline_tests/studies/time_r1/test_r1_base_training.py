"""The base's training: what its windows, drafts and sequences are, and that a run can be stopped."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.pretraining import corpus3
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.studies.time_r1 import base_training
from tsfm_pipeline.studies.time_r1.answers import parse, read
from tsfm_pipeline.studies.time_r1.base_training import (
    BaseOptions,
    BaseResult,
    CorpusBatches,
    train_base,
    written,
)
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.commands import application
from tsfm_pipeline.studies.time_r1.corpus_windows import (
    DAY,
    DOUBTFUL,
    STEPS_OF_SEASONS,
    DraftedWindows,
    LinearMap,
    averaged,
    cut_windows,
    seasons_of,
    with_drafts,
)
from tsfm_pipeline.studies.time_r1.drafts import SEASONAL_NAIVE
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.options import Profile
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, load_policy
from tsfm_pipeline.studies.time_r1.sequences import Part
from tsfm_pipeline.studies.time_r1.starts import base_curve, base_folder, policy_digest
from tsfm_pipeline.studies.time_r1.windows import Windows

SERIES = corpus3.generate_block(3, 0, 16, torch.device("cpu"), 4096)
LAST_VALUES = LinearMap(
    torch.zeros(96, 24, dtype=torch.float64).index_fill_(0, torch.tensor(95), 1.0)
)
TINY = BaseOptions(
    steps=6,
    shape=OwnShape(hidden=16, layers=1, heads=2, key_value_heads=1, feed_forward=16),
    batch=2,
    horizons={24: 1.0},
)


def drafted(step: int = 0) -> list[DraftedWindows]:
    rng = np.random.default_rng(0)
    return [with_drafts(w, LAST_VALUES, rng) for w in cut_windows(SERIES, 3, step, 40, 96, 24)]


def test_windows_are_a_function_of_seed_and_step() -> None:
    one, two, other = drafted(), drafted(), drafted(1)
    assert sum(len(d.windows) for d in one) == 40
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.windows.past, b.windows.past)
        assert a.chosen == b.chosen
    assert not np.array_equal(one[0].windows.past[:1], other[0].windows.past[:1])


def test_seven_in_ten_windows_repeat_by_a_day_and_say_so_where_any_do() -> None:
    def repeating(series: torch.Tensor, step: int) -> int:
        """Return how many windows that state a day repeat by it, after a check of their number."""
        groups = cut_windows(series, 3, step, 40, 96, 24)
        assert sum(map(len, groups)) == 40
        stated = [windows.history for windows in groups if windows.season == DAY]
        history = np.concatenate([*stated, np.empty((0, 96))])
        apart = np.abs(history[:, DAY:] - history[:, :-DAY]).mean(axis=1)
        size = np.abs(history - history.mean(axis=1, keepdims=True)).mean(axis=1)
        return int((apart < 0.8 * size).sum())

    assert all(repeating(SERIES, step) >= 28 for step in range(4))
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 4096))).float()
    assert [repeating(noise, step) for step in range(4)] == [0] * 4


def test_the_mean_of_a_step_is_that_of_its_known_values() -> None:
    gap = torch.nan
    series = torch.tensor(
        [[9.0, 1.0, 3.0, gap, 5.0, gap, gap], [9.0, 2.0, 2.0, 4.0, 8.0, 0.0, 6.0]]
    )
    wanted = torch.tensor([[2.0, 5.0, gap], [2.0, 6.0, 3.0]])
    torch.testing.assert_close(averaged(series, 2), wanted, equal_nan=True)
    assert torch.equal(averaged(series[1:], 1), series[1:])


def test_series_are_averaged_no_further_than_windows_fit() -> None:
    shortest = SERIES[:, -384:]
    for step in range(8):  # some of which would average
        assert sum(map(len, cut_windows(shortest, 3, step, 8, 96, 24))) == 8
    with pytest.raises(ValueError, match="383 steps; allowed: at least 384"):
        cut_windows(shortest[:, 1:], 3, 0, 8, 96, 24)


def test_the_season_is_that_by_which_a_look_back_repeats() -> None:
    steps = np.arange(96)
    waves = np.stack([np.sin(2 * np.pi * steps / s) for s in STEPS_OF_SEASONS])
    assert seasons_of(waves).tolist() == list(STEPS_OF_SEASONS)


def test_drafts_read_nothing_after_the_origin_but_the_doubtful_one() -> None:
    def made(windows: Windows) -> DraftedWindows:
        return with_drafts(windows, LAST_VALUES, np.random.default_rng(1))

    for one in drafted():
        other = made(replace(one.windows, truth=one.windows.truth + 5.0))
        plain = made(one.windows)
        for name, values in plain.drafts.values.items():
            same = np.array_equal(values, other.drafts.values[name])
            assert same == (name != DOUBTFUL), name
            assert np.array_equal(plain.drafts.backtests[name], other.drafts.backtests[name])


def test_the_backtest_of_the_doubtful_draft_tells_how_far_to_trust_it() -> None:
    before, after = [], []
    for step in range(4):
        for one in drafted(step):
            windows, drafts = one.windows, one.drafts
            steps = drafts.backtests[DOUBTFUL].shape[1]
            before += list(np.abs(drafts.backtests[DOUBTFUL] - windows.past[:, -steps:]).mean(1))
            after += list(np.abs(drafts.values[DOUBTFUL] - windows.truth).mean(1))
    assert np.corrcoef(np.log(before), np.log(after))[0, 1] > 0.7


def test_sequences_say_the_truth_in_the_own_form() -> None:
    codec = NumberCodec()
    for one in drafted():
        n = len(one.windows)
        for shown in (True, False):
            texts = written(one, np.full(n, shown))
            draft = one.drafts.taken(one.chosen) if shown else None
            frames = frames_of(one.windows, draft)
            answers = read([completion for _, completion in texts], codec, frames)
            coarsest = np.diff(codec.values).max() * frames.deviation.max()
            for answer, truth in zip(answers, one.windows.truth, strict=True):
                assert answer.problem is None
                assert answer.values is not None
                assert np.abs(answer.values - truth).max() <= coarsest
            assert all((" draft n" in prompt) == shown for prompt, _ in texts)
            assert all(parse(completion, 24).think for _, completion in texts)


def test_a_seasonal_draft_is_copied_from_the_look_back() -> None:
    """This is the exact copying at the lag of the season that the base is to learn."""
    for one in drafted():
        if one.windows.season > 24:
            continue
        chosen = (SEASONAL_NAIVE,) * len(one.windows)
        for prompt, _ in written(replace(one, chosen=chosen), np.ones(len(chosen), bool)):
            words = prompt.split()
            past = words[words.index("past") + 1 :][:96]
            draft = words[words.index("draft") + 1 :][:24]
            season = past[-one.windows.season :]
            assert draft == [season[step % len(season)] for step in range(24)]


@pytest.fixture
def _few_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the corpus small: these tests are about the order of things, not about learning."""
    monkeypatch.setattr(base_training, "_POOL", PoolShape(1, 8, 1))
    monkeypatch.setattr(base_training, "_FIT_SERIES", 8)
    monkeypatch.setattr(base_training, "_HELD_OUT_WINDOWS", 8)


@pytest.mark.heavy
@pytest.mark.usefixtures("_few_series")
def test_a_run_that_was_stopped_writes_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train_base(tmp_path / "whole", TINY, threads=2)
    assert whole.finished
    assert whole.step == 6
    begun = train_base(tmp_path / "parts", TINY, budget_s=1e-6)
    assert (begun.finished, begun.step) == (False, 1)
    parts = train_base(tmp_path / "parts", TINY)
    for name in ("model.safetensors", "tokenizer.json"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "parts"))
        assert one == other, name
    assert parts.held_out == whole.held_out
    assert set(whole.held_out) == {"with a draft", "without"}
    load_policy(tmp_path / "whole")
    profile = Profile(model=str(tmp_path / "whole"), codec="number", prompt="own")
    assert base_curve(profile) == {"6": whole.held_out}
    assert base_curve(profile.model_copy(update={"codec": "text"})) == {}
    card = (tmp_path / "whole" / "MODEL_CARD.md").read_text()
    assert f"{whole.held_out['without']['number']:.3f}" in card
    stated = json.loads(card.split("```json")[1].split("```")[0])
    assert BaseOptions.model_validate(stated) == TINY


@pytest.mark.heavy
@pytest.mark.usefixtures("_few_series")
def test_a_budget_decides_the_length_and_the_card_says_how_to_repeat_it(tmp_path: Path) -> None:
    open_ended = TINY.model_copy(update={"steps": None})
    with pytest.raises(ValueError, match=r"give options\.steps or budget_s"):
        train_base(tmp_path / "none", open_ended)
    ran = train_base(tmp_path / "open", open_ended, budget_s=0.5)
    assert ran.finished
    assert ran.steps == ran.step
    again = train_base(tmp_path / "again", TINY.model_copy(update={"steps": ran.step}))
    assert again.held_out == ran.held_out


@pytest.mark.heavy
@pytest.mark.usefixtures("_few_series")
def test_the_command_of_the_card_writes_the_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(steps: int | None) -> BaseOptions:
        return TINY.model_copy(update={"steps": steps})

    train_base(tmp_path / "base", TINY)
    card = (tmp_path / "base" / "MODEL_CARD.md").read_text()
    (command,) = (line for line in card.splitlines() if line.startswith("$ "))
    program, study, *arguments = command.removeprefix("$ ").split()
    assert (program, study) == ("tsfm-pipeline", "time-r1")
    monkeypatch.setattr(base_training, "BaseOptions", tiny)
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    done = CliRunner().invoke(application, arguments)
    assert done.exit_code == 0, done.output
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("base", "again/base"))
        assert one == other, name


def test_the_shipped_card_shows_the_command_of_its_own_updates() -> None:
    card = (base_folder() / "MODEL_CARD.md").read_text()
    stated = BaseOptions.model_validate_json(card.split("```json")[1].split("```")[0])
    assert stated == BaseOptions(steps=stated.steps), "the command takes the defaults"
    assert f"$ tsfm-pipeline time-r1 train-base base --steps {stated.steps}\n" in card


def test_the_command_needs_a_length(tmp_path: Path) -> None:
    for arguments, complaint in (
        ([], "give --steps or --minutes"),
        (["--steps", "0"], "--steps"),
        (["--minutes", "0"], "--minutes"),
    ):
        refused = CliRunner().invoke(application, ["train-base", str(tmp_path / "b"), *arguments])
        assert refused.exit_code == 2
        assert complaint in " ".join(refused.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_base_is_answered_with_a_command_that_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile(model=str(tmp_path / "my base"), codec="number", prompt="own")
    with pytest.raises(CheckpointError, match="no such file; train a base with: ") as raised:
        policy_digest(profile)
    program, study, *arguments = shlex.split(str(raised.value).split("with: ")[1])
    assert (program, study) == ("tsfm-pipeline", "time-r1")
    asked = []

    def trained(folder: Path, options: BaseOptions, budget_s: float, threads: int) -> BaseResult:
        asked.append((folder, options, budget_s, threads))
        return BaseResult(True, 1, 1, 1.0, 1, {}, {})

    monkeypatch.setattr(base_training, "train_base", trained)
    assert CliRunner().invoke(application, arguments).exit_code == 0
    assert asked == [(tmp_path / "my base", BaseOptions(), 2400.0, 1)]


@pytest.mark.heavy
@pytest.mark.usefixtures("_few_series")
def test_batches_do_not_depend_on_where_a_run_begins() -> None:
    options = TINY.model_copy(update={"batch": 4})
    first, late = CorpusBatches(options), CorpusBatches(options)
    wanted = 17  # the second block
    batches = [first(step) for step in range(wanted + 1)]
    resumed = late(wanted)
    assert torch.equal(batches[-1].ids, resumed.ids)
    assert torch.equal(batches[-1].parts, resumed.parts)
    shown = (batches[0].parts == Part.HISTORY).sum(1)
    assert set(shown.tolist()) <= {96, 96 + 24}
