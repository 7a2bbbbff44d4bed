"""Test equation 6 against a calculation by hand, finite differences, and trl."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tsfm_pipeline.studies.time_r1.grip import (
    Objective,
    advantages,
    entropy,
    exact_kl,
    k3,
    objective,
    weights,
)

LOOSE = 1e6
"""A log-probability that padding may hold; it must never count."""


class Tensors(NamedTuple):
    """What the objective reads: log-probabilities [B, G, T], their mask, and rewards [B, G]."""

    log_probs: Tensor
    old: Tensor
    reference: Tensor
    mask: Tensor
    rewards: Tensor


def drawn(seed: int, questions: int = 2, group: int = 4, length: int = 5) -> Tensors:
    rng = torch.Generator().manual_seed(seed)
    shape = (questions, group, length)
    log_probs, old, reference = (
        torch.randn(shape, generator=rng, dtype=torch.float64) * 0.4 - 2 for _ in range(3)
    )
    lengths = torch.randint(1, length + 1, shape[:2], generator=rng)
    mask = torch.arange(length) < lengths.unsqueeze(-1)
    rewards = torch.rand(shape[:2], generator=rng, dtype=torch.float64)
    return Tensors(log_probs, old, reference, mask, rewards)


def grip(x: Tensors, *, beta: float = 0.04, ddof: int = 1, kind: Any = "softmax") -> Objective:
    advantage, weight = advantages(x.rewards, ddof), weights(x.rewards, kind)
    return objective(
        x.log_probs, x.old, x.reference, x.mask, advantage, weight, epsilon=0.2, beta=beta
    )


def by_hand() -> Tensors:
    """Two completions of one question: ratios 1.5 and (.5, 1), rewards 1 and 0, and a reference
    that is twice as likely at the first token of the second.
    """
    ratio = torch.tensor([[[1.5, 7.0], [0.5, 1.0]]], dtype=torch.float64)
    old = torch.full_like(ratio, -2.0)
    log_probs = old + ratio.log()
    reference = log_probs + torch.tensor([[[0.0, 3.0], [math.log(2), 0.0]]])
    mask = torch.tensor([[[True, False], [True, True]]])
    return Tensors(log_probs, old, reference, mask, torch.tensor([[1.0, 0.0]]).double())


@pytest.mark.parametrize(("ddof", "expected"), [(0, 0.633573), (1, 0.447520)])
def test_equation_6_equals_the_calculation_by_hand(ddof: int, expected: float) -> None:
    x = by_hand()
    assert weights(x.rewards).tolist() == [pytest.approx([0.731059, 0.268941], abs=1e-6)]
    assert k3(x.log_probs, x.reference, x.mask)[0, 1, 0].item() == pytest.approx(0.306853, abs=1e-6)
    got = grip(x, ddof=ddof)
    assert got.value.item() == pytest.approx(expected, abs=1e-6)
    assert got.k3 == pytest.approx(0.306853 / 3, abs=1e-6)
    assert got.clipped == pytest.approx(2 / 3)


def test_clipped_tokens_have_no_gradient_but_that_of_the_divergence() -> None:
    for beta, at_low_clip in ((0.0, 0.0), (0.04, 0.04 * 0.268941 / 2)):
        x = by_hand()
        x.log_probs.requires_grad_()
        grip(x, beta=beta, ddof=0).value.backward()
        gradient = x.log_probs.grad
        assert gradient is not None
        # d(-beta k3)/d(log p) = beta (p_ref/p - 1), which is beta where p_ref/p = 2.
        expected = [0.0, 0.0, at_low_clip, -0.268941 / 2]
        assert gradient[0].flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_gradients_equal_finite_differences() -> None:
    x = drawn(3, questions=1, group=3, length=3)

    def value(log_probs: Tensor) -> Tensor:
        return grip(x._replace(log_probs=log_probs)).value

    assert torch.autograd.gradcheck(value, x.log_probs.clone().requires_grad_())


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), padding=st.integers(1, 4))
def test_padding_and_order_do_not_matter(seed: int, padding: int) -> None:
    x = drawn(seed)
    value = grip(x).value.item()

    def padded(t: Tensor, fill: float) -> Tensor:
        tail = torch.full((*t.shape[:2], padding), fill, dtype=t.dtype)
        return torch.cat([t, tail], dim=2)

    fills = (math.nan, math.inf, -LOOSE, 0)
    wide = Tensors(*(padded(t, f) for t, f in zip(x[:4], fills, strict=True)), x.rewards)
    assert grip(wide).value.item() == pytest.approx(value, abs=1e-12)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    assert grip(Tensors(*(t[:, order] for t in x))).value.item() == pytest.approx(value, abs=1e-12)


def test_padding_has_no_gradient_even_where_it_is_not_finite() -> None:
    x = drawn(1)
    log_probs = x.log_probs.masked_fill(~x.mask, -math.inf).requires_grad_()
    grip(x._replace(log_probs=log_probs)).value.backward()
    assert log_probs.grad is not None
    assert torch.isfinite(log_probs.grad).all()
    assert (log_probs.grad[~x.mask] == 0).all()


def test_a_group_of_equal_rewards_moves_by_the_divergence_alone() -> None:
    x = drawn(5)
    # Equal but for the rounding of .1 + .2.
    x = x._replace(rewards=torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.3]] * 2, dtype=torch.float64))
    assert (advantages(x.rewards) == 0).all()
    log_probs = x.log_probs.clone().requires_grad_()
    grip(x._replace(log_probs=log_probs), beta=0.0).value.backward()
    assert log_probs.grad is not None
    assert (log_probs.grad == 0).all()
    grip(x._replace(log_probs=log_probs)).value.backward()
    assert (log_probs.grad[x.mask] != 0).all()


def test_a_completion_without_tokens_adds_nothing() -> None:
    x = drawn(2)
    x.mask[:, 0] = False
    assert torch.isfinite(grip(x).value)


@settings(max_examples=25)
@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8),
    shift=st.floats(-100, 100),
    temperature=st.floats(0.05, 10),
)
def test_weights_add_up_and_grow_with_the_reward(
    values: list[float], shift: float, temperature: float
) -> None:
    rewards = torch.tensor([values], dtype=torch.float64)
    w = weights(rewards, temperature=temperature)
    assert w.sum().item() == pytest.approx(1)
    assert torch.isfinite(w).all()
    assert (w[0, rewards[0].argsort()].diff() >= -1e-12).all()
    moved = weights(rewards + shift, temperature=temperature)
    assert moved[0].tolist() == pytest.approx(w[0].tolist(), abs=1e-6)


def test_weights_follow_their_kind_and_temperature() -> None:
    rewards = torch.tensor([[0.6, 0.5]])
    mild, sharp = weights(rewards)[0], weights(rewards, temperature=0.1)[0]
    assert (mild[0] / mild[1]).item() == pytest.approx(1.105, abs=1e-3)
    assert (sharp[0] / sharp[1]).item() == pytest.approx(math.e, abs=1e-3)
    assert weights(rewards, "uniform").tolist() == [[0.5, 0.5]]


def test_advantages_have_the_mean_0_and_the_deviation_of_their_ddof() -> None:
    rewards = drawn(0).rewards
    for ddof in (0, 1):
        a = advantages(rewards, ddof)
        assert a.mean(1).tolist() == pytest.approx([0, 0], abs=1e-12)
        assert a.std(1, correction=ddof).tolist() == pytest.approx([1, 1])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 values that are not finite"):
        advantages(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="at least 2"):
        advantages(torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="above 0"):
        weights(torch.tensor([[1.0, 2.0]]), temperature=0.0)
    x = drawn(0)
    with pytest.raises(ValueError, match="are expected"):
        grip(x._replace(old=x.old[:, :, :1]))
    for measure in (
        lambda: exact_kl(x.log_probs, x.old, torch.zeros(2, 4, dtype=torch.bool)),
        lambda: entropy(x.log_probs, torch.zeros(2, 4, dtype=torch.bool)),
    ):
        with pytest.raises(ValueError, match="at least one"):
            measure()


def test_the_exact_divergence_and_the_entropy_equal_their_definitions() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25, 0.0]), torch.tensor([0.25, 0.25, 0.25, 0.25])
    mask = torch.tensor([True, False])
    logits, reference = (torch.stack([d.log(), torch.full_like(d, 5.0)]) for d in (p, q))
    assert exact_kl(logits, reference, mask).item() == pytest.approx(0.5 * math.log(2))
    assert entropy(logits, mask).item() == pytest.approx(1.5 * math.log(2))
    assert exact_kl(reference, reference, mask).item() == 0


def test_k3_of_fresh_samples_agrees_with_the_exact_divergence() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 50, generator=rng)
    reference = logits + 0.3 * torch.randn(1, 50, generator=rng)
    exact = exact_kl(logits, reference, torch.tensor([True])).item()
    n = 20_000
    tokens = torch.multinomial(logits.softmax(-1), n, replacement=True, generator=rng)
    p, q = (x.log_softmax(-1).gather(1, tokens) for x in (logits, reference))
    estimates = k3(p, q, torch.ones_like(p, dtype=torch.bool))
    error = estimates.std().item() / math.sqrt(n)
    assert abs(estimates.mean().item() - exact) < 3 * error
    # Of the likelier half of the samples alone it is another figure: kept completions bias it.
    likelier = p > p.median()
    assert abs(estimates[likelier].mean().item() - exact) > 3 * error


def test_k3_is_not_clamped() -> None:
    p, q = torch.tensor([[-5.0, -1.0]]), torch.tensor([[-1.0, -30.0]])
    got = k3(p, q, torch.ones_like(p, dtype=torch.bool))
    assert got[0].tolist() == pytest.approx([math.exp(4) - 5, math.exp(-29) + 28])


@pytest.mark.heavy
def test_without_oversampling_and_with_uniform_weights_it_is_the_grpo_loss_of_trl(
    tmp_path: Path,
) -> None:
    """trl has no loss function apart from its trainer: the public `compute_loss` of a trainer of a
    tiny model gets the same log-probabilities, advantages and masks.
    """
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(10))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(words), **sizes, **heads)).save_pretrained(tmp_path)
    model = Qwen2ForCausalLM.from_pretrained(tmp_path)
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        loss_type="grpo",
        beta=0.04,
        epsilon=0.2,
        num_generations=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        # Equation 6 has no importance ratio on the KL term.
        use_bias_correction_kl=False,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["w1"] * 4}),
        processing_class=tokenizer,
    )
    # In training mode trl divides by its steps of accumulation, which only a running loop sets.
    model.eval()

    x = drawn(7, questions=1, group=6)
    rng = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, len(words), (6, 3), generator=rng)
    completions = torch.randint(2, len(words), (6, 5), generator=rng)
    ids = torch.cat([prompts, completions], dim=1)
    with torch.no_grad():
        tokens = model(ids).logits[:, 2:-1].log_softmax(-1)
    log_probs = tokens.gather(-1, completions.unsqueeze(-1)).squeeze(-1)
    noise = torch.randn((2, 6, 5), generator=rng) * 0.4
    old, reference = log_probs + noise
    advantage = advantages(x.rewards).float()
    loss = trainer.compute_loss(
        model,
        {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": completions,
            "completion_mask": x.mask[0].long(),
            "advantages": advantage[0],
            "old_per_token_logps": old,
            "ref_per_token_logps": reference,
            "num_items_in_batch": x.mask.sum(),
        },
    )
    ours = objective(
        log_probs[None],
        old[None],
        reference[None],
        x.mask,
        advantage,
        weights(x.rewards, "uniform"),
        epsilon=0.2,
        beta=0.04,
    )
    assert ours.clipped > 0.1
    assert -ours.value.item() == pytest.approx(loss.item(), abs=1e-6)
