"""Test the teachers of the slow-thinking study and the choice among their candidates.

What belongs here: choices by hand, and what an endpoint is sent and may answer. What does not: the
HTTP exchange itself (`test_agent`), samples (`test_r1_samples`), and policies as teachers
(`test_r1_policy_teacher`).
"""

from collections.abc import Sequence

import numpy as np
import pytest
from tenacity import wait_none

from tsfm_pipeline.studies.chat import ChatEndpoint, ChatError
from tsfm_pipeline.studies.time_r1.drafts import SIMPLE, make_drafts
from tsfm_pipeline.studies.time_r1.teacher import (
    FLOOR_SHARE,
    Choice,
    EndpointTeacher,
    GridTeacher,
    TeacherSettings,
    choose,
    teach,
)
from tsfm_pipeline_tests.studies.chat_server import Reply, chatting, said
from tsfm_pipeline_tests.studies.time_r1.reflect_windows import daily, of

NAN = np.nan


def chosen(
    truth: Sequence[float], history: float = 10.0, **candidates: Sequence[float]
) -> tuple[str, Choice]:
    """The choice of one window whose look-back is constant."""
    windows = of(np.full((1, 4), history), np.array([truth], dtype=np.float64), season=2)
    values = {name: np.array([row], dtype=np.float64) for name, row in candidates.items()}
    choice = choose(windows, values)
    return choice.names[0], choice


def test_the_lowest_mean_absolute_percentage_error_is_chosen() -> None:
    # Errors of a: (1 / 10 + 0 / 20) / 2 = 5 %, of b: (0 / 10 + 4 / 20) / 2 = 10 %.
    name, choice = chosen([10, 20], a=[11, 20], b=[10, 24])
    assert name == "a"
    assert choice.errors[0] == pytest.approx(0.05)
    assert not choice.floored[0]
    assert not choice.symmetric[0]


def test_the_floor_keeps_values_near_zero_from_deciding() -> None:
    assert FLOOR_SHARE == 0.1
    # Plainly, a: (0.1 / 0.01 + 0) / 2 = 500 % and b: (0 + 5 / 20) / 2 = 12.5 %; with the floor of
    # 1, a: (0.1 / 1 + 0) / 2 = 5 %.
    name, choice = chosen([0.01, 20], a=[0.11, 20], b=[0.01, 25])
    assert name == "a"
    assert choice.errors[0] == pytest.approx(0.05)
    assert choice.floored[0]


def test_where_all_of_the_truth_is_below_the_floor_the_symmetric_error_decides() -> None:
    # Symmetric, a: (2 * 0.2 / 0.4 + 0) / 2 = 50 % and b: 2 * 0.3 / 0.5 = 120 % in both steps.
    name, choice = chosen([0.1, 0], a=[0.3, 0], b=[0.4, 0.3])
    assert name == "a"
    assert choice.errors[0] == pytest.approx(0.5)
    assert choice.symmetric[0]
    assert not choice.floored[0]
    assert chosen([0, 0], history=0.0, a=[1, 0], b=[0, 0])[0] == "b"


def test_ties_go_to_the_first_name_and_unknown_steps_are_left_out() -> None:
    assert chosen([10, 20], b=[11, 20], a=[9, 20])[0] == "a"
    name, choice = chosen([10, NAN], a=[10, 99], b=[11, 20])
    assert (name, choice.errors[0]) == ("a", 0)
    assert chosen([10, 20], a=[NAN, 20], b=[90, 90])[0] == "b"


def test_a_window_without_truth_or_candidates_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="by hand, channel c0, origin 3: no known value of the"):
        chosen([NAN, NAN], a=[1, 1])
    with pytest.raises(ValueError, match="origin 3: no known candidate"):
        chosen([1, 1], a=[NAN, 1])


def test_the_grid_teacher_offers_the_drafts() -> None:
    windows = daily(n=20)
    drafts = make_drafts(windows, None, ())
    joined, choice = teach(GridTeacher(), windows, drafts)
    assert joined.names == drafts.names
    assert set(choice.names) <= set(SIMPLE)
    assert not choice.fell_back.any()
    distance = np.abs(joined.taken(choice.names) - windows.truth) / np.abs(windows.truth)
    for name in SIMPLE:
        others = np.abs(drafts.values[name] - windows.truth) / np.abs(windows.truth)
        plain = ~choice.floored & ~choice.symmetric
        assert (distance.mean(axis=1) <= others.mean(axis=1) + 1e-12)[plain].all()


