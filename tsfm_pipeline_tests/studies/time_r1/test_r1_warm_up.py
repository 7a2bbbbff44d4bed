"""The warm-up: what a sample's tokens are, and that an adapter learns, stops and goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.studies.time_r1.adapters import load_adapter, merged
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.drafts import make_drafts
from tsfm_pipeline.studies.time_r1.options import LoraOptions, WarmUpOptions
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.samples import Samples, make_samples
from tsfm_pipeline.studies.time_r1.sequences import Part, encode
from tsfm_pipeline.studies.time_r1.teacher import GridTeacher
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids, own_tokenizer
from tsfm_pipeline.studies.time_r1.training import COLUMNS
from tsfm_pipeline.studies.time_r1.warm_up import WarmUpResult, warm_up, weights_digest
from tsfm_pipeline.studies.time_r1.windows import Windows

SHAPE = OwnShape(hidden=16, layers=1, heads=2, key_value_heads=1, feed_forward=16)
LORA = LoraOptions(rank=4, alpha=8.0)
OPTIONS = WarmUpOptions(learning_rate=0.03, epochs=2, batch=4)


def samples(n: int, seed: int) -> Samples:
    """Return samples of noisy days, whose answers are the truth."""
    rng = np.random.default_rng(seed)
    steps = np.arange(168 + 12) + rng.integers(0, 24, (n, 1))
    values = 5 + np.sin(2 * np.pi * steps / 24) + 0.1 * rng.standard_normal(steps.shape)
    windows = Windows(
        "days", "1 hour", 24, ("x",) * n, np.full(n, 167), values[:, :168], values[:, 168:], 24
    )
    drafts = make_drafts(windows, None, ())
    return make_samples(
        windows, drafts, GridTeacher(), NumberCodec(), "own", with_draft=True, answer="truth"
    )


def base() -> LanguagePolicy:
    """Return a policy of random weights whose output an adapter can change: first embeddings are so
    small that every word is about as likely as any other, whatever the layers say.
    """
    policy = new_policy(0, SHAPE)
    with torch.no_grad():
        policy.plain.get_input_embeddings().weight.mul_(30.0)
    return policy


def ran(
    folder: Path, options: WarmUpOptions = OPTIONS, steps: int | None = None
) -> tuple[LanguagePolicy, WarmUpResult]:
    texts = samples(24, 0), samples(8, 1)
    return warm_up(base(), *texts, number_ids(), LORA, options, folder, 0, steps=steps)


def test_each_token_of_a_sample_has_its_part() -> None:
    tokenizer = own_tokenizer()
    encoded = encode(
        tokenizer,
        ["task forecast past n1 n2 draft n3"],
        ["<think> level up </think> <answer> n4 n5 </answer>"],
        number_ids(),
    )
    words = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    of_part = {
        part: [w for w, p in zip(words, encoded.parts, strict=True) if p == part] for part in Part
    }
    assert of_part == {
        Part.PROMPT: ["task", "forecast", "past", "draft"],
        Part.HISTORY: ["n1", "n2", "n3"],
        Part.TEMPLATE: ["<think>", "</think>", "<answer>", "</answer>"],
        Part.THINK: ["level", "up"],
        Part.NUMBER: ["n4", "n5"],
    }


@pytest.mark.parametrize(
    ("completion", "complaint"),
    [
        ("n4 n5", "must be '<think> WORDS"),
        ("<think> up </think> <answer> n4 n5", "must be '<think> WORDS"),
        (None, "1 prompts and 0 completions"),
    ],
)
def test_what_is_no_sample_is_refused(completion: str | None, complaint: str) -> None:
    completions = [] if completion is None else [completion]
    with pytest.raises(ValueError, match=complaint):
        encode(own_tokenizer(), ["past n1"], completions, number_ids())


@pytest.mark.heavy
def test_a_warm_up_learns_and_stores_what_it_returns(tmp_path: Path) -> None:
    before = weights_digest(base())
    policy, result = ran(tmp_path)
    first = result.history[0, COLUMNS.index("template")]
    assert result.format_loss < first - 1.0
    assert result.best_step == result.validations[-1]["step"] == 12
    assert result.losses == result.validations[-1]
    assert 0 < result.counts.trained < result.counts.total
    assert not result.stopped_early
    assert weights_digest(policy) != before
    stored = merged(load_adapter(base(), tmp_path, trainable=False))
    assert weights_digest(stored) == weights_digest(policy)


@pytest.mark.heavy
def test_a_warm_up_that_brings_nothing_stops_and_returns_its_best(tmp_path: Path) -> None:
    """A rate of 1e-15 moves no weight by as much as it is rounded."""
    options = OPTIONS.model_copy(update={"learning_rate": 1e-15, "epochs": 4})
    _, result = ran(tmp_path, options)
    assert result.stopped_early
    assert [validation["step"] for validation in result.validations] == [2, 4, 6, 8]
    assert result.best_step == 2
    assert result.losses == result.validations[0]


@pytest.mark.heavy
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_so_many_updates_are_made_as_are_asked_for(tmp_path: Path, steps: int) -> None:
    """Neither an epoch of 6 updates nor validations that bring nothing decide."""
    _, result = ran(tmp_path, OPTIONS.model_copy(update={"learning_rate": 1e-15}), steps)
    assert len(result.history) == steps
    assert not result.stopped_early
    assert result.validations[-1]["step"] == steps


@pytest.mark.heavy
def test_a_finished_warm_up_is_not_run_again_and_others_are_refused(tmp_path: Path) -> None:
    policy, result = ran(tmp_path)
    again, repeated = ran(tmp_path)
    assert weights_digest(again) == weights_digest(policy)
    assert np.array_equal(repeated.history, result.history, equal_nan=True)
    assert repeated.validations == result.validations
    with pytest.raises(ValueError, match="other options or other data"):
        ran(tmp_path, OPTIONS.model_copy(update={"learning_rate": 0.01}))
