"""`python -m tsfm_pipeline.cli.run <fleet>`: materialise one fleet, show what it does, and print
its headline; called by `make demo`.

What belongs here: starting the run, waiting for it, ending it, and printing the result from the
reports. What does not: the command itself (`materialise`), how progress is shown (`progress`), the
folder of logs (`run_logs`), the work of the assets.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.cli.materialise import materialise_command
from tsfm_pipeline.cli.progress import RunView, words_of
from tsfm_pipeline.cli.run_logs import RunLogs, last_words
from tsfm_pipeline.cli.screen import alarm, say
from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.progress import EventReader
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.wording import percent, ratio_interval
from tsfm_pipeline.settings import Settings

PAUSE_S = 0.2
PATIENCE_S = 10
"""How long an interrupted run may take to end by itself."""
KEPT = "Finished shards are kept: run the command again."


def main(arguments: list[str]) -> int:
    """Run all steps on the named fleet; return Dagster's exit status."""
    if len(arguments) != 1:
        print("usage: python -m tsfm_pipeline.cli.run <fleet>", file=sys.stderr)
        return 2
    try:
        fleet = open_workspace_fleet(Settings(), arguments[0])
        environment = {**os.environ, "DAGSTER_HOME": str(_dagster_home(fleet.settings))}
        logs = RunLogs(fleet.settings.output_dir / "logs" / fleet.name)
        log = logs.next_path()
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    started = time.monotonic()
    view = RunView(fleet.name, logs.durations())
    with tempfile.TemporaryDirectory(prefix="tsfm-pipeline-run-") as folder:
        events = Path(folder) / "events.jsonl"
        events.touch()
        command = materialise_command(fleet.name, progress=events)
        try:
            with log.open("wb") as output:
                status = _watch(command, environment, output.fileno(), EventReader(events), view)
        except KeyboardInterrupt:
            alarm(f"{fleet.name}: interrupted. {KEPT} Dagster's log: {log}")
            raise
        finally:
            logs.remember(view.progress)
    elapsed = words_of(time.monotonic() - started)
    if status:
        step, message = view.progress.failures[-1] if view.progress.failures else ("", "")
        where = f" at {step}" if step else ""
        alarm(f"{fleet.name}: failed{where} after {elapsed}: {message or last_words(log)}")
        alarm(f"{KEPT} Dagster's log: {log}")
        return status
    _show_headline(fleet, elapsed)
    say(f"  Dagster's log: {log}")
    return 0


def _show_headline(fleet: Fleet, elapsed: str) -> None:
    headline = HeadlineReport.from_flat(read_report(fleet, "headline_report"))
    say(
        f"\n{fleet.name}: finished in {elapsed}. Cost of the search relative to the best fixed "
        "configuration:"
    )
    for tier, own in headline.tiers.items():
        say(
            f"  {tier:9s} {ratio_interval(*own.ratio)}, {percent(own.win_rate.figure)} of "
            f"{own.n_requests_scored} requests won"
        )
    say(f"  report: {fleet.reports_dir / 'report.html'}")


def _watch(
    command: list[str], environment: dict[str, str], output: int, events: EventReader, view: RunView
) -> int:
    """Run the command to its end and show its events meanwhile; return its exit status.

    The command stays in this process's group, so that what a terminal or a supervisor sends to the
    group reaches all of its processes. SIGTERM to this process alone is passed on.
    """
    with subprocess.Popen(command, env=environment, stdout=output, stderr=output) as run:
        try:
            with _passing_on_sigterm(run), view:
                status = None
                while status is None:
                    with suppress(subprocess.TimeoutExpired):
                        status = run.wait(PAUSE_S)
                    view.show(events.new())
        except BaseException:
            _end(run)
            raise
    return status


@contextmanager
def _passing_on_sigterm(run: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on to the run, which then ends its steps. The exit status is the run's."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        run.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(run: subprocess.Popen[bytes]) -> None:
    """Wait for a run that was interrupted with this process. End it if it does not end by itself,
    or if a person interrupts again.
    """
    if not _ends(run):
        run.terminate()
        if not _ends(run):
            run.kill()


def _ends(run: subprocess.Popen[bytes]) -> bool:
    try:
        run.wait(PATIENCE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return False
    return True


def _dagster_home(settings: Settings) -> Path:
    """Return DAGSTER_HOME, or else a folder beside the data, into which the program's dagster.yaml
    is copied once.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home)
    config = settings.dagster_home / "dagster.yaml"
    if not config.exists():
        write_atomically(
            config, lambda temporary: shutil.copyfile(packaged("dagster.yaml"), temporary)
        )
    return settings.dagster_home


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
