from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tsfm_pipeline.studies.time_r1.answers import completion
from tsfm_pipeline.studies.time_r1.codecs import MISSING_NUMBER, NumberCodec
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.prompts import render
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids, own_tokenizer, word_kinds
from tsfm_pipeline.studies.time_r1.vocabulary import (
    COUNTS,
    END,
    MANY,
    MISSING,
    NUMBER_WORDS,
    PADDING,
    TAGS,
    WORDS,
    count_word,
)
from tsfm_pipeline_tests.studies.time_r1.text_windows import drawn

SNAPSHOT = Path(__file__).parent / "own_vocabulary.txt"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return own_tokenizer()


def test_ids_of_shipped_words_never_change_and_new_words_come_last(tokenizer):
    shipped = SNAPSHOT.read_text(encoding="utf-8").split()
    assert shipped == list(WORDS[: len(shipped)])
    assert tokenizer.convert_tokens_to_ids(shipped) == list(range(len(shipped)))


def test_every_word_is_one_token_and_has_no_twin(tokenizer):
    assert len(set(WORDS)) == len(WORDS) == len(tokenizer) == tokenizer.vocab_size
    assert not any(word.split() != [word] for word in WORDS)
    assert tokenizer(" ".join(WORDS)).input_ids == list(range(len(WORDS)))


def test_the_id_of_a_number_is_the_first_plus_it_and_that_of_a_missing_one_too(tokenizer):
    ids = number_ids()
    assert tokenizer.convert_tokens_to_ids(list(NUMBER_WORDS)) == list(ids)
    assert tokenizer.convert_tokens_to_ids(MISSING) == ids[0] + MISSING_NUMBER


def test_tokens_of_arrays_are_those_of_the_prompt(tokenizer):
    windows = drawn(5, 96, 24)
    windows.past[:, 3] = np.nan
    frames = frames_of(windows)
    codec = NumberCodec()
    ids = np.array(tokenizer(render(windows, frames, codec, "own")).input_ids)
    numbers = codec.past_numbers(windows.history, frames) + number_ids()[0]
    start = ids[0].tolist().index(WORDS.index("past")) + 1
    assert (ids[:, start : start + 96] == numbers).all()


def test_prompts_and_completions_come_back_from_their_tokens(tokenizer):
    windows = drawn(2, 96, 24)
    frames = frames_of(windows, windows.history[:, -24:])
    codec = NumberCodec()
    texts = [
        *render(windows, frames, codec, "own", frames.base),
        completion(
            f"level up 3 peak hour 14 {MANY}", codec.write_answer(windows.truth, frames)[0], codec
        ),
    ]
    assert tokenizer.batch_decode(tokenizer(texts).input_ids) == texts


def test_the_end_and_padding_are_left_out_of_texts_and_tags_are_not(tokenizer):
    ids = tokenizer(f"{PADDING} {' '.join(TAGS)} {END} {PADDING}").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(TAGS)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (WORDS.index(END), 0)


def test_shorter_prompts_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["task forecast", "task"], padding=True)
    assert batch.input_ids[1] == [tokenizer.pad_token_id, batch.input_ids[0][0]]
    assert batch.attention_mask == [[1, 1], [0, 1]]


@pytest.mark.parametrize("word", ["tenant-0012", "n201", "Level", "1.5", "<end"])
def test_a_word_outside_of_the_vocabulary_is_refused(tokenizer, word):
    with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
        tokenizer(f"level {word}")


def test_the_saved_tokenizer_is_the_same_and_its_file_the_same_bytes(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "a")
    own_tokenizer().save_pretrained(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path / "a")
    text = " ".join(WORDS)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text
    assert loaded.padding_side == "left"


def test_a_count_is_a_word():
    assert [count_word(count) for count in (0, 24, 100, 101, 1440, 10**9)] == [
        "0",
        "24",
        "100",
        MANY,
        "1440",
        MANY,
    ]
    assert {count_word(count) for count in COUNTS} < set(WORDS)


def test_numbers_are_of_one_kind_words_of_another_and_each_tag_of_its_own(tokenizer):
    kinds = word_kinds()
    assert set(kinds[list(number_ids())].tolist()) == {1}
    ids = tokenizer.convert_tokens_to_ids([PADDING, END, *TAGS])
    assert len(set(kinds[ids].tolist()) - {0, 1}) == len(ids)
    assert int((kinds == 0).sum()) == len(WORDS) - len(number_ids()) - len(ids)
