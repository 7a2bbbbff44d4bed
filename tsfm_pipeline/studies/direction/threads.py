"""Independent pieces of work, some at a time in threads of one core each.

What belongs here: running them so that results do not depend on how many threads there are. What
does not: the work; most of it is done by libraries that let other threads run.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the function's results, in the order of the items.

    A library's own threads are limited to one, because sums over days that several threads share
    depend on how they are divided. Limits of OpenMP belong to the thread that sets them.
    """
    from numba import get_num_threads

    with (
        threadpool_limits(limits=1),
        ThreadPoolExecutor(get_num_threads(), initializer=threadpool_limits, initargs=(1,)) as pool,
    ):
        return list(pool.map(function, items))
