"""Test calls in a process of their own."""

import os

import pytest

from tsfm_pipeline.studies.policy_search.apart import ApartError, call_apart

pytestmark = pytest.mark.heavy


def test_a_call_apart_returns_what_the_function_returns() -> None:
    assert call_apart("os:getpid") != os.getpid()
    assert call_apart("operator:add", 2, 3) == 5


def test_a_call_that_fails_is_an_error_that_says_how() -> None:
    with pytest.raises(ApartError, match=r"builtins:int ended .* status 1: ValueError: invalid"):
        call_apart("builtins:int", "two")
    with pytest.raises(ApartError, match="status 9: it printed nothing"):
        call_apart("os:_exit", 9)
    with pytest.raises(ApartError, match="time:sleep took too long"):
        call_apart("time:sleep", 60, seconds=0.2)


def test_a_call_has_the_threads_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert call_apart("os:getenv", "OMP_NUM_THREADS") == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert call_apart("os:getenv", "OMP_NUM_THREADS") is None
