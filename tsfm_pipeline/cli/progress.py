"""A run as the terminal shows it: which steps run, how far they are, and how long the rest may
take.

What belongs here: what events add up to (`Progress`), and showing it, live at a terminal and as
plain lines elsewhere (`RunView`). What does not: the events (`tsfm_pipeline.progress`), starting
the run (`run`), where durations are stored (`run_logs`).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tsfm_pipeline.cli.screen import console, visible
from tsfm_pipeline.progress import Event


@dataclass(frozen=True)
class Durations:
    """How long steps took, from earlier runs of a fleet.

    made, kept: seconds by step, where the step did its work, and where all of its shards were there
    already. overlap: seconds of a whole run over the sum of its steps' seconds; below 1 where steps
    ran side by side.
    """

    made: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    overlap: float = 1.0


@dataclass(frozen=True)
class Step:
    """A step that has begun: its place in the order of beginnings, and its latest event."""

    number: int
    began: float
    question: str
    latest: Event


class Progress:
    """What the events of a run add up to."""

    def __init__(self, before: Durations) -> None:
        self.before = before
        self.n_steps = 0
        self.began: float | None = None
        self.running: dict[str, Step] = {}
        self.ended: dict[str, Step] = {}
        self.failures: list[tuple[str, str]] = []
        self._n_begun = 0

    def apply(self, event: Event) -> None:
        """Take in one event."""
        if event.kind == "run":
            self.n_steps, self.began = event.n_total, event.at
        elif event.kind == "start":
            self._n_begun += 1
            self.running[event.step] = Step(self._n_begun, event.at, event.text, event)
        elif event.kind == "shards" and event.step in self.running:
            self.running[event.step] = replace(self.running[event.step], latest=event)
        elif event.kind == "end" and event.step in self.running:
            self.ended[event.step] = replace(self.running.pop(event.step), latest=event)
        elif event.kind == "failure":
            self.running.pop(event.step, None)
            # The failure of a run follows those of its steps, and says less.
            if event.step or not self.failures:
                self.failures.append((event.step, event.text))

    def rest_s(self, now: float) -> float | None:
        """Return how many seconds the rest of the run may take, from earlier runs; None where too
        little is known: before the first step has ended, and in a fleet's first run.

        Until a step does work, all others are expected to find theirs done, because what is stale
        makes stale what follows from it.
        """
        if not self.ended or not self.before.made:
            return None
        working = any(step.latest.n_done > step.latest.n_kept for step in self.ended.values())
        first, second = self.before.made, self.before.kept
        expected = (second | first) if working else (first | second)
        rest = 0.0
        for step, seconds in expected.items():
            if step in self.running:
                rest += max(0.0, seconds - (now - self.running[step].began))
            elif step not in self.ended:
                rest += seconds
        return rest * self.before.overlap

    def durations_now(self) -> Durations:
        """Return the known durations, with those of this run in place of older ones."""
        made, kept, seconds = dict(self.before.made), dict(self.before.kept), 0.0
        for name, step in self.ended.items():
            own = step.latest.at - step.began
            seconds += own
            all_kept = 0 < step.latest.n_total == step.latest.n_kept
            (kept if all_kept else made)[name] = round(own, 1)
        overlap = self.before.overlap
        if self.began is not None and seconds and len(self.ended) == self.n_steps:
            last = max(step.latest.at for step in self.ended.values())
            overlap = round((last - self.began) / seconds, 3)
        return Durations(made, kept, overlap)


class RunView:
    """Shows a run on standard output: what runs now is redrawn at a terminal, and what has ended
    stays above it. Elsewhere each step has one line at its start and one at its end.
    """

    def __init__(self, fleet: str, before: Durations) -> None:
        self.fleet = fleet
        self.progress = Progress(before)
        self._began = time.time()
        self._console = console()
        self._is_live = sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._live = Live(
            console=self._console,
            get_renderable=self._running,
            auto_refresh=False,  # a thread of its own would read what `show` changes
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, events: Sequence[Event]) -> None:
        """Take in events, print a line for each that is worth one, and redraw what runs."""
        for event in events:
            self.progress.apply(event)
            if event.kind == "start" and not self._is_live:
                step = self.progress.running[event.step]
                self._print(f"{self._place(step)} {event.step}: {event.text}")
            elif event.kind == "end" and event.step in self.progress.ended:
                self._print(*self._ended(event))
            elif event.kind in ("retry", "failure") and event.step:
                what = "failed, and is tried again" if event.kind == "retry" else "failed"
                self._print(f"{event.step}: {what}: {event.text}", style="red")
        if self._is_live:
            self._live.refresh()

    def _ended(self, event: Event) -> tuple[str, str]:
        """Return the line of a step that has ended, and its figure."""
        step = self.progress.ended[event.step]
        done = f"{self._place(step)} {event.step}: done in {words_of(event.at - step.began)}"
        if event.n_total and event.n_kept == event.n_total:
            done += ", all shards were there"
        elif event.n_kept:
            done += f", {event.n_kept} of {event.n_total} shards were there"
        return done, event.text

    def _place(self, step: Step) -> str:
        return f"step {step.number} of {self.progress.n_steps}:"

    def _print(self, line: str, figure: str = "", style: str = "") -> None:
        text = Text(visible(line), style)
        if figure:
            text.append(f": {visible(figure)}", style="" if style else "bold")
        self._console.print(text, soft_wrap=not self._is_live)

    def _running(self) -> Padding:
        """Return what is redrawn: how far the run is, and each step that runs."""
        now, progress = time.time(), self.progress
        head = f"{self.fleet}: {words_of(now - self._began)} so far"
        if progress.n_steps:
            head += f", {len(progress.ended)} of {progress.n_steps} steps done"
        rest = progress.rest_s(now)
        if rest is not None:
            head += f", about {words_of(rest)} left"
        rows = Table.grid(padding=(0, 2))
        for name, step in progress.running.items():
            shards = step.latest
            counted = f"{shards.n_done} of {shards.n_total} shards" if shards.n_total else ""
            rows.add_row(name, words_of(now - step.began), counted, Text(step.question, "dim"))
        table = Table.grid()
        table.add_row(Text(visible(head), "bold"))
        table.add_row(Padding(rows, (0, 0, 0, 2)))
        return Padding(table, (1, 0, 0, 0))


def words_of(seconds: float) -> str:
    """Return a time in words, e.g. "42 s", "2 min 5 s", "1 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
