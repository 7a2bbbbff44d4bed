"""Policies: language models that write completions, and say how likely each token of one was.

What belongs here: sampling with an explicit seed, and differentiable log-probabilities. What does
not: where models come from (`own_policy`, `hub`), adapters (`adapters`), how one token is drawn
(`drawing`), the right form of a completion (`grammar`, `answers`), and training.

Completions and log-probabilities are on the CPU, where they are read and rewarded. Everything that
a model computes with is on the model's device.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from tsfm_pipeline.studies.time_r1.decoding import Decoder, positions_of
from tsfm_pipeline.studies.time_r1.drawing import drawn, uniforms
from tsfm_pipeline.studies.time_r1.grammar import Grammar
from tsfm_pipeline.studies.time_r1.tokenizer import as_asked
from tsfm_pipeline.studies.time_r1.vocabulary import ANSWER_END

MOST_ROWS = 256
"""Completions that are sampled together; more are sampled in turns."""
SAMPLED_PER_ROW = 16
"""Sampling keeps keys and values alone, and a gradient every activation of every layer."""
_TAIL = 16
"""Last tokens that are searched for the end tag where it is more than one token."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    seed: of all draws; the draws for a prompt depend on it, on the prompt and on its forced text,
    and not on the other prompts. temperature: 0 draws nothing and takes the most likely token.
    numbers: ids of tokens that are numbers in rising order, if there are such. Where the most
    likely token is one of them, a temperature of 0 takes the middle one, which has half of their
    probability below it: of many neighbours with nearly the same probability, the most likely is an
    accident, and the middle one has the least expected absolute error. top_p: only the most likely
    tokens are drawn that reach this probability together. until: moment of `time.monotonic` after
    which no further token is drawn.
    """

    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    numbers: range = range(0)
    until: float = math.inf

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"{self}; allowed are at least 1 new token, a temperature of at least 0, and top_p "
                "above 0 and at most 1"
            )


class OutOfTime(Exception):
    """Sampling was not done by the moment until which it may go on."""


@dataclass(frozen=True)
class Completions:
    """R completions of N prompts.

    prompt_index: int64 [R], which prompt each completes. ids: int64 [R, T], the tokens after prompt
    and forced text. mask: bool [R, T], false behind the last token. log_probs: float32 [R, T] under
    the model without temperature, top-p or grammar, 0 where the mask is false; NaN where texts were
    given instead of sampled. ended: bool [R], whether the end tag was written. texts: R of them,
    with the forced text. forced: N of them, the text that every completion of a prompt begins with.
    """

    prompt_index: Tensor
    ids: Tensor
    mask: Tensor
    log_probs: Tensor
    ended: Tensor
    texts: tuple[str, ...]
    forced: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: Tensor) -> "Completions":
        """Return some of the completions, rows int64 [R'], of the same prompts."""
        return Completions(
            self.prompt_index[rows],
            self.ids[rows],
            self.mask[rows],
            self.log_probs[rows],
            self.ended[rows],
            tuple(self.texts[row] for row in rows.tolist()),
            self.forced,
        )


@dataclass(frozen=True)
class LanguagePolicy:
    """A causal language model of the type Qwen2 or Llama with its tokenizer.

    model: with or without adapters of peft. A tokenizer with a chat template wraps each prompt as
    what a user says. rows: the most completions that are learnt from together, which bounds the
    memory of a large model; `SAMPLED_PER_ROW` times as many are sampled together. None: all that
    are asked for, of which `MOST_ROWS` are sampled together.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rows: int | None = None

    @property
    def plain(self) -> PreTrainedModel:
        """The model whose layers are called: adapters stay in them."""
        if isinstance(self.model, PeftModel):
            return cast(PreTrainedModel, self.model.get_base_model())
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.plain.device

    def parts(self, completions: Completions) -> list[Completions]:
        """Return completions in parts of at most `rows`, in their order."""
        n = len(completions)
        if self.rows is None or n <= self.rows:
            return [completions]
        return [completions.at(rows) for rows in torch.arange(n).split(self.rows)]

    def sample(
        self,
        prompts: Sequence[str],
        n: int,
        sampling: Sampling,
        grammar: Grammar | None = None,
        forced: Sequence[str] | None = None,
    ) -> Completions:
        """Return n completions of each of N prompts, prompt-major: row i n + j is the j-th of
        prompt i.

        grammar: which tokens may follow. forced: N texts that the completions begin with. A
        completion ends with the tag `</answer>`, with the tokenizer's end token, or after
        `max_new_tokens`. Runs on one thread, so that the result does not depend on their number.

        Raises ValueError for forced texts of another number, or if the grammar may need more than
        `max_new_tokens`. Raises OutOfTime if completions are not whole at `sampling.until`.
        """
        forced = self._forced(prompts, forced)
        heads = [self._ids(text) for text in forced]
        written = [
            self._prompt_ids(prompt) + head for prompt, head in zip(prompts, heads, strict=True)
        ]
        starts = torch.zeros(len(prompts), dtype=torch.int64)
        if grammar is not None:
            starts = torch.tensor([grammar.start(head) for head in heads])
            needed = int(grammar.remaining[starts].max())
            if needed > sampling.max_new_tokens:
                raise ValueError(
                    f"max_new_tokens is {sampling.max_new_tokens}, but a completion of this "
                    f"grammar may need {needed}; allowed is at least that"
                )
        most = MOST_ROWS if self.rows is None else SAMPLED_PER_ROW * self.rows
        chunk = max(1, most // n)
        of_each = torch.arange(n).split(n if self.rows is None else most)
        parts = []
        with torch.inference_mode(), _one_thread(), _evaluating(self.plain):
            for first in range(0, len(prompts), chunk):
                some = slice(first, first + chunk)
                for of_prompt in of_each:
                    draws = [
                        uniforms(each, n, sampling.max_new_tokens, sampling.seed)[of_prompt]
                        for each in written[some]
                    ]
                    parts.append(
                        self._sample(written[some], draws, sampling, grammar, starts[some])
                    )
        ids = _joined([part[0] for part in parts], self._padding)
        mask = _joined([part[1] for part in parts], False)
        log_probs = _joined([part[2] for part in parts], 0.0)
        ended = torch.cat([part[3] for part in parts])
        index = torch.arange(len(prompts)).repeat_interleave(n)
        texts = self._texts([heads[i] for i in index.tolist()], ids, mask)
        return Completions(index, ids, mask, log_probs, ended, texts, tuple(forced))

    def encode(self, texts: Sequence[str]) -> Completions:
        """Return given texts as completions, one per prompt, for supervised training."""
        rows = [torch.tensor(self._ids(text)) for text in texts]
        ids = pad_sequence(rows, batch_first=True, padding_value=self._padding)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        unknown = torch.full(ids.shape, torch.nan)
        ended = torch.tensor([ANSWER_END in text for text in texts])
        index = torch.arange(len(texts))
        return Completions(index, ids, mask, unknown, ended, tuple(texts), ("",) * len(texts))

    def log_probs(self, prompts: Sequence[str], completions: Completions) -> Tensor:
        """Return the log-probability of every token, float32 [R, T] on the CPU, differentiable; 0
        where the mask is false. prompts: the N that the completions' `prompt_index` counts.

        What a gradient needs is kept for all completions: to bound it, ask part by part (`parts`).
        """
        parts = [self._log_probs(prompts, part) for part in self.parts(completions)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _log_probs(self, prompts: Sequence[str], completions: Completions) -> Tensor:
        # Of a large vocabulary, a row of the output layer is the largest tensor of all: those
        # behind a completion's last token are not computed.
        hidden = self._hidden(prompts, completions)[completions.mask.to(self.device)]
        logits = self.plain.lm_head(hidden).float()
        ids = completions.ids[completions.mask].to(self.device)
        found = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        return torch.zeros(completions.mask.shape).masked_scatter(completions.mask, found.cpu())

    def log_distributions(self, prompts: Sequence[str], completions: Completions) -> Tensor:
        """Return the log-probability of every token of the vocabulary at every place of the
        completions, float32 [R, T, V] on the model's device, differentiable; of all completions at
        once, so that a large model is asked part by part (`parts`).
        """
        return self.plain.lm_head(self._hidden(prompts, completions)).float().log_softmax(-1)

    def _hidden(self, prompts: Sequence[str], completions: Completions) -> Tensor:
        """Return what the output layer reads at every place of the completions [R, T, D]. A prompt
        is computed once for all of its completions.
        """
        asked, rows = completions.prompt_index.unique(return_inverse=True)
        ids, mask = self._padded(
            [
                self._prompt_ids(prompts[i]) + self._ids(completions.forced[i])
                for i in asked.tolist()
            ]
        )
        rows = rows.to(self.device)
        model = self.plain
        cache = DynamicCache(config=model.config)
        positions = positions_of(mask)
        first = model.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True
        ).last_hidden_state[rows, -1:]
        if completions.ids.shape[1] == 1:
            return first
        cache.batch_select_indices(rows)
        written = completions.mask[:, :-1].to(self.device)
        steps = torch.arange(written.shape[1], device=self.device)
        later = model.model(
            input_ids=completions.ids[:, :-1].to(self.device),
            attention_mask=torch.cat((mask[rows], written), dim=1),
            position_ids=positions[rows, -1:] + 1 + steps,
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        return torch.cat((first, later), dim=1)

    def _sample(
        self,
        prompts: list[list[int]],
        draws: list[Tensor],
        sampling: Sampling,
        grammar: Grammar | None,
        starts: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ids, mask, log_probs [R, T'] and ended [R] of n completions per prompt.

        draws: of each prompt, float64 [n, T]. starts: int64, the state that a prompt leads to.
        """
        device, n = self.device, len(draws[0])
        draw = torch.cat(draws).to(device)
        states = starts.repeat_interleave(n).to(device)
        if grammar is not None:
            grammar = grammar.to(device)
        decoder = Decoder(self.plain, *self._padded(prompts), n, sampling.max_new_tokens)
        logits = decoder.logits
        rows = len(logits)
        # A tokenizer takes as long to say these as a step of a small model takes.
        padding, end, tag = self._padding, self.tokenizer.eos_token_id, self._ids(ANSWER_END)
        ids = torch.full((rows, sampling.max_new_tokens), padding, device=device)
        mask = torch.zeros(ids.shape, dtype=torch.bool, device=device)
        log_probs = torch.zeros(ids.shape, device=device)
        running = torch.ones(rows, dtype=torch.bool, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        n_steps = 0
        for step in range(sampling.max_new_tokens):
            if time.monotonic() > sampling.until:
                raise OutOfTime(f"after {step} of at most {sampling.max_new_tokens} tokens")
            allowed = None
            if grammar is not None:
                allowed = grammar.allowed(states, logits.shape[1]) | ~running[:, None]
            chosen = drawn(
                logits,
                draw[:, step],
                sampling.temperature,
                sampling.top_p,
                sampling.numbers,
                allowed,
            )
            found = logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            ids[:, step] = torch.where(running, chosen, padding)
            log_probs[:, step] = torch.where(running, found, 0.0)
            mask[:, step] = running
            n_steps = step + 1
            if grammar is not None:
                states = grammar.after(states, chosen)
            closed = running & self._closed(ids[:, :n_steps], tag)
            ended |= closed
            running = running & ~closed & (chosen != end)
            if not running.any() or n_steps == sampling.max_new_tokens:
                break
            logits = decoder.advance(ids[:, step])
        written = (ids[:, :n_steps], mask[:, :n_steps], log_probs[:, :n_steps])
        return written[0].cpu(), written[1].cpu(), written[2].cpu(), ended.cpu()

    def _closed(self, ids: Tensor, tag: list[int]) -> Tensor:
        """Return whether each row has just written the end tag, bool [R]."""
        if len(tag) == 1:
            return ids[:, -1] == tag[0]
        tails = self.tokenizer.batch_decode(ids[:, -_TAIL:].cpu().tolist())
        return torch.tensor([ANSWER_END in tail for tail in tails], device=ids.device)

    def _texts(self, heads: list[list[int]], ids: Tensor, mask: Tensor) -> tuple[str, ...]:
        """Return the texts of rows [R, T] behind their forced tokens, without end tokens."""
        end = self.tokenizer.eos_token_id
        rows = [
            head + [token for token in row[kept].tolist() if token != end]
            for head, row, kept in zip(heads, ids, mask, strict=True)
        ]
        return tuple(self.tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False))

    def _forced(self, prompts: Sequence[str], forced: Sequence[str] | None) -> Sequence[str]:
        if forced is None:
            return ("",) * len(prompts)
        if len(forced) != len(prompts):
            raise ValueError(f"{len(forced)} forced texts for {len(prompts)} prompts")
        return forced

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self._ids(as_asked(self.tokenizer, prompt))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @property
    def _padding(self) -> int:
        padding = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if padding is None else padding)

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [N, P], padded on the left, and what is not padding, bool [N, P]; on the
        model's device.
        """
        longest = max(map(len, rows))
        ids = torch.tensor([[self._padding] * (longest - len(row)) + row for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(longest) >= longest - lengths[:, None]
        return ids.to(self.device), mask.to(self.device)


def _joined(parts: list[Tensor], value: float) -> Tensor:
    """Return parts [R, T] of different T below each other, filled with a value on the right.

    It leaves inference mode: what it returns may take part in training.
    """
    longest = max(part.shape[1] for part in parts)
    padded = [functional.pad(part, (0, longest - part.shape[1]), value=value) for part in parts]
    return torch.cat(padded)


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off, and back on if it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
