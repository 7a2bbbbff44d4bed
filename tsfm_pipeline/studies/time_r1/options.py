"""Options of the study: profiles of policies, and recipes that use one.

What belongs here: the fields of `data/time_r1/profiles.yaml` and of each recipe in
`data/time_r1/recipes/`, their limits and defaults. What does not: data sets (`datasets`), and any
computation. All of them are part of the fingerprints of the tables they change.
"""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraOptions(_Options):
    """Low-rank adapters (Hu et al., 2021)."""

    rank: int = Field(8, ge=1, description="a whole number, at least 1")
    alpha: float = Field(
        16.0, gt=0, description="a number above 0; the adapter counts alpha / rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="a number from 0 to below 1")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="a list of names of the model's linear layers",
    )


class WarmUpOptions(_Options):
    """Supervised training on answers with their reasons (SFT)."""

    learning_rate: float = Field(1e-3, gt=0, description="a number above 0")
    epochs: int = Field(1, ge=1, description="a whole number, at least 1")
    batch: int = Field(32, ge=1, description="a whole number, at least 1: sequences per update")
    number_smoothing: float = Field(
        0.0,
        ge=0,
        description="a number, at least 0: the standard deviation, in number tokens, of the target "
        "that is spread over neighbouring numbers; 0: the number itself alone",
    )
    form_weight: float = Field(
        0.0,
        ge=0,
        description="a number, at least 0: by how much a token of a wrong kind (a word among the "
        "numbers, a tag inside a reason) counts more than a wrong one of the right kind; only the "
        "own policy's tokens have kinds",
    )


class GripOptions(_Options):
    """Group-based relative importance for policy optimisation (Time-R1, equation 6)."""

    group: int = Field(16, ge=2, description="a whole number, at least 2: G, completions kept")
    oversampling: int = Field(3, ge=1, description="a whole number, at least 1: k; k G are drawn")
    sampling: Literal["local", "cluster", "all"] = Field(
        "cluster", description="local, cluster, or all, which needs oversampling 1 (GRPO)"
    )
    weights: Literal["softmax", "uniform"] = Field(
        "softmax", description="softmax of the rewards, or uniform (GRPO)"
    )
    weight_temperature: float = Field(1.0, gt=0, description="a number above 0, of the softmax")
    epsilon: float = Field(0.2, gt=0, lt=1, description="a number between 0 and 1: the clip")
    beta: float = Field(0.04, ge=0, description="a number, at least 0, of the KL term")
    learning_rate: float = Field(1e-4, gt=0, description="a number above 0")
    questions: int = Field(4, ge=1, description="a whole number, at least 1: windows per step")
    updates: int = Field(1, ge=1, description="a whole number, at least 1: updates per rollout")
    steps: int = Field(100, ge=1, description="a whole number, at least 1")
    checkpoints: int = Field(
        3, ge=1, description="a whole number, at least 1: best states kept, by validation reward"
    )
    validate_every: int = Field(10, ge=1, description="a whole number, at least 1: steps")
    kl_limit: float | None = Field(
        None,
        gt=0,
        description="a number above 0, in nats per token: a state whose exact divergence from the "
        "reference is larger, on held-out prompts, is not kept; null: every state may be kept",
    )


class RewardOptions(_Options):
    """Weights of the reward's terms; they add up to 1, so that every reward lies in [-1, 1]."""

    length: float = Field(0.1, ge=0)
    error: float = Field(0.5, ge=0)
    season: float = Field(0.1, ge=0)
    trend: float = Field(0.1, ge=0)
    change_points: float = Field(0.2, ge=0)
    sharpness: float = Field(
        2.0, gt=0, description="a number above 0: of the squash of a squared error; the paper's .3"
    )
    tolerance: int = Field(1, ge=0, description="a whole number, at least 0: steps, of an extremum")

    @model_validator(mode="after")
    def _add_up_to_one(self) -> Self:
        total = self.length + self.error + self.season + self.trend + self.change_points
        if not math.isclose(total, 1.0):
            raise ValueError(
                f"length, error, season, trend and change_points add up to {total:g}; they must "
                f"add up to 1"
            )
        return self


