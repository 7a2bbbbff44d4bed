import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.time_r1.answers import Parsed, Problem, completion, parse, read
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec, TextCodec
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.vocabulary import TAGS
from tsfm_pipeline_tests.studies.time_r1.text_windows import drawn

H = 3
GOOD = "<think> level up </think> <answer> 1.5 -2 3 </answer>"


def answered(numbers: str) -> str:
    return f"<think>level up</think>\n<answer>\n{numbers}\n</answer>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD, ("1.5", "-2", "3")),
        ("<think>level up</think><answer>1.5 -2 3</answer>", ("1.5", "-2", "3")),
        (f"\n {GOOD} \n\n", ("1.5", "-2", "3")),
        (answered("n7\tn100  n200"), ("n7", "n100", "n200")),
    ],
    ids=["spaces", "tight", "white space around", "number words"],
)
def test_a_completion_of_the_right_form_has_a_reason_and_its_numbers(text, words):
    assert parse(text, len(words)) == Parsed("level up", words, None)


@pytest.mark.parametrize("codec", [NumberCodec(), TextCodec()], ids=lambda codec: codec.name)
def test_what_is_written_is_read_back(codec):
    windows = drawn(4, 96, 24)
    frames = frames_of(windows, windows.history[:, -24:])
    words = codec.write_answer(windows.truth, frames)
    answers = read([completion("trend up 3", row, codec) for row in words], codec, frames)
    for row, answer in enumerate(answers):
        assert (answer.think, answer.problem) == ("trend up 3", None)
        assert (
            answer.values.tobytes()
            == codec.read_answer(words[row], frames.at(slice(row, row + 1))).tobytes()
        )


def test_completions_of_both_codecs_have_one_form():
    assert (
        completion("level up", ["n1", "n2"], NumberCodec())
        == "<think> level up </think> <answer> n1 n2 </answer>"
    )
    assert (
        completion("level up", ["1.5", "-2.0"], TextCodec())
        == "<think> level up </think>\n<answer>\n1.5\n-2.0\n</answer>"
    )


@pytest.mark.parametrize("think", ["", " \n", "a </think> b", "<answer>"])
def test_a_reason_without_words_or_with_a_tag_is_refused(think):
    with pytest.raises(ValueError, match="allowed is at least one word"):
        completion(think, ["1"], TextCodec())


# The traps of the original's parser: what must be read rather than lost.


def test_no_line_is_taken_for_a_header():
    assert parse(answered("1.5\n-2.0\n3.5"), H).words == ("1.5", "-2.0", "3.5")


def test_whole_numbers_without_a_point_count():
    assert parse(answered("7\n8\n-9"), H) == Parsed("level up", ("7", "8", "-9"), None)


def test_exponents_count():
    windows = drawn(1, 96, H)
    assert read([answered("1e3 2.5E-1 -1e+0")], TextCodec(), frames_of(windows))[
        0
    ].values.tolist() == [
        1000,
        0.25,
        -1,
    ]


def test_numbers_count_wherever_they_stand_in_a_line():
    assert parse(answered("1.5 -2.0\n3.5"), H).words == ("1.5", "-2.0", "3.5")


def test_windows_line_ends_change_nothing():
    assert parse(answered("1.5\n-2\n3").replace("\n", "\r\n"), H) == parse(
        answered("1.5\n-2\n3"), H
    )


def test_a_typographic_minus_is_a_minus():
    assert parse(answered("\u22121.5 \u22122 3"), H) == Parsed(
        "level up", ("-1.5", "-2", "3"), None
    )


# And what must not be read.

BROKEN = {
    "value\n1.5\n-2\n3": Problem.HEADER,
    "time, value\n1.5\n-2\n3": Problem.HEADER,
    "nan 1 2": Problem.NOT_FINITE,
    "1 NaN 2": Problem.NOT_FINITE,
    "1 2 inf": Problem.NOT_FINITE,
    "1 2 -Infinity": Problem.NOT_FINITE,
    "1 2 1e999": Problem.NOT_FINITE,
    "1,234.5 2 3": Problem.THOUSANDS,
    "1 1,234,567 3": Problem.THOUSANDS,
    "1'234 2 3": Problem.THOUSANDS,
    "1_000 2 3": Problem.THOUSANDS,
    "1 2 x": Problem.NOT_A_NUMBER,
    "a b c": Problem.NOT_A_NUMBER,
    "1, 2, 3": Problem.NOT_A_NUMBER,
    "1 2,5 3": Problem.NOT_A_NUMBER,
    "1 0x10 3": Problem.NOT_A_NUMBER,
    "1 1/2 3": Problem.NOT_A_NUMBER,
    "1 -\u22122 3": Problem.NOT_A_NUMBER,
    "1 \u0663 3": Problem.NOT_A_NUMBER,
    "1 missing 3": Problem.NOT_A_NUMBER,
    "```\n1\n2\n3\n```": Problem.NOT_A_NUMBER,
    "2016-07-01 1\n2016-07-02 2\n2016-07-03 3": Problem.NOT_A_NUMBER,
    "": Problem.EMPTY_ANSWER,
    " \r\n\t": Problem.EMPTY_ANSWER,
}


@pytest.mark.parametrize(("numbers", "problem"), BROKEN.items(), ids=repr)
def test_an_answer_that_is_not_numbers_alone_has_a_named_problem(numbers, problem):
    assert parse(answered(numbers), H) == Parsed("level up", None, problem)


