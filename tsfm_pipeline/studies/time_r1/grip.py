"""GRIP: group-based relative importance for policy optimisation, as pure functions of tensors.

What belongs here: advantages, weights, the objective of equation 6 and measures of its KL
divergence. What does not: which completions are kept (`sampling`), rewards (`rewards`), and the
loop that samples and updates a policy (`grip_loop`).

Shapes: B questions, G kept completions of each, T tokens of the longest completion. Rewards,
advantages and weights are [B, G]; log-probabilities are [B, G, T] with a mask of the same shape
that is true at a completion's own tokens. GRPO (Shao et al., 2024) is the same objective with
uniform weights on all completions that were sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

LEAST_SPREAD = 1e-9
"""Of the rewards of one group. Less is rounding: such a group teaches nothing."""


@dataclass(frozen=True)
class Objective:
    """Equation 6 and its parts.

    value: J, a differentiable scalar; an optimiser minimises -J. policy: the part without the KL
    term. k3: mean over all tokens of the estimate of the KL divergence to the reference, in nats.
    clipped: share of tokens where the clip stops the gradient. The last three are detached.
    """

    value: Tensor
    policy: float
    k3: float
    clipped: float


def advantages(rewards: Tensor, ddof: int = 1) -> Tensor:
    """Return (R - mean) / deviation over each group of kept completions [B, G].

    ddof: 1 for the sample deviation, as verl and trl compute it (the paper does not say); 0 for
    that of the population. A group without spread has advantage 0. Raises ValueError if a reward
    is not finite or a group has at most `ddof` members.
    """
    _require_rewards(rewards)
    if rewards.shape[1] <= ddof:
        raise ValueError(
            f"groups have {rewards.shape[1]} completions; a deviation with ddof {ddof} needs at "
            f"least {ddof + 1}"
        )
    centred = rewards - rewards.mean(1, keepdim=True)
    deviation = rewards.std(1, keepdim=True, correction=ddof)
    spread = rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True)
    return torch.where(spread > LEAST_SPREAD, centred / deviation, torch.zeros_like(centred))


def weights(
    rewards: Tensor, kind: Literal["softmax", "uniform"] = "softmax", temperature: float = 1.0
) -> Tensor:
    """Return the weights of each group's completions [B, G], which add up to 1.

    kind: softmax of the rewards over the temperature (equation 6 has temperature 1, where a reward
    that is higher by .1 weighs 1.105 times as much), or uniform (GRPO). Raises ValueError if a
    reward is not finite or the temperature is not above 0.
    """
    _require_rewards(rewards)
    if not temperature > 0:
        raise ValueError(f"the temperature of the weights is {temperature}; it must be above 0")
    if kind == "uniform":
        return torch.full_like(rewards, 1 / rewards.shape[1])
    return torch.softmax(rewards / temperature, dim=1)


def k3(log_probs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return p_ref/p - ln(p_ref/p) - 1 at each token of the mask and 0 elsewhere [B, G, T], in
    nats.

    Its mean estimates KL(p | p_ref) without bias only on fresh samples of p (Schulman, 2020): on
    kept or replayed completions it is biased, and its gradient is not that of the divergence. It is
    not clamped.
    """
    ratio = (reference - log_probs).masked_fill(~mask, 0.0)
    return torch.expm1(ratio) - ratio


def objective(
    log_probs: Tensor,
    old: Tensor,
    reference: Tensor,
    mask: Tensor,
    advantage: Tensor,
    weight: Tensor,
    *,
    epsilon: float,
    beta: float,
) -> Objective:
    """Return equation 6 of Time-R1, the mean over B questions of

        sum_i w_i 1/|o_i| sum_t { min(r_it A_i, clip(r_it, 1 - eps, 1 + eps) A_i) - beta KL_it },

    with r_it the ratio of the token's probability to that at sampling, and KL_it as `k3` computes
    it, inside the sum over tokens.

    log_probs, old, reference: of the policy that is updated, of the policy that sampled, and of the
    reference policy, [B, G, T]; what they hold outside of the mask has no influence. advantage,
    weight: [B, G]. A completion without tokens adds 0. Raises ValueError if the shapes differ.
    """
    shapes = {tuple(x.shape) for x in (log_probs, old, reference, mask)}
    if len(shapes) > 1 or advantage.shape != mask.shape[:2] or weight.shape != mask.shape[:2]:
        raise ValueError(
            f"log-probabilities and mask have shapes {sorted(shapes)}, advantages "
            f"{tuple(advantage.shape)} and weights {tuple(weight.shape)}; [B, G, T], [B, G] and "
            f"[B, G] are expected"
        )
    a = advantage.to(log_probs.dtype).unsqueeze(-1)
    ratio = (log_probs - old).masked_fill(~mask, 0.0).exp()
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = torch.minimum(ratio * a, bounded * a).masked_fill(~mask, 0.0)
    divergence = k3(log_probs, reference, mask)
    length = mask.sum(-1).clamp(min=1)
    weight = weight.to(log_probs.dtype)
    policy = (weight * gain.sum(-1) / length).sum(1).mean()
    penalty = (weight * divergence.sum(-1) / length).sum(1).mean()
    tokens = mask.sum().clamp(min=1)
    stopped = ((bounded * a < ratio * a) & mask).sum()
    return Objective(
        value=policy - beta * penalty,
        policy=float(policy.detach()),
        k3=float(divergence.detach().sum() / tokens),
        clipped=float(stopped / tokens),
    )


def joined(parts: Sequence[Objective], tokens: Sequence[int], questions: int) -> Objective:
    """Return the objective of B questions from those of their completions in parts, each of which
    was computed as one question's.

    tokens: those in the mask of each part. questions: B. The gradient of its value is not kept.
    """
    return Objective(
        value=torch.stack([part.value.detach() for part in parts]).sum() / questions,
        policy=sum(part.policy for part in parts) / questions,
        k3=float(np.average([part.k3 for part in parts], weights=tokens)),
        clipped=float(np.average([part.clipped for part in parts], weights=tokens)),
    )


def exact_kl(logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    """Return KL(p | p_ref) over the whole vocabulary, in nats, the mean over the mask's tokens.

    logits: [..., T, V] of the policy and of the reference; mask: [..., T]. Raises ValueError if the
    mask is empty. It measures the distance; it is not part of the objective.
    """
    if not mask.any():
        raise ValueError("the mask has no token; the divergence needs at least one")
    policy, reference = Categorical(logits=logits[mask]), Categorical(logits=reference_logits[mask])
    return kl_divergence(policy, reference).mean()


def entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean entropy of the next token over the mask's tokens, in nats.

    logits: [..., T, V]; mask: [..., T]. Raises ValueError if the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask has no token; the entropy needs at least one")
    return Categorical(logits=logits[mask]).entropy().mean()


def _require_rewards(rewards: Tensor) -> None:
    if rewards.ndim != 2 or not bool(torch.isfinite(rewards).all()):
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)} with "
            f"{int((~torch.isfinite(rewards)).sum())} values that are not finite; finite [B, G] "
            f"is expected"
        )
