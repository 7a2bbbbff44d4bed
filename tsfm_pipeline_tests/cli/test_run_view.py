"""Test what a person sees of a run: what events add up to, lines where there is no terminal, and
what is redrawn where there is one.
"""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tsfm_pipeline.cli.progress import Durations, Progress, RunView, words_of
from tsfm_pipeline.cli.run_logs import KEPT_LOGS, RunLogs, last_words
from tsfm_pipeline.progress import Event
from tsfm_pipeline.settings import PROJECT_ROOT

RUN = [
    Event("run", 100, n_total=2),
    Event("start", 101, "forecast_grid", 7, "What would every configuration have forecast?"),
    Event("shards", 103, "forecast_grid", 7, n_done=1, n_total=2),
    Event("shards", 105, "forecast_grid", 7, n_done=2, n_total=2),
    Event("end", 106, "forecast_grid", 7, "8 rows", n_done=2, n_total=2),
    Event("start", 107, "headline_report", 8, "Is it worth it?"),
]
BEFORE = Durations(
    made={"forecast_grid": 20.0, "headline_report": 4.0},
    kept={"forecast_grid": 1.0},
    overlap=0.5,
)


def progress(events: Sequence[Event], before: Durations = BEFORE) -> Progress:
    told = Progress(before)
    for event in events:
        told.apply(event)
    return told


def test_the_rest_is_what_the_other_steps_took_before() -> None:
    assert progress(RUN[:2]).rest_s(102) is None, "no step has ended"
    assert progress(RUN[:5]).rest_s(106) == 0.5 * 4
    assert progress(RUN).rest_s(108) == 0.5 * 3
    assert progress(RUN).rest_s(200) == 0, "slower than before"
    assert progress(RUN[:5], Durations()).rest_s(106) is None, "never run before"


def test_until_a_step_does_work_others_are_expected_to_find_theirs_done() -> None:
    start = Event("start", 1, "tenant_telemetry")
    before = Durations(made={"forecast_grid": 20.0}, kept={"forecast_grid": 1.0})
    kept = Event("end", 2, "tenant_telemetry", n_done=3, n_total=3, n_kept=3)
    made = Event("end", 2, "tenant_telemetry", n_done=3, n_total=3, n_kept=2)
    assert progress([start, kept], before).rest_s(2) == 1
    assert progress([start, made], before).rest_s(2) == 20


def test_durations_of_a_run_take_the_place_of_older_ones() -> None:
    kept = Event("end", 102, "forecast_grid", n_done=2, n_total=2, n_kept=2)
    again = progress([*RUN[:2], kept]).durations_now()
    assert again.made == BEFORE.made
    assert again.kept == {"forecast_grid": 1.0}
    assert again.overlap == 0.5, "the run did not end"
    ended = progress([*RUN, Event("end", 109, "headline_report")]).durations_now()
    assert ended.made == {"forecast_grid": 5.0, "headline_report": 2.0}
    assert ended.overlap == round(9 / 7, 3)


def test_the_failure_of_a_run_does_not_hide_that_of_its_step() -> None:
    failure = Event("failure", 108, "headline_report", text="no room")
    told = progress([*RUN, failure, Event("failure", 109, text="Steps failed: headline_report")])
    assert told.failures == [("headline_report", "no room")]
    assert progress([Event("failure", 1, text="no code")]).failures == [("", "no code")]


def test_without_a_terminal_a_step_has_a_line_at_its_start_and_one_at_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "")
    with RunView("shop", BEFORE) as view:
        view.show(RUN)
        view.show([Event("failure", 108, "headline_report", text="no \x1b[2Jroom")])
    assert capsys.readouterr().out.splitlines() == [
        "step 1 of 2: forecast_grid: What would every configuration have forecast?",
        "step 1 of 2: forecast_grid: done in 5 s: 8 rows",
        "step 2 of 2: headline_report: Is it worth it?",
        "headline_report: failed: no \\x1b[2Jroom",
    ]


PROGRAM = """
from tsfm_pipeline.cli.progress import Durations, RunView
from tsfm_pipeline.progress import Event
from tsfm_pipeline_tests.cli.test_run_view import BEFORE, RUN
with RunView("shop", BEFORE) as view:
    for event in RUN:
        view.show([event])
    view.show([Event("failure", 108, "headline_report", text="no room")])
print("the end")
"""


def at_a_terminal(**variables: str) -> str:
    """What the events of `RUN` write to a terminal."""
    leader, follower = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(PROJECT_ROOT), "TERM": "xterm", "COLUMNS": "100", **variables}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=follower, env=environment) as run:
        os.close(follower)
        written = b""
        try:
            while block := os.read(leader, 65_536):
                written += block
        except OSError:  # Linux ends a terminal that nobody writes to any more with an error
            os.close(leader)
    assert run.returncode == 0
    return written.decode()


@pytest.mark.heavy
def test_at_a_terminal_what_runs_is_redrawn_and_what_has_ended_stays() -> None:
    written = at_a_terminal()
    assert "\x1b[2K" in written
    assert "1 of 2 shards" in written
    assert "1 of 2 steps done, about 2 s left" in written
    stays = written[written.rindex("\x1b[2K") :]
    assert "the end" in stays
    assert "1 of 2 shards" not in stays
    assert written.count("step 1 of 2: forecast_grid: done in 5 s") == 1


@pytest.mark.heavy
def test_a_terminal_without_colours_gets_none_and_a_dumb_one_gets_lines() -> None:
    assert "\x1b[31m" in at_a_terminal()
    assert "\x1b[31m" not in at_a_terminal(NO_COLOR="1")
    dumb = at_a_terminal(TERM="dumb")
    assert "\x1b" not in dumb
    assert "step 2 of 2: headline_report: Is it worth it?" in dumb


@pytest.mark.heavy
def test_a_character_that_the_output_cannot_encode_stops_nothing() -> None:
    program = (
        "from tsfm_pipeline.cli.progress import Durations, RunView\n"
        "from tsfm_pipeline.progress import Event\n"
        "with RunView('shop', Durations()) as view:\n"
        "    view.show([Event('start', 1, 'one', text='\\u2212 2.0')])\n"
    )
    variables = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, b"step 1 of 0: one: ? 2.0\n"), run.stderr


def test_the_latest_logs_are_kept(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    for second in range(KEPT_LOGS + 3):
        (tmp_path / f"20260101T0000{second:02d}Z-1.log").touch()
    new = logs.next_path()
    assert not new.exists()
    new.touch()
    left = sorted(path.name for path in tmp_path.glob("*.log"))
    assert len(left) == KEPT_LOGS
    assert left[0] == "20260101T000004Z-1.log"


def test_durations_are_remembered_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path / "shop")
    assert logs.durations() == Durations()
    logs.next_path()
    logs.remember(progress(RUN[:5], Durations()))
    assert logs.durations() == Durations(made={"forecast_grid": 5.0})
    (tmp_path / "shop" / "durations.json").write_text("{")
    assert logs.durations() == Durations()


def test_the_last_words_of_a_log_are_its_last_line_that_is_not_empty(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("one\nValueError: no such fleet\n\n  \n")
    assert last_words(log) == "ValueError: no such fleet"
    log.write_text("")
    assert last_words(log) == ""


def test_times_are_in_words() -> None:
    assert [words_of(s) for s in (0.4, 59.6, 125, 4321)] == [
        "0 s",
        "1 min 0 s",
        "2 min 5 s",
        "1 h 12 min",
    ]
