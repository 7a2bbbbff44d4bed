"""Test what a request may be: every rule of the contract, and that its schema says the same."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tsfm_pipeline.serving.contract import (
    MAX_COVARIATES,
    MAX_HORIZON,
    MAX_ITEMS,
    MAX_PARAMS,
    MAX_POINTS,
    MAX_QUANTILES,
    BatchRequest,
    ErrorCode,
    ForecastRequest,
    minutes_of,
)
from tsfm_pipeline.serving.errors import InvalidRequest, problems
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline.serving.preparation import prepare
from tsfm_pipeline.serving.settings import InputSettings
from tsfm_pipeline_tests.serving.wire import AS_OF, body, quotes, refused, request, stamp, stamps

LONG = "x" * 10_000


def test_what_is_left_out_has_the_documented_default() -> None:
    given_least = request()
    assert (given_least.freq, given_least.horizon_steps) == ("5m", 12)
    assert given_least.quantiles == [0.1, 0.5, 0.9]
    assert (given_least.transform.space, given_least.transform.eps) == ("logit", 1e-6)
    assert given_least.model.provider is None
    assert given_least.as_of_ts == AS_OF


@pytest.mark.parametrize(
    "field",
    ["y", "as_of_ts", "market_id", "freq", "horizon_steps", "quantiles", "transform", "model"],
)
def test_a_text_in_place_of_another_type_is_refused(field: str) -> None:
    """Lax types would take "3" for 3: strict ones do not."""
    wrong = {"market_id": 7, "as_of_ts": 1_700_000_000, "freq": 5}.get(field, "3")
    (problem,) = refused(**{field: wrong})
    assert problem.where == field
    assert problem.allowed


@pytest.mark.parametrize("wrong", [True, "1.0", None, [1.0], {"v": 1}])
def test_f5_a_value_that_is_no_number_is_malformed_input(wrong: Any) -> None:
    (problem,) = refused(y=[0.1, 0.2, wrong])
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_INPUT, "y[2]")
    assert problem.detail.startswith("malformed input")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "1" + 400 * "0"])
def test_f5_a_value_that_is_not_finite_is_malformed_input(literal: str) -> None:
    text = json.dumps(body(y=[0.1, 0.2])).replace("0.2]", f"{literal}]")
    with pytest.raises(ValidationError) as caught:
        ForecastRequest.model_validate_json(text)
    (problem,) = problems(caught.value)
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_INPUT, "y[1]")


@pytest.mark.parametrize("y", [[], [0.5]])
def test_f3_no_or_one_value_is_an_error(y: list[float]) -> None:
    (problem,) = refused(y=y)
    assert (problem.code, problem.where) == (ErrorCode.TOO_FEW_POINTS, "y")
    assert "too_few_points" in problem.detail


def test_f3_one_quote_is_an_error() -> None:
    (problem,) = refused(y=..., quotes=quotes([0.5]))
    assert (problem.code, problem.where) == (ErrorCode.TOO_FEW_POINTS, "quotes")
    assert "too_few_points" in problem.detail


@pytest.mark.parametrize(
    "freq", ["", "bad", "0m", "5", "m", "-5m", "1d", "05m", "5M", "5m\n", " 5m", "10000m", "1000h"]
)
def test_f4_d9_a_frequency_is_minutes_or_hours(freq: str) -> None:
    (problem,) = refused(freq=freq)
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_FREQ, "freq")
    assert "malformed input: freq" in problem.detail


@pytest.mark.parametrize(
    ("freq", "minutes"), [("5m", 5), ("1h", 60), ("9999m", 9_999), ("24h", 1_440)]
)
def test_f4_a_frequency_in_minutes(freq: str, minutes: int) -> None:
    assert minutes_of(request(freq=freq).freq) == minutes


def test_f5_more_values_than_any_setting_allows_are_too_large() -> None:
    (problem,) = refused(y=[0.5] * (MAX_POINTS + 1))
    assert (problem.code, problem.where) == (ErrorCode.TOO_LARGE, "y")
    assert "too large" in problem.detail


def test_f6_y_ts_of_another_length() -> None:
    (problem,) = refused(y_ts=stamps(39))
    assert (problem.code, problem.where) == (ErrorCode.Y_TS_LENGTH, "y_ts")
    assert "y_ts length must match" in problem.detail
    assert problem.allowed == "40 times"


@pytest.mark.parametrize("swapped", [(0, 0), (1, 2)])
def test_f6_y_ts_must_be_strictly_increasing(swapped: tuple[int, int]) -> None:
    times = stamps(40)
    times[20], times[21] = times[20 + swapped[0]], times[20 + swapped[1] - 1]
    (problem,) = refused(y_ts=times)
    assert problem.code == ErrorCode.Y_TS_ORDER
    assert problem.where in ("y_ts[21]", "y_ts[22]")


def test_f6_y_ts_is_spaced_by_whole_steps() -> None:
    times = stamps(40)
    times[7] = stamp(5 * 32 + 1)
    (problem,) = refused(y_ts=times)
    assert (problem.code, problem.where) == (ErrorCode.Y_TS_SPACING, "y_ts[7]")
    assert "spacing must align with freq" in problem.detail
    assert problem.allowed == "multiples of 5m"


def test_f6_y_ts_with_another_offset_is_the_same_time() -> None:
    times = [time.replace("+00:00", "Z") for time in stamps(40)]
    times[3] = "2026-01-31T10:00:00+01:00"  # 09:00Z, as it was
    assert request(y_ts=times) == request(y_ts=stamps(40))


@pytest.mark.parametrize(
    "time", ["2026-01-31T12:00:00", "2026-01-31", "0", "1700000000", "1700000000000", "12:00Z", ""]
)
def test_a_time_is_a_date_with_an_offset(time: str) -> None:
    """A number in a text would be read as seconds or as milliseconds, by its size."""
    (problem,) = refused(as_of_ts=time)
    assert (problem.where, problem.value) == ("as_of_ts", repr(time))
    assert "offset" in problem.allowed
    (problem,) = refused(y_ts=[*stamps(39), time])
    assert (problem.where, problem.code) == ("y_ts[39]", ErrorCode.MALFORMED_INPUT)
    assert "offset" in problem.allowed


def test_a_request_can_be_made_in_python() -> None:
    assert ForecastRequest(market_id="web-1/cpu", as_of_ts=AS_OF, y=[0.1, 0.2]) == request(
        y=[0.1, 0.2]
    )


@pytest.mark.parametrize("year", ["0001", "1969", "2200", "9999"])
def test_as_of_lies_within_the_calendar_with_room_to_spare(year: str) -> None:
    (problem,) = refused(as_of_ts=f"{year}-12-31T23:59:59Z")
    assert problem.where == "as_of_ts"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"y_ts": stamps(40, last=-5)}, "y_ts[39]"),
        ({"observed_ts": stamp(-1)}, "observed_ts"),
        ({"y": ..., "quotes": [*quotes([0.5, 0.5]), {"ts": stamp(-5)}]}, "quotes[2]"),
    ],
)
def test_nothing_is_observed_after_as_of(changes: dict[str, Any], where: str) -> None:
    (problem,) = refused(**changes)
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_INPUT, where)


def test_exactly_one_of_y_and_quotes_is_given() -> None:
    for changes in ({"y": ...}, {"quotes": quotes([0.5, 0.5])}):
        (problem,) = refused(**changes)
        assert problem.code == ErrorCode.MALFORMED_INPUT
        assert problem.allowed == "y or quotes"


def test_quotes_bring_their_own_times() -> None:
    (problem,) = refused(y=..., quotes=quotes([0.5, 0.5]), y_ts=stamps(2))
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_INPUT, "y_ts")


def test_quotes_must_be_in_order() -> None:
    (problem,) = refused(y=..., quotes=quotes([0.5, 0.5, 0.5])[::-1])
    assert problem.where == "quotes[1]"


def test_a_bid_above_the_ask_is_refused() -> None:
    (problem,) = refused(
        y=..., quotes=[*quotes([0.5, 0.5]), {"ts": stamp(0), "bid": 0.6, "ask": 0.5}]
    )
    assert problem.where == "quotes[2]"
    assert problem.allowed == "bid <= ask"


@pytest.mark.parametrize(
    "levels", [[0.5, 0.1], [0.5, 0.5], [0.1, 0.1000001], [0.0], [1.0], [0.995], []]
)
def test_d11_quantiles_ascend_within_their_range(levels: list[float]) -> None:
    assert refused(quantiles=levels)[0].where.startswith("quantiles")


def test_f12_d11_any_quantiles_in_the_range_are_accepted() -> None:
    levels = [0.01, 0.2, 0.333, 0.5, 0.99]
    assert request(quantiles=levels).quantiles == levels


def test_d12_covariates_are_as_long_as_what_they_go_with() -> None:
    (past,) = refused(x_past={"load": [1.0] * 39})
    (future,) = refused(x_future={"load": [1.0] * 40})
    assert (past.where, past.allowed) == ("x_past.load", "40 values")
    assert (future.where, future.allowed) == ("x_future.load", "12 values")


@pytest.mark.parametrize("part", ["", "transform", "model", "segment"])
def test_an_unknown_field_is_refused_and_the_known_ones_are_named(part: str) -> None:
    (problem,) = refused(**({part: {"spaec": 1}} if part else {"spaec": 1}))
    assert problem.code == ErrorCode.UNKNOWN_FIELD
    assert problem.where == (f"{part}.spaec" if part else "spaec")
    assert {"": "market_id", "transform": "eps", "model": "provider", "segment": "category"}[
        part
    ] in problem.allowed.split(", ")


@pytest.mark.parametrize("field", ["market_id", "as_of_ts"])
def test_a_missing_field_is_named(field: str) -> None:
    (problem,) = refused(**{field: ...})
    assert (problem.code, problem.where) == (ErrorCode.MISSING_FIELD, field)


@pytest.mark.parametrize("market_id", ["a\nb", "a\rb", "\x1b[31m", "\x00", "", "x" * 201])
def test_a_markets_name_has_no_control_characters(market_id: str) -> None:
    assert refused(market_id=market_id)[0].where == "market_id"


def test_a_markets_name_may_be_in_any_script() -> None:
    assert request(market_id="größe/中文 cpu").market_id == "größe/中文 cpu"


@pytest.mark.parametrize(
    "label", ["", "a b", "a|b", "a=b", "-a", "a\n", "é", "../x", "x" * 65], ids=repr
)
def test_d11_a_segment_cannot_forge_a_key(label: str) -> None:
    """Keys of segments are made of `name=value` joined by `|`."""
    assert refused(liquidity_bucket=label)[0].where == "liquidity_bucket"
    assert refused(segment={"category": label})[0].where == "segment.category"


def test_f2_a_null_liquidity_bucket_is_no_bucket() -> None:
    assert request(liquidity_bucket=None) == request()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("transform", {"eps": 0.6}),
        ("transform", {"eps": 0.0}),
        ("horizon_steps", 0),
        ("horizon_steps", 100_000),
        ("max_gap_minutes", -1),
        ("volume_24h", -0.1),
        ("open_interest", -1),
    ],
)
def test_d9_ranges_are_closed(field: str, wrong: Any) -> None:
    (problem,) = refused(**{field: wrong})
    assert problem.where.split(".")[0] == field
    assert problem.allowed[:2] in (">=", "<=", "> ", "< ")


@pytest.mark.parametrize("params", [{"a": None}, {"a": [1]}, {"a b": 1}, {"a": LONG}])
def test_a_models_parameters_are_short_scalars(params: dict[str, Any]) -> None:
    (problem,) = refused(model={"params": params})
    assert problem.where.startswith("model.params.a")


# -- the schema in the OpenAPI document says what validation does

ITEM, KEY = "[]", "{}"


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A request whose value at `path` is the one given, and which is right otherwise."""
    lists = {
        ("y",): lambda n: {"y": [0.5] * n},
        ("y_ts",): lambda n: {"y": [0.5] * max(n, 2), "y_ts": stamps(n, 1), "freq": "1m"},
        ("quotes",): lambda n: {"y": ..., "quotes": quotes([0.5] * n)},
        ("quantiles",): lambda n: {"quantiles": [(i + 1) / 25 for i in range(n)]},
    }
    if isinstance(value, Length) and path in lists:
        return body(**lists[path](value))
    if isinstance(value, Length) and path[-1] in ("x_past", "x_future"):
        length = {"x_past": 40, "x_future": 12}[path[-1]]
        return body(**{path[-1]: {f"c{i}": [1.0] * length for i in range(value)}})
    if isinstance(value, Length) and path == ("model", "params"):
        return body(model={"params": {f"p{i}": i for i in range(value)}})
    if isinstance(value, Length):
        value = "a" * value
    if path[0] in ("y", "quantiles") and path[1:] == (ITEM,):
        return body(**{path[0]: sorted([0.5, value])})
    if path[0] == "quotes":
        return body(y=..., quotes=[{"ts": stamp(5), path[2]: value}, {"ts": stamp(0)}])
    if path[0] in ("x_past", "x_future"):
        length = {"x_past": 40, "x_future": 12}[path[0]]
        if path[1:] == (KEY,):
            return body(**{path[0]: {value: [1.0] * length}})
        return body(**{path[0]: {"c": [value] * length}})
    if path[:2] == ("model", "params"):
        return body(model={"params": {value: 1} if path[2:] == (KEY,) else {"p": value}})
    return body(**({path[0]: value} if len(path) == 1 else {path[0]: {path[1]: value}}))


