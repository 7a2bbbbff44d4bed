"""Checks of a trained policy on held-out prompts: can it be read, and how far has it moved?

What belongs here: sampling for the checks, and counting. What does not: reading answers
(`answers`), the divergence itself (`grip`), and which prompts (`making_answers`).
"""

from collections import Counter
from typing import Any

import torch

from tsfm_pipeline.studies.time_r1 import grip
from tsfm_pipeline.studies.time_r1.answers import read
from tsfm_pipeline.studies.time_r1.grammar import Grammar, text_grammar, word_grammar
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.questions import Questions

COMPLETIONS = 4
"""Of each prompt."""


def parsing_of(
    policy: LanguagePolicy, asked: Questions, options: ThinkingOptions, seed: int
) -> dict[str, Any]:
    """Return how many completions could be read without a fault of form: `n_free` sampled at
    temperature 1 without a grammar, reason included, and `n_constrained` with one; `problems`
    counts the faults of the free ones by name. A reason in plain text has no grammar, so of a text
    codec only the answer after a given reason is constrained.
    """
    horizon = asked.windows.horizon
    words = asked.codec.name == "number"
    grammar = word_grammar(horizon) if words else text_grammar(policy.tokenizer, horizon)
    free = _problems(policy, asked, options, seed, None)
    constrained = _problems(policy, asked, options, seed, grammar)
    return {
        "n_free": len(free),
        "n_free_read": sum(problem is None for problem in free),
        "n_constrained": len(constrained),
        "n_constrained_read": sum(problem is None for problem in constrained),
        "problems": dict(sorted(Counter(p for p in free if p is not None).items())),
    }


def _problems(
    policy: LanguagePolicy,
    asked: Questions,
    options: ThinkingOptions,
    seed: int,
    grammar: Grammar | None,
) -> list[str | None]:
    most, forced = options.max_new_tokens, None
    if grammar is not None:
        forced = None if asked.codec.name == "number" else asked.forced
        most = max(most, int(grammar.remaining.max()))
    completions = policy.sample(asked.prompts, COMPLETIONS, Sampling(seed, most), grammar, forced)
    frames = asked.frames.at(completions.prompt_index.numpy())
    answers = read(completions.texts, asked.codec, frames)
    return [None if a.problem is None else str(a.problem) for a in answers]


@torch.no_grad()
def divergence_of(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    asked: Questions,
    options: ThinkingOptions,
    seed: int,
) -> dict[str, list[float]]:
    """Return the divergence of a policy from a reference in nats per token, by prompt: `exact` over
    the vocabulary, and `k3` estimated from one fresh completion of each.

    Only tokens that the policy writes count. Where the reason is given (`asked.forced`), these are
    the answer's numbers and the tag that closes it.
    """
    completions = policy.sample(
        asked.prompts, 1, Sampling(seed, options.max_new_tokens), forced=asked.forced
    )
    exact: list[float] = []
    k3: list[float] = []
    for part in policy.parts(completions):
        own, other = (each.log_distributions(asked.prompts, part) for each in (policy, reference))
        mask, chosen = part.mask.to(own.device), part.ids.to(own.device)[..., None]
        estimate = grip.k3(own.gather(-1, chosen)[..., 0], other.gather(-1, chosen)[..., 0], mask)
        k3 += (estimate.sum(dim=-1) / mask.sum(dim=-1)).cpu().tolist()
        exact += [
            float(grip.exact_kl(own[row, None], other[row, None], mask[row, None]))
            for row in range(len(part))
        ]
    return {"exact": exact, "k3": k3}
