"""Act at a certain moment of a run: just before a finished file gets its final name.

What belongs here: finding the moment, by the events that Python reports. What does not: what
happens then (`nursery`, `holding`).
"""

import sys
from collections.abc import Callable
from typing import Any


def at_renaming(prefix: str, number: int, act: Callable[[], object]) -> None:
    """Call `act` in this process before it gives the n-th file whose path begins with `prefix` its
    final name.
    """
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("os.rename", "os.link") and str(arguments[1]).startswith(prefix):
            seen += 1
            if seen == number:
                act()

    sys.addaudithook(watch)
