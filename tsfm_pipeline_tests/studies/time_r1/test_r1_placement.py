"""Test where a policy computes, and how much of it at once.

What belongs here: devices, dtypes and micro-batches of a profile, from sampling to an update. What
does not: what is sampled and learnt (`test_r1_policy`, `test_grip_loop`, `test_r1_warm_up`).
"""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.studies.time_r1.answers import completion
from tsfm_pipeline.studies.time_r1.grammar import word_grammar
from tsfm_pipeline.studies.time_r1.grip_loop import GripRun
from tsfm_pipeline.studies.time_r1.grip_measures import COLUMNS
from tsfm_pipeline.studies.time_r1.options import LoraOptions, Profile, WarmUpOptions
from tsfm_pipeline.studies.time_r1.placement import placed
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.policy_checks import divergence_of
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids
from tsfm_pipeline.studies.time_r1.warm_up import warm_up
from tsfm_pipeline_tests.studies.time_r1.grip_setting import (
    CODEC,
    HORIZON,
    THOUGHT,
    questions,
    task,
    warmed_up,
)
from tsfm_pipeline_tests.studies.time_r1.stub_device import stub_device

pytestmark = pytest.mark.heavy
PROFILE = Profile(model="own", codec="number", prompt="own")
SAMPLING = Sampling(0, HORIZON + 4)
SMALL = task(2, held_out=2, group=3, questions=2)


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    """A policy that answers in the right form; a test that changes it takes a copy."""
    return warmed_up(60)


def texts(n: int, seed: int) -> list[tuple[str, str]]:
    """Prompts with completions that say the truth."""
    asked = questions(n, seed)
    answers = CODEC.write_answer(asked.windows.truth, asked.frames)
    return [(p, completion(THOUGHT, a, CODEC)) for p, a in zip(asked.prompts, answers, strict=True)]


class Pairs:
    """They, as a warm-up reads them."""

    def __init__(self, n: int, seed: int) -> None:
        self.prompts, self.completions = zip(*texts(n, seed), strict=True)


def learnt(policy: LanguagePolicy, folder: Path) -> tuple[list[float], list[float]]:
    """The losses of a warm-up, and the row of one step of GRIP."""
    _, result = warm_up(
        replace(policy, model=copy.deepcopy(policy.plain)),
        Pairs(8, 5),
        Pairs(4, 6),
        number_ids(),
        LoraOptions(rank=2),
        WarmUpOptions(batch=4, number_smoothing=1.0, form_weight=2.0),
        folder / "sft",
        0,
    )
    run = GripRun(replace(policy, model=copy.deepcopy(policy.plain)), SMALL, folder / "grip")
    row = run.update()
    run.save()
    # A further run goes on from the state of the first.
    other = GripRun(replace(policy, model=copy.deepcopy(policy.plain)), SMALL, folder / "grip")
    other.resume()
    last = other.update()
    return result.history.ravel().tolist(), [*row.values(), *last.values()]


def test_a_profile_names_one_of_the_known_devices() -> None:
    with pytest.raises(ValueError, match="device"):
        Profile(model="own", codec="number", prompt="own", device="gpu")


@pytest.mark.filterwarnings("ignore:.*meta parameter.*")
def test_every_tensor_is_on_the_policys_device(
    policy: LanguagePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, grammar = questions(3, 1), word_grammar(HORIZON, most_think_words=4)
    free = policy.sample(asked.prompts, 4, SAMPLING, forced=asked.forced)
    right = policy.sample(asked.prompts, 2, Sampling(0, 16), grammar)
    expected = learnt(policy, tmp_path / "cpu")
    with stub_device(monkeypatch) as device:
        there = replace(policy, model=copy.deepcopy(policy.plain).to(device))
        assert there.device == device
        assert there.sample(asked.prompts, 4, SAMPLING, forced=asked.forced).texts == free.texts
        assert there.sample(asked.prompts, 2, Sampling(0, 16), grammar).texts == right.texts
        found = there.log_probs(asked.prompts, free)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found.detach(), free.log_probs, atol=1e-5, rtol=0)
        checks = divergence_of(there, there, asked, PROFILE.thinking, 0)
        assert checks["exact"] == pytest.approx([0, 0, 0], abs=1e-6)
        losses, rows = learnt(there, tmp_path / "stub")
    np.testing.assert_allclose(losses, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows, expected[1], rtol=1e-3, atol=1e-5)


def test_a_micro_batch_bounds_the_rows_and_changes_rounding_alone(
    policy: LanguagePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learnt(policy, tmp_path / "whole")
    small = replace(policy, rows=2)
    most = {True: 0, False: 0}
    forward = type(policy.plain.model).forward

    def counted(model: torch.nn.Module, *args: object, **options: object) -> object:
        ids = options["input_ids"]
        assert isinstance(ids, torch.Tensor)
        most[torch.is_grad_enabled()] = max(most[torch.is_grad_enabled()], len(ids))
        return forward(model, *args, **options)

    monkeypatch.setattr(type(policy.plain.model), "forward", counted)
    parts = learnt(small, tmp_path / "parts")
    assert most[True] == 2
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-3, atol=1e-5)


def test_more_answers_of_a_prompt_than_fit_are_sampled_in_turns(policy: LanguagePolicy) -> None:
    asked = questions(2, 1)
    whole = policy.sample(asked.prompts, 40, SAMPLING, forced=asked.forced)
    turns = replace(policy, rows=1).sample(asked.prompts, 40, SAMPLING, forced=asked.forced)
    assert turns.texts == whole.texts
    assert turns.prompt_index.tolist() == whole.prompt_index.tolist()
    parts = replace(policy, rows=7).parts(whole)
    assert [len(part) for part in parts] == [7] * 11 + [3]
    assert policy.parts(whole) == [whole]


def test_only_tokens_of_completions_reach_the_output_layer(
    policy: LanguagePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(1, 1)
    long, short = completion(THOUGHT, ["n1"] * 9, CODEC), completion(THOUGHT, ["n1"], CODEC)
    written = policy.encode([long, short])
    places = []
    layer = policy.plain.lm_head
    handle = layer.register_forward_hook(lambda _, given, __: places.append(given[0].shape[:-1]))
    policy.log_probs(asked.prompts * 2, written)
    handle.remove()
    assert [math.prod(shape) for shape in places] == [int(written.mask.sum())]
    assert written.mask.numel() > int(written.mask.sum())


def test_a_policy_in_bfloat16_learns_from_the_ratio_to_what_it_would_say_itself(
    policy: LanguagePolicy, tmp_path: Path
) -> None:
    profile = PROFILE.model_copy(update={"dtype": "bfloat16", "micro_batch": 3})
    there = placed(replace(policy, model=copy.deepcopy(policy.plain)), profile)
    assert (there.plain.dtype, there.rows) == (torch.bfloat16, 3)
    run = GripRun(there, SMALL, tmp_path)
    assert {weights.dtype for weights in run.named.values()} == {torch.float32}
    rows = [run.update(), run.update()]
    # Before the only update of a step, no token's ratio is anything but 1: J without its KL term
    # is the weighted mean of the advantages.
    assert [row["clipped"] for row in rows] == [0, 0]
    assert all(math.isfinite(rows[1][name]) for name in COLUMNS)
