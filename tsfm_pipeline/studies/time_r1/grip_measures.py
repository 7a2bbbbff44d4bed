"""What is measured while GRIP learns, step by step.

What belongs here: the row of a step, the divergence from the reference, and both as lines of text.
What does not: the loop itself (`grip_loop`), and equation 6 (`grip`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsfm_pipeline.studies.time_r1 import grip
from tsfm_pipeline.studies.time_r1.output_filter import OutputFilter, objection_rate
from tsfm_pipeline.studies.time_r1.policy import Completions
from tsfm_pipeline.studies.time_r1.questions import Judged
from tsfm_pipeline.studies.time_r1.rewards import TERMS, variance_shares
from tsfm_pipeline.studies.time_r1.windows import Floats

COLUMNS = (
    "reward_all",
    "reward_kept",
    *(f"term_{name}" for name in TERMS),
    *(f"share_{name}" for name in TERMS),
    "parse_failures",
    "objections",
    "tokens",
    "objective",
    "policy_objective",
    "k3_kept",
    "clipped",
    "gradient_norm",
    "exact_kl",
    "k3",
    "k3_standard_error",
    "entropy",
)
"""What the history of a run holds of each step.

reward_all, reward_kept: mean reward of all k G completions and of those that are kept. term_*:
means of the terms over all k G; share_*: their shares of the variance within the groups of k G.
parse_failures: share of all completions whose form has a problem; objections: share that the output
filter objects to. tokens: mean length. objective, policy_objective: J and its part without KL, of
the last update before it is made; k3_kept, clipped: of the kept completions at that point.
gradient_norm: the mean over the updates, before it is clipped. exact_kl, k3, entropy: in nats per
token, on one fresh completion of each of the first held-out questions after the updates. k3 is
unbiased there, and nowhere else.
"""


@dataclass(frozen=True)
class Rollouts:
    """All completions of one step.

    drawn: by piece of the questions. judged: of all of them. kept: rewards of those that are kept,
    float64 [B, G]. group: k G.
    """

    drawn: Sequence[Completions]
    judged: Judged
    kept: Floats
    group: int

    def measures(self, output_filter: OutputFilter) -> dict[str, float]:
        """Return rewards, their terms, and the form of the texts, as in `COLUMNS`."""
        terms, total = self.judged.rewards.terms, self.judged.rewards.total
        shares = variance_shares(self.judged.rewards, self.group)
        texts = [text for part in self.drawn for text in part.texts]
        return {
            "reward_all": float(total.mean()),
            "reward_kept": float(self.kept.mean()),
            **{f"term_{name}": float(terms[name].mean()) for name in TERMS},
            **{f"share_{name}": shares[name] for name in TERMS},
            "parse_failures": sum(p is not None for p in self.judged.problems) / len(texts),
            "objections": objection_rate(texts, output_filter),
            "tokens": sum(int(part.mask.sum()) for part in self.drawn) / len(texts),
        }


def of_update(
    objectives: Sequence[grip.Objective], questions: Sequence[int], norms: Sequence[float]
) -> dict[str, float]:
    """Return the parts of the objective, as in `COLUMNS`, from those of each piece with its number
    of questions, and the gradient norms of the updates.
    """

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=questions))

    return {
        "objective": mean([float(o.value.detach()) for o in objectives]),
        "policy_objective": mean([o.policy for o in objectives]),
        "k3_kept": mean([o.k3 for o in objectives]),
        "clipped": mean([o.clipped for o in objectives]),
        "gradient_norm": float(np.mean(norms)),
    }


@dataclass(frozen=True)
class Distances:
    """How far policy and reference are apart on some completions.

    exact, entropy: sums over all tokens, in nats. k3, lengths: float32 [R] and int64 [R], the
    estimate summed over each completion, and its tokens; on the CPU.
    """

    exact: float
    entropy: float
    k3: Tensor
    lengths: Tensor


def distances(own: Tensor, other: Tensor, completions: Completions) -> Distances:
    """Return the distances from the distributions [R, T, V] of policy and reference."""
    mask, ids = completions.mask.to(own.device), completions.ids.to(own.device)
    n = int(mask.sum())
    chosen, known = own.gather(-1, ids[..., None]), other.gather(-1, ids[..., None])
    return Distances(
        exact=n * float(grip.exact_kl(own, other, mask)),
        entropy=n * float(grip.entropy(own, mask)),
        k3=grip.k3(chosen[..., 0], known[..., 0], mask).sum(-1).cpu(),
        lengths=completions.mask.sum(-1),
    )


def divergence(parts: Sequence[Distances]) -> dict[str, float]:
    """Return divergence and entropy per token. The standard error of k3 counts completions, whose
    tokens depend on each other.
    """
    total = torch.cat([part.k3 for part in parts]).double().numpy()
    length = torch.cat([part.lengths for part in parts]).double().numpy()
    tokens, mean = length.sum(), total.sum() / length.sum()
    residuals = np.sum((total - mean * length) ** 2) * len(total) / max(len(total) - 1, 1)
    return {
        "exact_kl": sum(part.exact for part in parts) / tokens,
        "k3": float(mean),
        "k3_standard_error": float(np.sqrt(residuals) / tokens),
        "entropy": sum(part.entropy for part in parts) / tokens,
    }


def metrics_text(
    history: Sequence[Sequence[float]], validated: Sequence[int], validation: Sequence[Floats]
) -> str:
    """Return one line of JSON per validation and per step, with null for what is not finite.

    history: rows of `COLUMNS`. validated: steps of the validations. validation: mean rewards of the
    validation windows at each. A gain is over the first validation, and its standard error is that
    of the windows' paired differences.
    """
    lines: list[dict[str, Any]] = []
    for step, rewards in zip(validated, validation, strict=True):
        gains = rewards - validation[0]
        error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        row = {"reward": rewards.mean(), "gain": gains.mean(), "gain_standard_error": error}
        lines.append({"validated_step": step, **_finite(row)})
    for step, values in enumerate(history):
        lines.append({"step": step, **_finite(dict(zip(COLUMNS, values, strict=True)))})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _finite(row: dict[str, float]) -> dict[str, float | None]:
    return {name: float(x) if math.isfinite(x) else None for name, x in row.items()}
