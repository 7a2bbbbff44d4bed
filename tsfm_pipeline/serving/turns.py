"""Turns: work that holds the event loop for a while is spread over many turns of the loop.

What belongs here: the spreading. What does not: the work, and limits on how much may wait (`guard`,
`batching`).

When a batch of 64 answers comes back, or many requests arrive at once, every one of them is ready
to run in the same turn of the loop. Without turns, everything else, such as a probe, would wait for
all of them.
"""

import asyncio
from collections import deque

AT_ONCE = 2
"""Pieces of work, of up to half a millisecond, that begin in one turn of the loop."""


class Turns:
    """Lets `at_once` callers go on in one turn of the event loop, in the order of their coming.

    A service has one for everything that it does on the loop: with several, a turn takes longer.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = self._left = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def mine(self) -> None:
        """Return when it is the caller's turn; it ends where the caller awaits something else."""
        loop = asyncio.get_running_loop()
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._at_once
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else the one who waited has been cancelled
                turn.set_result(None)
                self._left -= 1
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            loop.call_soon(self._next, loop)