class Length(int):
    """A number of elements or characters rather than a value."""


LIMITS = ("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "maxProperties")


def limits(
    schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, float]]:
    """Every limit in a schema: path, keyword and value."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for branch in schema.get("anyOf", ()):
        yield from limits(branch, definitions, path)
    for keyword in LIMITS:
        if keyword in schema:
            yield path, keyword, schema[keyword]
    for name, field in schema.get("properties", {}).items():
        yield from limits(field, definitions, (*path, name))
    if "items" in schema:
        yield from limits(schema["items"], definitions, (*path, ITEM))
    for field in schema.get("patternProperties", {}).values():
        yield from limits(field, definitions, (*path, "p"))
    if "propertyNames" in schema:
        yield from limits(schema["propertyNames"], definitions, (*path, KEY))


SCHEMA = ForecastRequest.model_json_schema()
WIDER = {(("model", "params", "p"), "minimum"), (("model", "params", "p"), "maximum")}
"""Beyond these a whole number is read as a float, which the schema allows beside it."""
ALL_LIMITS = [one for one in limits(SCHEMA, SCHEMA["$defs"]) if one[:2] not in WIDER]


def accepted(request_body: dict[str, Any]) -> bool:
    try:
        ForecastRequest.model_validate_json(json.dumps(request_body))
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "keyword", "limit"),
    ALL_LIMITS,
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else str(part),
)
def test_every_limit_of_the_schema_is_the_one_of_validation(
    path: tuple[str, ...], keyword: str, limit: float
) -> None:
    counted = keyword not in ("minimum", "maximum")
    outwards = -1 if keyword.startswith("min") else 1
    whole = counted or isinstance(limit, int)
    beyond: Any = (
        limit + outwards if whole else limit * (1 + outwards * (1e-9 if limit > 0 else -1e-9))
    )
    if not whole and limit == 0:
        beyond = -1e-9
    assert accepted(at(path, Length(limit) if counted else limit))
    assert not accepted(at(path, Length(beyond) if counted else beyond))


def test_the_schema_has_the_documented_limits() -> None:
    stated = {(".".join(path), keyword): limit for path, keyword, limit in ALL_LIMITS}
    assert stated["y", "minItems"] == 2
    assert stated["y", "maxItems"] == stated["quotes", "maxItems"] == MAX_POINTS
    assert stated["horizon_steps", "maximum"] == MAX_HORIZON
    assert stated["quantiles", "maxItems"] == MAX_QUANTILES
    assert stated["x_past", "maxProperties"] == MAX_COVARIATES
    assert stated["model.params", "maxProperties"] == MAX_PARAMS
    assert SCHEMA["properties"]["as_of_ts"]["format"] == "date-time"
    assert SCHEMA["properties"]["y_ts"]["anyOf"][0]["items"]["format"] == "date-time"
    items = BatchRequest.model_json_schema()["properties"]["items"]
    assert (items["minItems"], items["maxItems"]) == (1, MAX_ITEMS)


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if schema.get("type") == "object":
        yield schema
    for part in schema.values():
        for one in part if isinstance(part, list) else [part]:
            if isinstance(one, dict):
                yield from objects(one)


@pytest.mark.parametrize("model", [ForecastRequest, BatchRequest])
def test_every_object_of_the_schema_is_closed(model: type[BaseModel]) -> None:
    found = list(objects(model.model_json_schema()))
    assert len(found) >= 5
    assert all(one["additionalProperties"] is False for one in found)


# -- whatever is sent, there is an answer

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["5m", "1h", "logit", "identity", stamp(0), stamp(5), "0001-01-01T00:00:00+23:59"]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*ForecastRequest.model_fields, "bid", "ts", "items"])
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
ALMOST_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "y": st.lists(st.floats(0, 1) | SCALARS, max_size=5),
        "y_ts": st.lists(st.sampled_from([*stamps(5), stamp(-5)]), max_size=5),
        "quotes": st.lists(
            st.fixed_dictionaries(
                {"ts": st.sampled_from(stamps(5))},
                optional=dict.fromkeys(("bid", "ask", "last_trade", "last_trade_ts"), SCALARS),
            ),
            max_size=4,
        ),
        "freq": st.sampled_from(["1m", "5m", "9999m", "999h"]) | SCALARS,
        "horizon_steps": st.integers(-1, 300),
        "observed_ts": st.sampled_from(stamps(3)) | SCALARS,
        "max_gap_minutes": st.floats(0, 100) | SCALARS,
        "transform": st.fixed_dictionaries(
            {}, optional={"space": st.sampled_from(["logit", "identity"])}
        ),
        "x_past": st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.floats(), max_size=5)),
        "x_future": st.dictionaries(
            st.sampled_from(["a", "b"]), st.lists(st.floats(0, 1), min_size=12, max_size=12)
        ),
        "model": ANYTHING,
        "segment": ANYTHING,
        "liquidity_bucket": SCALARS,
        "volume_24h": SCALARS,
        "quantiles": st.lists(st.floats(0, 1), max_size=4),
    },
)


def answered(text: str) -> None:
    """Assert that a body gives a prepared request, or problems."""
    try:
        prepared = prepare(ForecastRequest.model_validate_json(text), InputSettings(), Markets())
    except (ValidationError, InvalidRequest) as error:
        found = problems(error)
        assert found
        assert all(problem.detail for problem in found)
    else:
        assert len(prepared.values) >= 1


@settings(max_examples=50)
@given(ANYTHING)
def test_any_json_gives_a_request_or_problems(value: Any) -> None:
    answered(json.dumps(value))


@settings(max_examples=100)
@given(ALMOST_RIGHT)
def test_an_almost_right_body_gives_a_request_or_problems(changes: dict[str, Any]) -> None:
    answered(json.dumps(body() | changes))


@pytest.mark.slow
@settings(max_examples=1_500)
@given(ANYTHING | ALMOST_RIGHT.map(lambda changes: body() | changes))
def test_many_bodies_give_a_request_or_problems(value: Any) -> None:
    answered(json.dumps(value))


@settings(max_examples=200)
@given(
    st.binary(max_size=40)
    | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))
)
def test_any_bytes_give_problems(content: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        ForecastRequest.model_validate_json(content)
    assert problems(caught.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"y":' * 100_000, b"", b"\xff\xfe", b"null"])
def test_a_body_that_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        ForecastRequest.model_validate_json(content)
    assert problems(caught.value)[0].where == ""


def test_times_that_were_read_once_do_not_change_what_equals_what() -> None:
    first, second = request(y_ts=stamps(40)), request(y_ts=stamps(40))
    assert first.seconds is first.seconds
    assert first == second
    assert first != request(y_ts=stamps(40, last=5))