class ThinkingOptions(_Options):
    """Slow thinking at inference."""

    samples: int = Field(
        16, ge=1, description="a whole number, at least 1: answers sampled for the deciles"
    )
    temperature: float = Field(1.0, gt=0, description="a number above 0")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    max_iterations: int = Field(2, ge=1, description="a whole number, at least 1: passes")
    gate_origins: int = Field(
        2,
        ge=1,
        description="a whole number, at least 1: earlier origins, a horizon apart, of the backtest "
        "that decides about a refined forecast",
    )
    max_new_tokens: int = Field(256, ge=1, description="a whole number, at least 1")


class Profile(_Options):
    """One policy and how it is trained."""

    model: str = Field(description="`own`, an id of the hub, or a local directory")
    revision: str | None = Field(None, description="a commit of the hub; null for a directory")
    codec: Literal["number", "text"] = Field(
        description="number: one token per number; text: numbers as people write them"
    )
    prompt: str = Field(description="name of a template in the folder `templates`")
    device: str = Field(
        "cpu",
        pattern="^(auto|cpu|cuda(:[0-9]+)?)$",
        description="where the policy computes: cpu, cuda, cuda:1 and so on; auto: cuda where "
        "there is one, else cpu",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights; adapters are float32 while they are trained"
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="a whole number, at least 1: sequences that are learnt from together, which "
        "bounds the memory of a large model and changes what is learnt by rounding alone; null: "
        "half of a batch",
    )
    teacher: Literal["grid", "endpoint", "policy"] = Field(
        "grid",
        description="who gives candidates for supervised answers; grid: the drafts; endpoint: a "
        "model behind TSFM_TEACHER_URL; policy: the profile's own model before its training",
    )
    answer: Literal["candidate", "truth"] = Field(
        "truth",
        description="of supervised samples; truth: the answer is what really came; candidate: it "
        "is the teacher's, and a policy that is then asked with a given reason, as all are, "
        "learns to repeat the draft that the reason names",
    )
    lora: LoraOptions = LoraOptions()
    warm_up: WarmUpOptions = WarmUpOptions()
    grip: GripOptions = GripOptions()
    thinking: ThinkingOptions = ThinkingOptions()


class Recipe(_Options):
    """One experiment: what a policy is trained on, and what it is asked."""

    name: str = Field(description="stem of the file")
    title: str = Field(description="a short title for reports")
    description: str = Field("", description="a sentence or two for the UI")
    profile: str = Field("own", description="a name in profiles.yaml")
    train: tuple[str, ...] = Field(min_length=1, description="data sets to train on")
    evaluate: tuple[str, ...] = Field(min_length=1, description="data sets to evaluate on")
    look_back: int = Field(96, ge=8, description="a whole number, at least 8: steps shown")
    horizon: int = Field(24, ge=1, description="a whole number, at least 1: steps asked for")
    contexts: tuple[int, ...] = Field(
        (96, 512), min_length=1, description="contexts of the frozen model's drafts, in steps"
    )
    train_windows: int = Field(
        8000, ge=1, description="a whole number, at least 1: drawn from each data set to train on"
    )
    validation_windows: int = Field(
        420, ge=1, description="a whole number, at least 1: of each of them"
    )
    test_windows: int = Field(
        300, ge=1, description="a whole number, at least 1: of a data set that is a fleet or corpus"
    )
    timed_requests: int = Field(
        20, ge=1, description="a whole number, at least 1: requests whose latency is measured"
    )
    draws: int = Field(
        2000, ge=100, description="a whole number, at least 100, of the two-way bootstrap"
    )
    reward: RewardOptions = RewardOptions()
    seed: int = Field(0, ge=0, description="a whole number, at least 0")
