"""Test calls in a process of their own."""

import os

import pytest

from tsfm_pipeline.studies.policy_search.apart import ApartError, call_apart


@pytest.mark.heavy
def test_a_call_apart_returns_and_raises_as_the_function_does() -> None:
    assert call_apart("os:getpid") != os.getpid()
    assert call_apart("operator:add", 2, 3) == 5
    with pytest.raises(ApartError, match="ValueError: invalid literal for int"):
        call_apart("builtins:int", "two")
    with pytest.raises(ApartError, match="BrokenProcessPool"):
        call_apart("os:_exit", 9)
