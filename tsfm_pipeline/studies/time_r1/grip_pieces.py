"""Pieces of a step of GRIP: kept completions, and the gradients of their share of the objective.

What belongs here: how a step is divided, over threads and over what fits into memory. What does
not: the steps (`grip_loop`), and equation 6 itself (`grip`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsfm_pipeline.studies.time_r1 import grip
from tsfm_pipeline.studies.time_r1.options import GripOptions
from tsfm_pipeline.studies.time_r1.policy import Completions, LanguagePolicy
from tsfm_pipeline.studies.time_r1.questions import Questions

PIECES = 2
"""Of a step's questions, whatever the number of threads."""


@dataclass(frozen=True)
class Piece:
    """Kept completions of B' of a step's questions, G of each.

    prompts: of the questions. advantage, weight: [B', G]. old, reference: log-probabilities of the
    policy that sampled and of the reference, float32 [B' G, T]. All tensors are on the CPU.
    """

    prompts: tuple[str, ...]
    completions: Completions
    advantage: Tensor
    weight: Tensor
    old: Tensor
    reference: Tensor

    def parts(self, rows: int | None) -> list["Piece"]:
        """Return the piece in parts of at most so many completions, each as one question's, whose
        objectives add up to B' times that of the piece; None: the piece itself.
        """
        n = len(self.completions)
        if rows is None or n <= rows:
            return [self]
        return [self._at(some) for some in torch.arange(n).split(rows)]

    def _at(self, rows: Tensor) -> "Piece":
        return Piece(
            self.prompts,
            self.completions.at(rows),
            self.advantage.flatten()[None, rows],
            self.weight.flatten()[None, rows],
            self.old[rows],
            self.reference[rows],
        )

    def objective(self, policy: LanguagePolicy, options: GripOptions) -> grip.Objective:
        """Return equation 6 of these completions under a policy, differentiable."""
        shape = (*self.advantage.shape, -1)
        return grip.objective(
            policy.log_probs(self.prompts, self.completions).view(shape),
            self.old.view(shape),
            self.reference.view(shape),
            self.completions.mask.view(shape),
            self.advantage,
            self.weight,
            epsilon=options.epsilon,
            beta=options.beta,
        )


def gradients(
    policy: LanguagePolicy,
    piece: Piece,
    options: GripOptions,
    weights: Sequence[Tensor],
    questions: int,
) -> tuple[grip.Objective, list[Tensor]]:
    """Return the objective of a piece, and the gradients by some weights of its share of -J, J
    being that of so many questions. At most `policy.rows` completions are in memory together.
    """
    found: list[grip.Objective] = []
    total: list[Tensor] = []
    parts = piece.parts(policy.rows)
    for part in parts:
        objective = part.objective(policy, options)
        loss = -objective.value * (len(part.advantage) / questions)
        own = torch.autograd.grad(loss, list(weights), materialize_grads=True)
        total = [a + b for a, b in zip(total, own, strict=True)] if found else list(own)
        found.append(objective)
    if len(parts) == 1:
        return found[0], total
    tokens = [int(part.completions.mask.sum()) for part in parts]
    return grip.joined(found, tokens, len(piece.advantage)), total


def split(asked: Questions) -> list[Questions]:
    """Return the questions in at most `PIECES` pieces."""
    parts = np.array_split(np.arange(len(asked)), min(PIECES, len(asked)))
    return [asked.at(rows) for rows in parts]


@torch.no_grad()
def known_log_probs(
    policy: LanguagePolicy, prompts: Sequence[str], completions: Completions
) -> Tensor:
    """Return the log-probabilities of tokens, float32 [R, T], without what a gradient needs."""
    return policy.log_probs(prompts, completions)
