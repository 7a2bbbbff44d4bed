"""A tiny policy that has learnt the form of an answer, and a GRIP task for it.

Run as a program, it is a GRIP run that a test may kill: POLICY FOLDER STEPS.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from tsfm_pipeline.studies.time_r1.answers import completion
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.grip_loop import train_grip
from tsfm_pipeline.studies.time_r1.grip_task import GripTask
from tsfm_pipeline.studies.time_r1.options import GripOptions, LoraOptions, RewardOptions
from tsfm_pipeline.studies.time_r1.output_filter import ClosedVocabulary
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, load_policy, new_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.prompts import render
from tsfm_pipeline.studies.time_r1.questions import Questions
from tsfm_pipeline.studies.time_r1.vocabulary import THINK, THINK_END, WORDS
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.r1_windows import drawn_windows

HORIZON, LOOK_BACK = 4, 8
THOUGHT = "level trend"
CODEC = NumberCodec()
SMALL = OwnShape(hidden=32, layers=1, heads=2, key_value_heads=2, feed_forward=32, positions=256)


def questions(n: int, seed: int, forced: bool = True) -> Questions:
    windows: Windows = drawn_windows(n, HORIZON, LOOK_BACK, seed)
    frames = frames_of(windows)
    prompts = tuple(render(windows, frames, CODEC, "own"))
    thoughts = (f"{THINK} {THOUGHT} {THINK_END}",) * n if forced else None
    return Questions(windows, frames, prompts, CODEC, thoughts)


def warmed_up(steps: int = 150, seed: int = 0) -> LanguagePolicy:
    """Return a policy that answers with noisy numbers in the right form."""
    policy = new_policy(seed, SMALL)
    asked = questions(64, seed=100)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(policy.plain.parameters(), lr=1e-2)
    for _ in range(steps):
        rows = rng.choice(64, 16, replace=False)
        some = asked.at(rows)
        noisy = some.windows.truth + rng.normal(size=(16, HORIZON))
        answers = CODEC.write_answer(noisy, some.frames)
        texts = [completion(THOUGHT, words, CODEC) for words in answers]
        written = policy.encode(texts)
        loss = -policy.log_probs(some.prompts, written)[written.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def task(steps: int = 3, *, held_out: int = 12, **options: object) -> GripTask:
    given = {
        "group": 4,
        "questions": 3,
        "validate_every": 2,
        "learning_rate": 1e-2,
        "checkpoints": 2,
        "steps": steps,
        **options,
    }
    return GripTask(
        train=(questions(32, seed=1),),
        validation=(questions(held_out, seed=2),),
        lora=LoraOptions(rank=4),
        options=GripOptions.model_validate(given),
        reward=RewardOptions(),
        output_filter=ClosedVocabulary(WORDS),
        seed=0,
        max_new_tokens=HORIZON + 4,
    )


if __name__ == "__main__":
    source, folder, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    train_grip(load_policy(source), task(steps), folder, save_every=3)
