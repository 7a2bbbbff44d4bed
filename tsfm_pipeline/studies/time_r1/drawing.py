"""Drawing: one token of each row from the logits of a model.

What belongs here: random numbers that depend on seed and prompt alone, and the token that they
stand for. What does not: the steps of a completion (`policy`), and which tokens a grammar allows
(`grammar`).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def uniforms(prompt: Sequence[int], n: int, n_tokens: int, seed: int) -> Tensor:
    """Return the draws for n completions of one prompt, float64 [n, n_tokens] in [0, 1), a function
    of seed and prompt.
    """
    text = f"{seed}:{','.join(map(str, prompt))}"
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(digest)
    return torch.rand((n, n_tokens), generator=generator, dtype=torch.float64)


def drawn(
    logits: Tensor,
    draws: Tensor,
    temperature: float,
    top_p: float,
    numbers: range,
    allowed: Tensor | None,
) -> Tensor:
    """Return one token per row, int64 [R], by the inverse of the distribution function.

    logits: float [R, V]. draws: float64 [R] in [0, 1), not read at a temperature of 0. temperature,
    top_p, numbers: as in `policy.Sampling`. allowed: bool [R, V], None for every token.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if temperature == 0:
        return _most_likely(logits, numbers)
    shares = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = shares.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        shares = torch.zeros_like(shares).scatter(
            -1, order, ordered.masked_fill(before >= top_p, 0.0)
        )
    cumulative = shares.cumsum(-1)
    total = cumulative[:, -1]
    # A draw just below 1 may be rounded to the total, which no token exceeds.
    below = torch.nextafter(total, torch.zeros_like(total))
    places = torch.minimum(draws * total, below)
    return torch.searchsorted(cumulative, places[:, None], right=True)[:, 0]


def _most_likely(logits: Tensor, numbers: range) -> Tensor:
    """Return the most likely token of each row, or the middle number where that is a number."""
    likeliest = logits.argmax(-1)
    if not numbers:
        return likeliest
    below = logits[:, numbers.start : numbers.stop].double().softmax(-1).cumsum(-1)
    middle = numbers.start + (below < 0.5).sum(-1)
    is_number = (likeliest >= numbers.start) & (likeliest < numbers.stop)
    return torch.where(is_number, middle, likeliest)
