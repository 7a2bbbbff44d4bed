"""Calls in a process of their own, whose memory goes with it.

What belongs here: what a promotion does with the model, so that a loop which runs for days keeps
neither the model nor a fleet's rows. What does not: experiments, which may crash or hang
(`process`).
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pkgutil import resolve_name
from typing import Any


def call_apart(function: str, *arguments: Any) -> Any:
    """Call `module:function` in a new process and return its result; both must be picklable.

    Raises what the function raises, and `BrokenProcessPool` if its process is killed.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, function, arguments).result()


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    return resolve_name(function)(*arguments)
