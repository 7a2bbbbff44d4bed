"""Calls in a process of their own, whose memory goes with it.

What belongs here: what a promotion does with the model, so that a loop which runs for days keeps
neither the model nor a fleet's rows. What does not: experiments, which may crash or hang
(`process`).
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pkgutil import resolve_name
from typing import Any


class ApartError(RuntimeError):
    """A call in a process of its own failed; the message says how."""


def call_apart(function: str, *arguments: Any) -> Any:
    """Call `module:function` in a new process and return its result; both must be picklable.

    Raises `ApartError` for whatever the function raises, and if its process is killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_call, function, arguments).result()
    except Exception as error:
        raise ApartError(f"{function}: {type(error).__name__}: {error}") from error


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    return resolve_name(function)(*arguments)
