"""Check sampling and log-probabilities of language policies."""

import math

import pytest
import torch

from tsfm_pipeline.studies.time_r1.answers import parse
from tsfm_pipeline.studies.time_r1.decoding import Decoder
from tsfm_pipeline.studies.time_r1.grammar import word_grammar
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import (
    Completions,
    LanguagePolicy,
    OutOfTime,
    Sampling,
)
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids

TINY = OwnShape(hidden=32, layers=2, heads=4, key_value_heads=2, feed_forward=48)
HORIZON = 6
SHORT = "task forecast 6 past n3 n4"
LONG = "task forecast 6 past n90 n80 n70 n60 n61 n62 n63"
SAMPLING = Sampling(seed=3, max_new_tokens=20)
GRAMMAR = word_grammar(HORIZON, most_think_words=8)


def sharp(seed: int) -> LanguagePolicy:
    """Return a small policy whose first weights are large, so that its choices are not uniform."""
    policy = new_policy(seed, TINY)
    with torch.no_grad():
        for parameter in policy.plain.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return policy


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    return sharp(0)


def test_two_seeds_draw_different_completions_and_one_seed_the_same(policy: LanguagePolicy) -> None:
    first, again = (policy.sample([SHORT], 4, SAMPLING) for _ in range(2))
    other = policy.sample([SHORT], 4, Sampling(seed=4, max_new_tokens=20))
    assert first.texts == again.texts != other.texts
    assert torch.equal(first.log_probs, again.log_probs)
    assert len(set(first.texts)) == 4


def test_a_prompt_is_answered_alike_alone_and_beside_a_longer_one(policy: LanguagePolicy) -> None:
    together = policy.sample([SHORT, LONG], 3, SAMPLING, GRAMMAR)
    for position, prompt in enumerate((SHORT, LONG)):
        alone = policy.sample([prompt], 3, SAMPLING, GRAMMAR)
        rows = torch.arange(3 * position, 3 * position + 3)
        beside = together.at(rows)
        assert alone.texts == beside.texts
        length = alone.ids.shape[1]
        torch.testing.assert_close(alone.log_probs, beside.log_probs[:, :length], atol=1e-5, rtol=0)
    assert together.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]


def test_many_completions_in_turns_equal_those_at_once(
    policy: LanguagePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [SHORT, LONG, SHORT + " n5"]
    at_once = policy.sample(prompts, 2, SAMPLING, GRAMMAR)
    monkeypatch.setattr("tsfm_pipeline.studies.time_r1.policy.MOST_ROWS", 2)
    in_turns = policy.sample(prompts, 2, SAMPLING, GRAMMAR)
    assert torch.equal(in_turns.ids, at_once.ids)
    assert torch.equal(in_turns.mask, at_once.mask)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was(policy: LanguagePolicy) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(policy.sample([SHORT, LONG], 8, SAMPLING))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].log_probs, found[1].log_probs)


@pytest.mark.parametrize("forced", [None, ["<think> low </think> <answer>", "<think> low"]])
def test_training_sees_the_log_probabilities_that_sampling_recorded(
    policy: LanguagePolicy, forced: list[str] | None
) -> None:
    prompts = [SHORT, LONG]
    drawn = policy.sample(prompts, 3, Sampling(5, 20, temperature=1.7, top_p=0.9), GRAMMAR, forced)
    found = policy.log_probs(prompts, drawn)
    torch.testing.assert_close(found.detach(), drawn.log_probs, atol=1e-5, rtol=0)
    some = drawn.at(torch.tensor([5, 0, 4]))
    kept = policy.log_probs(prompts, some)
    torch.testing.assert_close(kept.detach(), some.log_probs, atol=1e-5, rtol=0)
    assert (drawn.log_probs[drawn.mask] < 0).all()
    assert (drawn.log_probs[~drawn.mask] == 0).all()


def test_log_probabilities_are_those_of_one_plain_forward_pass(policy: LanguagePolicy) -> None:
    text = "<think> low </think> <answer> n1 n2 </answer>"
    given = policy.encode([text])
    found = policy.log_probs([SHORT], given)
    ids = policy.tokenizer(f"{SHORT} {text}", return_tensors="pt").input_ids
    start = ids.shape[1] - given.ids.shape[1]
    logits = policy.plain(input_ids=ids).logits.log_softmax(-1)[0, start - 1 : -1]
    expected = logits.gather(-1, ids[0, start:, None])[:, 0]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    assert given.log_probs.isnan().all()


