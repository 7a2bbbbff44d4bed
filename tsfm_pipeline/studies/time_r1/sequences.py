"""Sequences: prompts and completions as token ids, each token with the part that it belongs to.

What belongs here: the parts that a loss is reported in, encoding, and batches that waste little
padding. What does not: what is written in a prompt (`prompts`), and the loss itself (`training`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tsfm_pipeline.studies.time_r1.tokenizer import as_asked
from tsfm_pipeline.studies.time_r1.windows import Ints

_SPANS = re.compile(r"<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>", re.DOTALL)
_CHUNK_BATCHES = 16
"""Rows are sorted by length within chunks of this many batches: enough for batches of nearly equal
lengths, and few enough to leave their order random.
"""


class Part(IntEnum):
    """What a token of a sequence is. PROMPT: given. TEMPLATE: tags, on which the bar of the
    format loss stands. THINK: inside `<think>`. NUMBER: inside `<answer>`.
    HISTORY: a number in the prompt, which only the base's training scores.
    """

    PROMPT = 0
    TEMPLATE = 1
    THINK = 2
    NUMBER = 3
    HISTORY = 4


@dataclass(frozen=True)
class Batch:
    """Token ids int64 [B, T] and their parts int64 [B, T], padded on the right by tokens of the
    part PROMPT. Attention is causal, so the padding needs no mask.
    """

    ids: Tensor
    parts: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(self.ids.to(device), self.parts.to(device))

    def pieces(self, n: int) -> list["Batch"]:
        """Return at most n parts of the batch with about equally many rows."""
        pairs = zip(self.ids.chunk(n), self.parts.chunk(n), strict=True)
        return [Batch(ids, parts) for ids, parts in pairs]


@dataclass(frozen=True)
class Sequences:
    """N token sequences of any lengths, one after the other.

    ids: int64 [total]. parts: int8 [total], values of `Part`. ends: int64 [N], where each sequence
    ends.
    """

    ids: Ints
    parts: NDArray[np.int8]
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Ints:
        """Tokens of each sequence [N]."""
        return np.diff(self.ends, prepend=0)

    def batch(self, rows: Ints | slice) -> Batch:
        """Return some of the sequences, padded to the longest of them."""
        ends, lengths = self.ends[rows], self.lengths[rows]
        position = np.arange(lengths.max(initial=0))
        inside = position < lengths[:, None]
        index = np.where(inside, (ends - lengths)[:, None] + position, 0)
        ids = np.where(inside, self.ids[index], 0)
        parts = np.where(inside, self.parts[index], Part.PROMPT).astype(np.int64)
        return Batch(torch.from_numpy(ids), torch.from_numpy(parts))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    completions: Sequence[str],
    numbers: range,
) -> Sequences:
    """Return prompts and their completions as sequences, which end where a policy stops: with the
    tag `</answer>`.

    A tokenizer with a chat template wraps each prompt as what a user says. numbers: ids of the
    tokens that are a number each, which are marked HISTORY in a prompt; empty where the codec
    writes numbers as text. Raises ValueError if prompts and completions are not equally many, or if
    a completion is not `<think> ... </think> <answer> ... </answer>`.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError(
            f"{len(prompts)} prompts and {len(completions)} completions; allowed are equally many, "
            "at least one"
        )
    said = [as_asked(tokenizer, prompt) for prompt in prompts]
    asked = tokenizer(said, add_special_tokens=False)["input_ids"]
    told = tokenizer(list(completions), add_special_tokens=False, return_offsets_mapping=True)
    ids: list[Ints] = []
    parts: list[NDArray[np.int8]] = []
    for row, completion in enumerate(completions):
        prompt = np.asarray(asked[row], np.int64)
        in_grid = (prompt >= numbers.start) & (prompt < numbers.stop)
        last = np.asarray(told["offset_mapping"][row], np.int64).reshape(-1, 2)[:, 1] - 1
        ids += [prompt, np.asarray(told["input_ids"][row], np.int64)]
        parts += [
            np.where(in_grid, Part.HISTORY, Part.PROMPT).astype(np.int8),
            _completion_parts(completion, last),
        ]
    lengths = np.array([len(piece) for piece in ids]).reshape(-1, 2).sum(axis=1)
    return Sequences(np.concatenate(ids), np.concatenate(parts), np.cumsum(lengths))


def _completion_parts(completion: str, last: Ints) -> NDArray[np.int8]:
    """Return the part of each token, by the position of its last character."""
    match = _SPANS.fullmatch(completion)
    if match is None:
        raise ValueError(
            f"the completion {completion[:80]!r} must be "
            "'<think> WORDS </think> <answer> NUMBERS </answer>'"
        )
    parts = np.full(len(last), Part.TEMPLATE, np.int8)
    for name, part in (("think", Part.THINK), ("answer", Part.NUMBER)):
        start, end = match.span(name)
        parts[(last >= start) & (last < end)] = part
    return parts


def epoch_rows(lengths: Ints, batch: int, seed: int, epoch: int) -> list[Ints]:
    """Return the rows of each batch of one epoch. Every row is in one batch; batches hold rows of
    nearly equal length, in an order that seed and epoch alone decide.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    size = batch * _CHUNK_BATCHES
    rows: list[Ints] = []
    for first in range(0, len(order), size):
        chunk = order[first : first + size]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        rows += [chunk[start : start + batch] for start in range(0, len(chunk), batch)]
    return [rows[i] for i in rng.permutation(len(rows))]
