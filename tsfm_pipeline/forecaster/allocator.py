"""Memory settings for a process that forecasts.

What belongs here: what an entry point (a command, a step of a run, a benchmark) may call once when
it starts. What does not: anything that the library calls itself, because a library must not decide
how its process manages memory.
"""

import ctypes
import sys

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Options of glibc's `mallopt` (malloc.h)."""
KEPT_BYTES = 2**28


def keep_large_buffers() -> None:
    """Make the allocator keep large buffers, for the rest of this process.

    By default glibc returns them to the system after every matrix product, and page faults then
    take a tenth of a request's time. Does nothing where the C library has no `mallopt`.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
                mallopt(option, KEPT_BYTES)
