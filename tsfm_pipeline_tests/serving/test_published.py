"""Test that published files are read again when they change, and never lost to a bad one."""

import logging
import os
import time
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.serving.published import Published


class Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def published(tmp_path: Path) -> Published[Content]:
    return Published(tmp_path / "content.json", Content, every_s=5.0, clock=Time())


def write(published: Published[Content], text: str) -> None:
    write_atomically(published.path, lambda path: path.write_text(text))


def wait(published: Published[Content], seconds: float = 5.0) -> None:
    assert isinstance(published._clock, Time)
    published._clock.now += seconds


def test_nothing_published_is_no_problem(published: Published[Content]) -> None:
    assert published.current is None
    assert published.problem == ""


def test_a_file_that_appears_is_read_at_the_next_look(published: Published[Content]) -> None:
    assert published.current is None
    write(published, '{"n": 1}')
    assert published.current is None
    wait(published)
    assert published.current == Content(n=1)


def test_its_age_counts_from_when_it_was_published(published: Published[Content]) -> None:
    assert published.age_s is None
    write(published, '{"n": 1}')
    hour_ago = time.time() - 3600
    os.utime(published.path, (hour_ago, hour_ago))
    wait(published)
    assert published.current == Content(n=1)
    assert published.age_s is not None
    assert 3600 <= published.age_s < 3700


def test_the_good_file_put_back_is_no_problem(published: Published[Content]) -> None:
    write(published, '{"n": 1}')
    assert published.current == Content(n=1)
    kept = published.path.rename(published.path.with_suffix(".kept"))
    write(published, "not JSON")
    wait(published)
    assert published.current == Content(n=1)
    assert "cannot be read" in published.problem
    kept.rename(published.path)
    wait(published)
    assert published.current == Content(n=1)
    assert published.problem == ""


def test_a_changed_file_replaces_the_content(published: Published[Content]) -> None:
    write(published, '{"n": 1}')
    assert published.current == Content(n=1)
    write(published, '{"n": 2}')
    wait(published, 4.9)
    assert published.current == Content(n=1)
    wait(published, 0.1)
    assert published.current == Content(n=2)


def test_an_unchanged_file_is_not_read_again(published: Published[Content]) -> None:
    write(published, '{"n": 1}')
    first = published.current
    wait(published)
    assert published.current is first


@pytest.mark.parametrize("text", ['{"n": 1', '{"n": "one"}', '{"n": 1, "m": 2}', "", "\x00"])
def test_the_old_content_stays_while_a_file_cannot_be_read(
    published: Published[Content], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(published, '{"n": 1}')
    assert published.current == Content(n=1)
    write(published, text)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            wait(published)
            assert published.current == Content(n=1)
    assert str(published.path) in published.problem
    assert len(caplog.records) == 1, "the same problem is logged once"
    write(published, '{"n": 3}')
    wait(published)
    assert published.current == Content(n=3)
    assert published.problem == ""


def test_a_file_that_is_gone_keeps_its_content_and_says_so(published: Published[Content]) -> None:
    write(published, '{"n": 1}')
    assert published.current == Content(n=1)
    published.path.unlink()
    wait(published)
    assert published.current == Content(n=1)
    assert "gone" in published.problem
    write(published, '{"n": 1}')
    wait(published)
    assert published.current == Content(n=1)
    assert published.problem == ""


def test_a_folder_in_the_way_is_a_problem_and_no_exception(published: Published[Content]) -> None:
    published.path.mkdir()
    assert published.current is None
    assert "cannot be read" in published.problem