T, A = "<think> a </think>", "<answer> 1 2 3 </answer>"
WRONG_FORM = {
    "": Problem.NO_THINK,
    "1 2 3": Problem.NO_THINK,
    A: Problem.NO_THINK,
    f"<THINK> a </THINK> {A}": Problem.NO_THINK,
    f"a </think> {A}": Problem.NO_THINK,
    f"{T} 1 2 3": Problem.NO_ANSWER,
    "<think>": Problem.TRUNCATED,
    "<think> a b": Problem.TRUNCATED,
    T: Problem.TRUNCATED,
    f"{T} \n": Problem.TRUNCATED,
    f"{T} <answer> 1 2": Problem.TRUNCATED,
    f"{T} <answer> 1 2 3 </answ": Problem.TRUNCATED,
    f"<think> a {A} b </think>": Problem.TAG_INSIDE_THINK,
    f"<think> a {A}": Problem.TAG_INSIDE_THINK,
    f"<think> a <think> b </think> {A}": Problem.TAG_INSIDE_THINK,
    f"<think> <answer> 1 2 3 </answer> </think> {A}": Problem.TAG_INSIDE_THINK,
    f"{T} {A} {A}": Problem.TWO_ANSWERS,
    f"{T} {A} </answer>": Problem.TWO_ANSWERS,
    f"{T} <answer> 1 <answer> 2 3 </answer>": Problem.TWO_ANSWERS,
    f"{T} {T} {A}": Problem.TWO_THINKS,
    f"{T} {A} {T}": Problem.TWO_THINKS,
    f"{A} {T}": Problem.WRONG_ORDER,
    f"{T} </answer> 1 2 3 <answer>": Problem.WRONG_ORDER,
    f"Sure! {T} {A}": Problem.TEXT_BEFORE,
    f"{T} so: {A}": Problem.TEXT_BETWEEN,
    f"{T} {A} .": Problem.TEXT_AFTER,
    f"<think></think> {A}": Problem.EMPTY_THINK,
    f"<think> \n </think> {A}": Problem.EMPTY_THINK,
}


@pytest.mark.parametrize(("text", "problem"), WRONG_FORM.items(), ids=repr)
def test_a_completion_of_another_form_has_a_named_problem_and_no_numbers(text, problem):
    parsed = parse(text, H)
    assert (parsed.words, parsed.problem) == (None, problem)


def test_fewer_numbers_than_the_horizon_are_kept_and_named():
    assert parse(answered("1 2"), H) == Parsed("level up", ("1", "2"), Problem.TOO_FEW)


def test_of_more_numbers_than_the_horizon_the_first_are_kept_and_it_is_named():
    assert parse(answered("1 2 3 4"), H) == Parsed("level up", ("1", "2", "3"), Problem.TOO_MANY)
    answer = read([answered("1 2 3 4")], TextCodec(), frames_of(drawn(1, 96, H)))[0]
    assert answer.values.tolist() == [1, 2, 3]
    assert answer.problem is Problem.TOO_MANY


def test_every_problem_has_a_case():
    named = {*BROKEN.values(), *WRONG_FORM.values()}
    assert set(Problem) - named == {Problem.TOO_FEW, Problem.TOO_MANY, Problem.OTHER_CODEC}


@pytest.mark.parametrize(
    ("codec", "numbers"),
    [(NumberCodec(), "1 2 3"), (NumberCodec(), "n1 n2 n999"), (TextCodec(), "1 2 n3")],
)
def test_numbers_that_the_codec_does_not_have_are_no_answer(codec, numbers):
    answer = read([answered(numbers)], codec, frames_of(drawn(1, 96, H)))[0]
    assert (answer.values, answer.problem) == (None, Problem.OTHER_CODEC)


def test_each_completion_is_read_in_the_frame_of_its_window():
    windows = drawn(2, 96, H)
    frames = frames_of(windows, windows.truth)
    texts = [completion("none", ["n100"] * H, NumberCodec())] * 2
    values = [answer.values for answer in read(texts, NumberCodec(), frames)]
    assert np.array(values).tobytes() == windows.truth.tobytes()
    with pytest.raises(ValueError, match="1 completions for the frames of 2 windows"):
        read(texts[:1], NumberCodec(), frames)


PIECES = st.sampled_from(
    [
        *TAGS,
        " ",
        "\n",
        "\r\n",
        "1",
        "-2.5",
        "1e3",
        "1e999",
        "nan",
        "n7",
        "n" + "9" * 40,
        "\u2212",
        "x",
        ",",
        "\x00",
    ]
)


FRAMES = {horizon: frames_of(drawn(1, 4, horizon)) for horizon in (1, 2, 4)}


@settings(max_examples=100)
@given(
    st.text(max_size=40) | st.lists(PIECES, max_size=12).map("".join), st.sampled_from([*FRAMES])
)
@example("<think>a</think><answer>" + "9" * 5000 + "</answer>", 1)
def test_no_text_makes_the_parser_raise_and_words_never_exceed_the_horizon(text, horizon):
    parsed = parse(text, horizon)
    if parsed.problem in (None, Problem.TOO_FEW, Problem.TOO_MANY):
        assert parsed.think
        assert 1 <= len(parsed.words) <= horizon
        assert (parsed.problem is Problem.TOO_FEW) == (len(parsed.words) < horizon)
    else:
        assert parsed.words is None
    for codec in (NumberCodec(), TextCodec()):
        answer = read([text], codec, FRAMES[horizon])[0]
        assert (answer.values is None) == (
            answer.problem not in (None, Problem.TOO_FEW, Problem.TOO_MANY)
        )
        assert answer.values is None or np.isfinite(answer.values).all()
