"""Check that constrained decoding always writes a readable answer."""

import pytest
import torch

from tsfm_pipeline.studies.time_r1.answers import parse
from tsfm_pipeline.studies.time_r1.grammar import Grammar, word_grammar
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import Sampling
from tsfm_pipeline.studies.time_r1.tokenizer import own_tokenizer

TINY = OwnShape(hidden=32, layers=1, heads=2, key_value_heads=1, feed_forward=32)
TOKENIZER = own_tokenizer()


def accepted(grammar: Grammar, text: str) -> bool:
    """Return whether a grammar accepts a whole text."""
    try:
        return grammar.start(TOKENIZER(text).input_ids) == grammar.last
    except ValueError:
        return False


@pytest.mark.parametrize("temperature", [1.0, 30.0, 0.0])
def test_random_weights_write_readable_answers_always(temperature: float) -> None:
    horizon = 24
    grammar = word_grammar(horizon, 12)
    sampling = Sampling(7, int(grammar.remaining[0]), temperature)
    for seed in range(3):
        policy = new_policy(seed, TINY)
        for forced in (None, ["<think> low </think> <answer>"]):
            drawn = policy.sample(["task forecast 24 past n3"], 64, sampling, grammar, forced)
            problems = {parse(text, horizon).problem for text in drawn.texts}
            assert problems == {None}
            assert drawn.ended.all()
            assert all(len(parse(text, horizon).words or ()) == horizon for text in drawn.texts)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("<think> low </think> <answer> n1 n200 </answer>", True),
        ("<think> n3 low 4 low </think> <answer> n1 n200 </answer>", True),
        ("<think> </think> <answer> n1 n2 </answer>", False),
        ("<think> low </think> <answer> n1 </answer>", False),
        ("<think> low </think> <answer> n1 n2 n3 </answer>", False),
        ("<think> low </think> <answer> n1 missing </answer>", False),
        ("<think> low </think> low <answer> n1 n2 </answer>", False),
        ("<think> low <answer> n1 n2 </answer>", False),
        ("<think> low <think> low </think> <answer> n1 n2 </answer>", False),
        ("<think> low low low low low </think> <answer> n1 n2 </answer>", False),
        ("low <think> low </think> <answer> n1 n2 </answer>", False),
    ],
)
def test_the_grammar_accepts_what_answers_reads(text: str, fits: bool) -> None:
    assert accepted(word_grammar(2, most_think_words=4), text) is fits
    if fits:
        assert parse(text, 2).problem is None


def test_remaining_is_the_longest_way_to_the_end() -> None:
    grammar = word_grammar(2, most_think_words=4)
    longest = "<think> low low low low </think> <answer> n1 n2 </answer>"
    ids = TOKENIZER(longest).input_ids
    assert int(grammar.remaining[0]) == len(ids)
    for length in range(len(ids) + 1):
        assert int(grammar.remaining[grammar.start(ids[:length])]) == len(ids) - length


def test_a_state_allows_exactly_the_tokens_that_lead_on() -> None:
    grammar = word_grammar(2, most_think_words=4)
    state = grammar.start(TOKENIZER("<think> low </think> <answer> n1").input_ids)
    allowed = grammar.allowed(torch.tensor([state]), len(TOKENIZER))[0]
    words = TOKENIZER.convert_ids_to_tokens(allowed.nonzero()[:, 0].tolist())
    assert words == [f"n{number}" for number in range(201)]


def test_forced_text_that_breaks_the_form_is_refused() -> None:
    ids = TOKENIZER("<think> low <answer>").input_ids
    with pytest.raises(ValueError, match=r"forced token 2 \(id 4\) may not stand there"):
        word_grammar(2).start(ids)
