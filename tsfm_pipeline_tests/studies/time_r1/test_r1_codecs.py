import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.studies.time_r1.codecs import (
    LARGEST,
    MISSING_NUMBER,
    NumberCodec,
    TextCodec,
    is_number_word,
    is_plain_number,
)
from tsfm_pipeline.studies.time_r1.frames import Frames, frames_of
from tsfm_pipeline.studies.time_r1.vocabulary import N_NUMBERS, NUMBER_WORDS
from tsfm_pipeline_tests.studies.time_r1.text_windows import drawn, hand_made

NUMBER = NumberCodec()
TEXT = TextCodec()
MIDDLE = f"n{NUMBER.middle}"


def test_the_words_of_the_codec_are_those_of_the_vocabulary():
    windows = drawn(3, 96, 24)
    frames = frames_of(windows)
    words = {word for row in NUMBER.write(windows.history, frames) for word in row}
    assert N_NUMBERS == NUMBER.n_numbers == 201
    assert words <= set(NUMBER_WORDS)
    assert NUMBER.write(frames.mean[:, None], frames) == [[MIDDLE]] * 3


def test_the_grid_is_that_of_shipped_checkpoints():
    numbers = np.array([0, 1, 99, 100, 101, 150, 200])
    assert NUMBER.values[numbers] == pytest.approx(
        [-10.0, -9.6076259, -0.0146613, 0.0, 0.0146613, 1.3290111, 10.0], abs=1e-6
    )


def test_the_grid_is_increasing_and_symmetric_with_an_exact_zero_in_the_middle():
    grid = NUMBER.values
    assert len(grid) == N_NUMBERS
    assert (np.diff(grid) > 0).all()
    assert grid[NUMBER.middle] == 0
    assert (grid == -grid[::-1]).all()
    assert grid[-1] == LARGEST


@pytest.mark.parametrize("n", [0, 1, 2, 200])
def test_a_codec_without_a_middle_number_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} number words; allowed is an odd number"):
        NumberCodec(n)


@settings(max_examples=25)
@given(arrays(np.float64, (2, 5), elements=st.floats(-50, 50)))
def test_a_number_is_the_nearest_of_the_grid(values):
    numbers = NUMBER.numbers(values)
    errors = np.abs(values[..., None] - NUMBER.values)
    assert numbers.dtype == np.int64
    assert np.take_along_axis(errors, numbers[..., None], -1)[..., 0] == pytest.approx(
        errors.min(axis=-1)
    )


def test_numbers_read_back_are_the_same_numbers():
    assert (NUMBER.numbers(NUMBER.values) == np.arange(N_NUMBERS)).all()


def test_what_lies_beyond_the_grid_becomes_its_last_number():
    values = np.array([-np.inf, -1e12, 1e12, np.inf])
    assert NUMBER.numbers(values).tolist() == [0, 0, N_NUMBERS - 1, N_NUMBERS - 1]


def test_an_answer_of_middle_words_is_the_draft_to_the_bit():
    windows = drawn(50, 96, 24)
    draft = np.random.default_rng(1).normal(20, 3, (50, 24))
    frames = frames_of(windows, draft)
    for row in range(50):
        answer = NUMBER.read_answer([MIDDLE] * 24, frames.at(slice(row, row + 1)))
        assert answer.tobytes() == draft[row].tobytes()
    assert NUMBER.write_answer(draft, frames) == [[MIDDLE] * 24] * 50


def test_answers_without_a_draft_are_values_and_with_one_its_corrections():
    windows = drawn(4, 96, 24)
    plain = frames_of(windows)
    drafted = frames_of(windows, windows.history[:, -24:])
    assert NUMBER.write_answer(windows.truth, plain) == NUMBER.write(windows.truth, plain)
    moved = windows.truth - drafted.base + drafted.mean[:, None]
    assert NUMBER.write_answer(windows.truth, drafted) == NUMBER.write(moved, plain)
    numbers = NUMBER.answer_numbers(windows.truth, drafted)
    assert NUMBER.answered(numbers, drafted) == pytest.approx(
        drafted.base + NUMBER.values[numbers] * drafted.deviation[:, None], abs=0
    )


@pytest.mark.parametrize("codec", [NUMBER, TEXT], ids=lambda codec: codec.name)
@pytest.mark.parametrize("with_draft", [False, True])
def test_an_answer_is_read_back_within_the_rounding(codec, with_draft):
    windows = drawn(20, 96, 24)
    frames = frames_of(windows, windows.history[:, -24:] if with_draft else None)
    for row, words in enumerate(codec.write_answer(windows.truth, frames)):
        frame = frames.at(slice(row, row + 1))
        read = codec.read_answer(words, frame)
        # The widest step of number words within 6 deviations is .24; texts round to 1/100.
        allowed = 0.12 if codec is NUMBER else 0.005
        assert np.abs(read - windows.truth[row]).max() <= allowed * frame.deviation[0] * (1 + 1e-9)


