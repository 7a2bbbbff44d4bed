"""Test what the output filters object to, and what is shown instead."""

import pytest

from tsfm_pipeline.studies.time_r1.output_filter import (
    WITHHELD,
    ClosedVocabulary,
    OutputFilter,
    WordList,
    objection_rate,
    shown,
)


def test_a_closed_vocabulary_objects_to_every_other_word() -> None:
    closed: OutputFilter = ClosedVocabulary(["<think>", "</think>", "level", "rises", "n3"])
    assert closed.objections("<think> level rises n3 </think>") == ()
    assert closed.objections("level Rises n3 <unk>") == ("Rises", "<unk>")


@pytest.mark.parametrize(
    ("text", "objections"),
    [
        ("The level rises after a classic peak in Scunthorpe.", ()),
        ("Spices, cocktails, Dickens and a shiitake.", ()),
        ("what a SHIT forecast, you idiots!", ("SHIT", "idiots")),
        ("fucking-great", ("fucking",)),
        ("", ()),
    ],
)
def test_the_word_list_objects_to_whole_words_in_any_case(
    text: str, objections: tuple[str, ...]
) -> None:
    assert WordList().objections(text) == objections


def test_words_of_ones_own_are_taken_literally() -> None:
    own = WordList(["a.b", "draft"])
    assert own.objections("acb a.b drafts draft") == ("a.b", "draft")
    with pytest.raises(ValueError, match="empty"):
        WordList([])


def test_the_rate_counts_texts_and_what_is_objected_to_is_withheld() -> None:
    texts = ["fine", "shit shit", "also fine", "fine"]
    assert objection_rate(texts, WordList()) == 0.25
    assert objection_rate([], WordList()) == 0.0
    assert shown("fine", WordList()) == "fine"
    assert shown("shit", WordList()) == WITHHELD
