"""What a run tells the terminal that waits for it: one JSON line per event, in a file that both
know.

What belongs here: the event, appending it, and reading what was appended since. What does not:
where events come from (`defs.progress`) and how they are shown (`cli.progress`).

Every step is a process of its own. Each appends whole lines, which the kernel never mixes.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["run", "start", "shards", "end", "retry", "failure"]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    at: seconds since the epoch. step: the asset, "" for the run itself. pid: the process that the
    step runs in. text: the question of a step that starts, the figure of one that ends, or the
    message of an error. n_done of n_total: shards of a table; for the kind `run`, n_total is the
    number of steps. n_kept: of these shards, those that an earlier run made.
    """

    kind: Kind
    at: float
    step: str = ""
    pid: int = 0
    text: str = ""
    n_done: int = 0
    n_total: int = 0
    n_kept: int = 0


def append_event(path: Path, event: Event) -> bool:
    """Append an event to a file. Return False, and create nothing, if the file is gone: then nobody
    waits for it.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return False
    try:
        os.write(handle, json.dumps(asdict(event)).encode() + b"\n")
    finally:
        os.close(handle)
    return True


class EventReader:
    """Reads the events of a file as they are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def new(self) -> list[Event]:
        """Return the events since the last call. A line that is still being written is left for the
        next call.
        """
        with self.path.open("rb") as file:
            file.seek(self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._position += len(whole) + len(newline)
        return [Event(**json.loads(line)) for line in whole.splitlines()]
