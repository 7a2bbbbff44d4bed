"""Test what a refused request is told: code, place, value and what is allowed, and nothing that a
client could abuse.
"""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, core_schema

from tsfm_pipeline.serving.contract import BatchRequest, ErrorCode, ForecastRequest, Problem
from tsfm_pipeline.serving.errors import (
    MOST_ECHOED,
    MOST_PROBLEMS,
    MOST_READ,
    InvalidRequest,
    body,
    plain,
    problem,
    problems,
    shown,
)
from tsfm_pipeline_tests.serving import wire

CONTEXT: dict[str, Any] = {  # what one kind or another demands
    **dict.fromkeys(("ge", "gt", "le", "lt", "min_length", "max_length", "multiple_of"), 1),
    **dict.fromkeys(("max_digits", "decimal_places", "whole_digits", "actual_length"), 1),
    **dict.fromkeys(("tz_expected", "tz_actual", "expected_version"), 1),
    **dict.fromkeys(("error", "encoding", "encoding_error", "method_name", "attribute"), "bad"),
    **dict.fromkeys(("class", "class_name", "field_type", "discriminator", "tag"), "kind"),
    **dict.fromkeys(("expected", "expected_tags", "expected_schemes", "pattern"), "'a'"),
}
KINDS = get_args(core_schema.ErrorType)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_type_of_pydantic_becomes_a_problem(kind: str) -> None:
    details: InitErrorDetails = {
        "type": kind,
        "loc": ("segment", "category"),
        "input": "x\n",
        "ctx": CONTEXT,
    }
    (found,) = problems(ValidationError.from_exception_data("ForecastRequest", [details]))
    assert found.where == "segment.category"
    assert found.detail
    assert found.code in ErrorCode
    assert (found.detail + found.value + found.where + found.allowed).isprintable()


def test_a_number_outside_its_range_says_which() -> None:
    assert wire.refused(horizon_steps=300) == [
        Problem(
            code=ErrorCode.INVALID_FIELD,
            where="horizon_steps",
            value="300",
            allowed="<= 288",
            detail="horizon_steps: must be <= 288",
        )
    ]


def test_several_problems_are_all_named_once_in_order() -> None:
    found = wire.refused(horizon_steps=0, model={"params": {"a": None}}, y=[1, "x"], zz=1)
    assert [one.where for one in found] == ["horizon_steps", "y[1]", "model.params.a", "zz"]
    whole = body(found)
    assert (whole.code, whole.errors) == (ErrorCode.INVALID_FIELD, found)
    assert whole.detail == "horizon_steps: must be >= 1 (and 3 more)"


def test_a_choice_names_what_is_allowed() -> None:
    (found,) = wire.refused(transform={"space": "log"})
    assert (found.value, found.allowed) == ("'log'", "'logit' or 'identity'")


def test_a_place_within_quotes() -> None:
    (found,) = wire.refused(
        y=..., quotes=[*wire.quotes([0.5, 0.5]), {"ts": wire.stamp(0), "bid": "x"}]
    )
    assert (found.where, found.code) == ("quotes[2].bid", ErrorCode.MALFORMED_INPUT)


def test_a_place_within_a_batch() -> None:
    items = {"items": [wire.body(), wire.body(y=[0.5, "x"]), wire.body(spaec=1)]}
    with pytest.raises(ValidationError) as caught:
        BatchRequest.model_validate_json(json.dumps(items))
    wrong, unknown = problems(caught.value)
    assert (wrong.where, wrong.code) == ("items[1].y[1]", ErrorCode.MALFORMED_INPUT)
    assert unknown.where == "items[2].spaec"
    assert "market_id" in unknown.allowed


def test_another_route_is_not_told_the_fields_of_this_one() -> None:
    class Other(BaseModel):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(ValidationError) as caught:
        Other.model_validate_json('{"y": 1}')
    (found,) = problems(caught.value)
    assert (found.code, found.allowed) == (ErrorCode.UNKNOWN_FIELD, "")


def test_invalid_json_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        ForecastRequest.model_validate_json('{"token": "secret", ')
    (found,) = problems(caught.value)
    assert (found.code, found.where, found.value) == (ErrorCode.INVALID_JSON, "", "")
    assert "secret" not in body([found]).model_dump_json()


def test_problems_of_preparation_are_passed_on() -> None:
    own = problem(ErrorCode.TOO_LARGE, "y is too large", "y", 3, "2 to 2 values")
    assert problems(InvalidRequest(own)) == [own]
    assert str(InvalidRequest(own)) == "y is too large"


def test_a_body_of_many_problems_stays_small() -> None:
    found = wire.refused(**{f"field_{i}": i for i in range(200)})
    assert len(found) == MOST_PROBLEMS
    assert found[-1].detail == f"{200 - MOST_PROBLEMS + 1} further things are wrong"
    assert len(body(found).model_dump_json()) < 20_000


def test_a_body_of_very_many_problems_is_not_read_to_the_end() -> None:
    (found,) = wire.refused(**{f"field_{i}": i for i in range(MOST_READ + 1)})
    assert found.detail.startswith(f"{MOST_READ + 1} things are wrong")


def test_a_list_of_wrong_numbers_stops_at_the_first() -> None:
    with pytest.raises(ValidationError) as caught:
        wire.request(y=["x"] * 10_000)
    assert caught.value.error_count() == 1


NASTY = st.text(alphabet=st.characters(codec="utf-8"), max_size=300) | st.sampled_from(
    ["\x1b[31mred\n", "a\r\nSet-Cookie: b", "\u202eoverride", "\u2028", "\x00" * 200, "é" * 200]
)


@given(NASTY)
def test_text_is_shown_on_one_line_and_cut(text: str) -> None:
    for echoed in (plain(text), shown(text), shown([text] * 3), shown({text: text})):
        assert len(echoed) <= MOST_ECHOED
        assert echoed.isprintable()


@given(NASTY)
def test_log_injection_is_not_possible_from_any_place(text: str) -> None:
    """Whatever a client sends as a name or a value, no field has a control character or more than
    its share of it.
    """
    sent = [
        {"spaec" + text: 1},
        {"x_past": {"?" + text: [1.0]}},
        {"model": {"params": {"?" + text: 1}}},
        {"freq": "?" + text},
        {"transform": {"space": "?" + text}},
        {"as_of_ts": "?" + text},
        {"segment": {"category": "?" + text}},
    ]
    for changes in sent:
        for found in wire.refused(**changes):
            assert len(found.where) <= MOST_ECHOED
            assert len(found.value) <= MOST_ECHOED
            assert (found.where + found.value + found.detail + found.allowed).isprintable()


def test_a_long_value_is_cut_everywhere() -> None:
    snowmen = "\u2603" * 10_000
    for changes in ({"freq": snowmen}, {snowmen: 1}, {"y": [0.5, snowmen]}, {"market_id": snowmen}):
        text = body(wire.refused(**changes)).model_dump_json()
        (found,) = json.loads(text)["errors"]
        assert all(part.count("\u2603") <= MOST_ECHOED for part in found.values())
        assert found["where"].count("\u2603") + found["value"].count("\u2603") <= MOST_ECHOED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "True"),
        (0.1, "0.1"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object of 1"),
        ("a'b", "'a'b'"),
    ],
)
def test_values_as_they_are_shown(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_whole_number_that_python_does_not_write_out_is_shown_by_its_size() -> None:
    assert shown(10**5_000) == "a whole number of 16610 bits"