def forecast_text(values: Sequence[float]) -> str:
    lines = "\n".join(f"{value:.4f}" for value in values)
    return f"<think>The cycle repeats.</think>\n<answer>\n{lines}\n</answer>"


def endpoint(url: str) -> ChatEndpoint:
    settings = TeacherSettings(url=url, model="r1", key="T0K3N", timeout_seconds=10)
    return ChatEndpoint(settings, wait=wait_none())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_an_endpoints_readable_answers_are_candidates_and_the_nearest_is_taken() -> None:
    windows = daily(n=1)
    drafts = make_drafts(windows, None, ())
    near, far = windows.truth[0] + 0.01, windows.truth[0] + 5
    replies = [said("I cannot tell."), said(forecast_text(far)), said(forecast_text(near))]
    with chatting(*replies) as chat:
        joined, choice = teach(EndpointTeacher(endpoint(chat.url)), windows, drafts)
    assert choice.names == ("answer_3",)
    assert np.isnan(joined.values["answer_1"]).all()
    np.testing.assert_allclose(joined.taken(choice.names)[0], near, atol=1e-4)
    assert np.isnan(joined.backtests["answer_3"]).all()
    assert len(chat.bodies) == 3


def test_an_endpoint_is_sent_the_past_and_no_name_and_no_truth() -> None:
    windows = daily(n=2)
    with chatting(said("no")) as chat:
        EndpointTeacher(endpoint(chat.url), 1).candidates(windows, make_drafts(windows, None, ()))
    assert chat.paths == ["/v1/chat/completions"] * 2
    assert chat.headers[0]["authorization"] == "Bearer T0K3N"
    for row, body in enumerate(chat.bodies):
        assert "tenant" not in body
        assert "acme" not in body
        assert f"{windows.history[row, 0]:.2f}" in body
        # As many decimals as the codec writes, so that a leaked value would be found.
        shown = {f"{value:.2f}" for value in windows.history[row]}
        later = {f"{value:.2f}" for value in windows.truth[row]} - shown
        assert later
        assert [value for value in later if value in body] == []


def test_without_a_readable_answer_the_best_draft_is_taken_and_counted() -> None:
    windows = daily(n=2)
    drafts = make_drafts(windows, None, ())
    short = forecast_text(windows.truth[1][:-1])
    good = forecast_text(windows.truth[0])
    with chatting(said(good), said(short)) as chat:
        joined, choice = teach(EndpointTeacher(endpoint(chat.url), 1), windows, drafts)
    _, of_grid = teach(GridTeacher(), windows, drafts)
    assert choice.names == ("answer_1", of_grid.names[1])
    assert choice.fell_back.tolist() == [False, True]
    assert set(joined.names) == {*SIMPLE, "answer_1"}


def test_drafts_do_not_compete_with_a_teacher_that_answers() -> None:
    windows = daily(n=1)
    drafts = make_drafts(windows, None, ())
    with chatting(said(forecast_text(windows.truth[0] + 50))) as chat:
        _, choice = teach(EndpointTeacher(endpoint(chat.url), 1), windows, drafts)
    assert choice.names == ("answer_1",)


def test_a_refusing_endpoint_names_the_settings_without_the_key() -> None:
    windows = daily(n=1)
    drafts = make_drafts(windows, None, ())
    with chatting(Reply("no", 401)) as chat:
        teacher = EndpointTeacher(endpoint(chat.url), 1)
        with pytest.raises(ChatError) as refused:
            teacher.candidates(windows, drafts)
    assert "check TSFM_TEACHER_URL, TSFM_TEACHER_MODEL and TSFM_TEACHER_KEY" in str(refused.value)
    assert "T0K3N" not in str(refused.value)


def test_an_endpoint_without_an_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"TSFM_TEACHER_{field}", raising=False)
    with pytest.raises(ChatError, match="TSFM_TEACHER_URL and TSFM_TEACHER_MODEL must both be set"):
        ChatEndpoint(TeacherSettings(model="r1"))