def test_the_gradient_of_a_log_probability_equals_finite_differences(
    policy: LanguagePolicy,
) -> None:
    given = policy.encode(["<think> low </think>", "<think> high"])
    weight = policy.plain.model.layers[0].mlp.up_proj.weight
    policy.plain.zero_grad()
    policy.log_probs([SHORT, LONG], given).sum().backward()
    slope, step = float(weight.grad[3, 5]), 1e-2
    policy.plain.zero_grad()
    with torch.no_grad():
        ends = []
        for change in (step, -2 * step):
            weight[3, 5] += change
            ends.append(float(policy.log_probs([SHORT, LONG], given).double().sum()))
        weight[3, 5] += step
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_decoding_step_by_step_equals_the_forward_pass_of_transformers(
    policy: LanguagePolicy,
) -> None:
    ids = torch.randint(7, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    with torch.no_grad():
        decoder = Decoder(policy.plain.eval(), ids[:, :7], mask, 1, 5)
        found = [decoder.logits] + [decoder.advance(ids[:, i]) for i in range(7, 12)]
        for row, start in ((0, 3), (1, 0)):
            expected = policy.plain(input_ids=ids[row : row + 1, start:]).logits[0, 6 - start :]
            stepwise = torch.stack([logits[row] for logits in found])
            torch.testing.assert_close(stepwise, expected, atol=1e-4, rtol=0)


def test_no_token_is_drawn_when_the_time_is_over(policy: LanguagePolicy) -> None:
    with pytest.raises(OutOfTime, match="after 0 of at most 20 tokens"):
        policy.sample([SHORT], 2, Sampling(seed=3, max_new_tokens=20, until=0.0))


def test_a_model_that_the_decoder_does_not_know_is_refused(policy: LanguagePolicy) -> None:
    config = policy.plain.config
    known = config.model_type
    try:
        config.model_type = "gpt2"
        with pytest.raises(ValueError, match="'gpt2'; allowed are qwen2, llama"):
            policy.sample([SHORT], 1, SAMPLING)
    finally:
        config.model_type = known


def test_temperature_0_takes_the_most_likely_token_every_time(policy: LanguagePolicy) -> None:
    greedy = policy.sample([SHORT, LONG], 2, Sampling(0, 12, temperature=0))
    best = policy.log_distributions([SHORT, LONG], greedy).argmax(-1)
    assert torch.equal(best[greedy.mask], greedy.ids[greedy.mask])
    assert greedy.texts[0] == greedy.texts[1]


def test_temperature_0_takes_the_middle_number_unless_a_word_is_the_most_likely_token(
    policy: LanguagePolicy,
) -> None:
    prompts, numbers = [f"{SHORT} n{i}" for i in range(0, 200, 5)], number_ids()
    taken = policy.sample(prompts, 1, Sampling(0, 1, temperature=0, numbers=numbers))
    shares = policy.log_distributions(prompts, taken)[:, 0].double().exp()
    token, likeliest = taken.ids[:, 0], shares.argmax(-1)
    is_number = torch.isin(likeliest, torch.tensor(numbers))
    assert 0 < is_number.sum() < len(prompts)
    assert torch.equal(token[~is_number], likeliest[~is_number])
    assert (token[is_number] != likeliest[is_number]).any()
    for row, middle in zip(shares[is_number], token[is_number].tolist(), strict=True):
        half = row[list(numbers)].sum() / 2
        assert row[numbers.start : middle].sum() < half <= row[numbers.start : middle + 1].sum()


def test_draws_have_the_frequencies_of_the_tempered_model(policy: LanguagePolicy) -> None:
    n = 4000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.6)):
        drawn = policy.sample([SHORT], n, Sampling(1, 1, temperature, top_p))
        first = policy.log_distributions([SHORT], drawn.at(torch.tensor([0])))[0, 0].detach()
        shares = (first / temperature).softmax(-1)
        if top_p < 1:
            ordered, order = shares.sort(descending=True)
            kept = order[: int((ordered.cumsum(0) < top_p).sum()) + 1]
            shares = torch.zeros_like(shares).index_copy(0, kept, shares[kept])
            shares = shares / shares.sum()
        counts = drawn.ids[:, 0].bincount(minlength=len(shares)) / n
        assert not counts[shares == 0].any()
        assert float((counts - shares).abs().max()) < 4 * math.sqrt(0.25 / n)


def test_forced_text_begins_every_completion_and_is_not_among_its_tokens(
    policy: LanguagePolicy,
) -> None:
    forced = ["<think> low </think> <answer>", "<think> high and low </think> <answer>"]
    drawn = policy.sample([SHORT, LONG], 2, SAMPLING, GRAMMAR, forced)
    assert drawn.ids.shape == (4, HORIZON + 1)
    for row, text in enumerate(drawn.texts):
        assert text.startswith(forced[row // 2])
        assert parse(text, HORIZON).problem is None


def test_a_completion_stops_at_the_end_tag(policy: LanguagePolicy) -> None:
    n = 128
    drawn = policy.sample([SHORT], n, Sampling(2, 40), word_grammar(2, 30))
    lengths = drawn.mask.sum(1)
    assert drawn.ended.all()
    assert len(set(lengths.tolist())) > 1
    last = drawn.ids[torch.arange(n), lengths - 1]
    assert {policy.tokenizer.decode([i]) for i in last.tolist()} == {"</answer>"}
    assert (drawn.mask == (torch.arange(drawn.ids.shape[1]) < lengths[:, None])).all()


def test_a_completion_that_is_cut_off_has_not_ended(policy: LanguagePolicy) -> None:
    drawn = policy.sample([SHORT], 4, Sampling(2, 3))
    assert drawn.ids.shape[1] <= 3
    assert not drawn.ended.any()


def test_what_cannot_be_sampled_is_refused(policy: LanguagePolicy) -> None:
    with pytest.raises(ValueError, match="a temperature of at least 0"):
        Sampling(0, 4, temperature=-1)
    with pytest.raises(ValueError, match="1 forced texts for 2 prompts"):
        policy.sample([SHORT, LONG], 1, SAMPLING, forced=["<think>"])
    with pytest.raises(ValueError, match=r"max_new_tokens is 17, but .* may need 18"):
        policy.sample([SHORT], 1, Sampling(0, 17), GRAMMAR)


def test_samples_may_take_part_in_training() -> None:
    policy = sharp(1)
    drawn = policy.sample([SHORT], 3, SAMPLING, GRAMMAR)
    ratio = (policy.log_probs([SHORT], drawn) - drawn.log_probs).exp()
    (ratio * drawn.mask).sum().backward()
    assert policy.plain.model.embed_tokens.weight.grad.abs().sum() > 0
    assert isinstance(drawn, Completions)
