"""Attempts at shards on the nodes of a Ray network, and which of them ought to run by now.

What belongs here: what the driver knows about an attempt, and the start of its clock. What does
not: giving shards to Ray and hearing from it (`on_ray`). Nothing here imports Ray.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from tsfm_pipeline.lake import Task


class Started(NamedTuple):
    """What a task says first: where it runs."""

    host: str
    pid: int
    node: str


class Node(NamedTuple):
    """A living node of the network: its id, its host, and how many shards run on it at a time."""

    id: str
    host: str
    slots: int


@dataclass(eq=False)
class Attempt:
    """One task of Ray that makes one shard.

    avoiding: ids of the nodes on which Ray may not start it. started: None until the task has said
    where it runs. clock: since when it runs, or since when a slot has been free for it, in seconds
    of `time.monotonic`; None while it has to wait.
    """

    task: Task
    avoiding: frozenset[str]
    started: Started | None = None
    clock: float | None = None
    overdue: bool = False

    @property
    def where(self) -> str:
        """The worker, for a sentence."""
        if self.started is None:
            return "a worker that never answered"
        return f"{self.started.host} (process {self.started.pid})"


def set_clocks(
    active: Iterable[Attempt], nodes: Sequence[Node], silent: AbstractSet[str], now: float
) -> None:
    """Let the clock run of each attempt that has not started though a slot is free for it, and let
    no other one's that has not started.

    active: attempts that are not overdue, in the order in which Ray got them. silent: ids of nodes
    whose slots do not count, unless there are no others. A slot is free if no attempt that has
    started holds it. Ray starts shards in their order, so the first attempts get the free slots. An
    attempt whose clock runs until the deadline is on a node that is silent, or other work on the
    network holds its slot.
    """
    useful = [node for node in nodes if node.slots and node.id not in silent] or nodes
    known = {node.id for node in useful}
    slots = {node.id: node.slots for node in useful}
    waiting = []
    for attempt in active:
        if attempt.started is None:
            waiting.append(attempt)
        elif attempt.started.node in slots:
            slots[attempt.started.node] -= 1
    free = {node: number for node, number in slots.items() if number > 0}
    for attempt in waiting:
        # One that avoids every node that is left cannot run, and must be given out otherwise.
        avoiding = set() if known <= attempt.avoiding else attempt.avoiding
        node = next((node for node in free if node not in avoiding), None)
        if node is None:
            attempt.clock = None
            continue
        free[node] -= 1
        if not free[node]:
            del free[node]
        if attempt.clock is None:
            attempt.clock = now