@pytest.mark.parametrize("codec", [NUMBER, TEXT], ids=lambda codec: codec.name)
def test_a_part_of_an_answer_is_read_as_far_as_it_goes(codec):
    windows = drawn(1, 96, 24)
    frame = frames_of(windows, windows.history[:, -24:])
    words = codec.write_answer(windows.truth, frame)[0]
    whole = codec.read_answer(words, frame)
    assert codec.read_answer(words[:7], frame) == pytest.approx(whole[:7], abs=0)


@pytest.mark.parametrize("codec", [NUMBER, TEXT], ids=lambda codec: codec.name)
def test_words_for_more_steps_than_the_horizon_are_refused(codec):
    frame = frames_of(drawn(1, 96, 24))
    with pytest.raises(ValueError, match=r"25 words .* horizon of 24"):
        codec.read_answer([MIDDLE] * 25, frame)


@pytest.mark.parametrize("codec", [NUMBER, TEXT], ids=lambda codec: codec.name)
def test_an_unknown_value_is_written_as_missing_in_a_look_back_and_refused_in_an_answer(codec):
    windows = hand_made(np.array([[1.0, np.nan, 3.0]]), np.array([[np.nan, 1.0]]))
    frames = frames_of(windows)
    words = codec.write(windows.history, frames)[0]
    assert [word == "missing" for word in words] == [False, True, False]
    assert NUMBER.past_numbers(windows.history, frames)[0, 1] == MISSING_NUMBER
    with pytest.raises(ValueError, match="answers of 1 windows have unknown values"):
        codec.write_answer(windows.truth, frames)


@pytest.mark.parametrize(
    "words",
    [[], ["n201"], ["n-1"], ["n01"], ["N5"], ["n5", "7"], ["missing"], ["n5 "], ["n٣"], ["n" * 9]],
    ids=repr,
)
def test_words_that_are_not_numbers_of_the_number_codec_are_no_answer(words):
    assert NUMBER.read_answer(words, frames_of(drawn(1, 96, 24))) is None


@pytest.mark.parametrize(
    "word", ["n5", "nan", "inf", "1e999", "1,000", "1_0", "0x1", "٣", "", " 1"]
)
def test_words_that_are_not_finite_plain_numbers_are_no_answer_of_the_text_codec(word):
    assert TEXT.read_answer([word], frames_of(drawn(1, 96, 24))) is None


@pytest.mark.parametrize(
    ("word", "value"),
    [("7", 7), ("-7.25", -7.25), ("+.5", 0.5), ("3.", 3), ("1e3", 1e3), ("2E-2", 0.02)],
)
def test_plain_numbers_of_every_form_are_read(word, value):
    assert is_plain_number(word)
    assert not is_number_word(word)
    assert TEXT.read_answer([word], frames_of(drawn(1, 96, 24))).tolist() == [value]


@pytest.mark.parametrize(
    ("deviation", "word"),
    [(0.5, "12.346"), (1.0, "12.35"), (9.99, "12.35"), (10.0, "12.3"), (99.0, "12.3"), (1e6, "12")],
)
def test_texts_show_three_significant_digits_of_the_deviation(deviation, word):
    frames = Frames(np.zeros(1), np.array([deviation]), np.zeros((1, 1)))
    assert TEXT.write(np.array([[12.3456]]), frames) == [[word]]


def test_texts_have_no_negative_zero_and_no_exponent():
    frames = Frames(np.zeros(1), np.ones(1), np.zeros((1, 1)))
    assert TEXT.write(np.array([[-0.001, 0.0, -1.5, 1e15]]), frames) == [
        ["0.00", "0.00", "-1.50", "1000000000000000.00"]
    ]


def test_a_look_back_of_zeros_is_written_in_units_of_the_data():
    windows = hand_made(np.zeros((1, 8)), np.array([[0.0, 3.0, -3.0]]))
    frames = frames_of(windows)
    assert NUMBER.write(windows.history, frames) == [[MIDDLE] * 8]
    for codec, error in ((NUMBER, 0.07), (TEXT, 0.005)):
        read = codec.read_answer(codec.write_answer(windows.truth, frames)[0], frames)
        assert np.abs(read - windows.truth[0]).max() <= error


def test_a_constant_look_back_can_be_written_and_its_zero_correction_read():
    windows = hand_made(np.full((2, 8), 5.0), np.array([[5.0, 5.0], [6.0, 4.0]]))
    frames = frames_of(windows)
    assert NUMBER.write_answer(windows.truth, frames) == [[MIDDLE, MIDDLE], ["n200", "n0"]]
    assert [float(word) for word in TEXT.write_answer(windows.truth, frames)[1]] == [6.0, 4.0]


@pytest.mark.parametrize(("scale", "shift"), [(4.0, 1024.0), (-0.5, 3.0), (1e6, 0.0)])
def test_scale_and_shift_of_the_data_do_not_change_the_answer_in_words(scale, shift):
    windows = drawn(50, 96, 24)
    moved = hand_made(windows.past * scale + shift, windows.truth * scale + shift)
    written = NUMBER.answer_numbers(windows.truth, frames_of(windows))
    again = NUMBER.answer_numbers(moved.truth, frames_of(moved))
    expected = written if scale > 0 else N_NUMBERS - 1 - written
    assert (again == expected).all()
