"""Makes the shards of a table on the hosts of a Ray network.

What belongs here: the connection to Ray, which shards are given to it and when again, and what is
said about workers that are lost. What does not: which attempts ought to run (`attempts`), what a
worker does with a shard (`shards`), the release that it must run (`same_release`), the settings
(`settings.ExecutionSettings`).

Ray is imported inside functions, so that nothing else needs it. Shards are tasks: a worker's
process keeps the member and the model from one task to the next. A task first says where it runs,
and then makes its part. So the driver knows when a shard started and on which node: Ray alone waits
without end for a node that has fallen silent. Ray repeats nothing by itself; lost shards are given
out again here, with a sentence in the log. Two attempts at one shard write the same bytes under the
same name.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tsfm_pipeline.catalogue.attempts import Attempt, Node, Started, set_clocks
from tsfm_pipeline.catalogue.same_release import Release, refuse_another, release
from tsfm_pipeline.catalogue.shards import ShardWork, make_shard
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.lake import Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import ExecutionSettings

Log = Callable[[str], Any]

NO_SLOT_S = 60.0
"""Seconds without a running shard after which the log says that the network has no free slot; the
next such sentence comes after twice that time."""
_LOOK_S = 1.0
"""Seconds between two looks at the clocks of shards, at the latest."""
_NODES_S = 10.0
"""Seconds for which the list of nodes is used."""


class WorkersLostError(RuntimeError):
    """A shard was lost or overdue as often as it may be; the message says where. Another try of the
    step makes the missing shards only.
    """


class OnRay:
    """An executor of shards on Ray; implements `catalogue.shards.ShardExecutor`."""

    def __init__(self, execution: ExecutionSettings, log: Log = lambda _: None) -> None:
        self.execution = execution
        self.log = log

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        """Make each of these shards, in the order in which they are finished.

        Raises `LakeError` if a worker refuses (its host is named), whatever else making a shard
        raises, `WorkersLostError` after the last attempt at a shard, ConnectionError if there is no
        such network, and ValueError if Ray is missing or would be open to everybody.
        """
        with connected(self.execution, self.log):
            dispatch = _Dispatch(self.execution, work, self.log)
            try:
                yield from dispatch.parts(tasks)
            finally:
                dispatch.cancel()


@contextmanager
def connected(execution: ExecutionSettings, log: Log) -> Iterator[None]:
    """Be the driver of a job of the Ray network; keep a connection that is there already."""
    try:
        import ray
        from ray.exceptions import AuthenticationError
    except ModuleNotFoundError as error:
        raise ValueError(
            "TSFM_EXECUTION__ENGINE is ray, and ray is not installed: install "
            "'tsfm-pipeline[ray]', or set in_process"
        ) from error
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if execution.address == "local":
        refuse_open_ray()
        options |= {"include_dashboard": False}
    try:
        ray.init(execution.address, **options)
    except (ConnectionError, AuthenticationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConnectionError(
            f"no Ray network answers at TSFM_EXECUTION__ADDRESS={execution.address} on host "
            f"{socket.gethostname()} ({reason}); see docs/scaling.md, Shards on Ray"
        ) from error
    if os.environ.get("RAY_AUTH_MODE") != "token":
        log(
            f"the Ray network at {execution.address} asks for no token: whoever reaches its ports "
            "can run any code on its hosts; start it with RAY_AUTH_MODE=token (docs/scaling.md)"
        )
    try:
        yield
    finally:
        ray.shutdown()


def refuse_open_ray() -> None:
    """Raise ValueError if the environment lets Ray ask for no token. A Ray that this process starts
    listens on every address of the host; without a setting, Ray makes a token of its own.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise ValueError(
            f"TSFM_EXECUTION__ADDRESS=local would start a Ray with RAY_AUTH_MODE={mode}, which "
            "listens on every address of this host and runs any code that it is sent; unset "
            "RAY_AUTH_MODE or set it to token"
        )


def shard_events(work: ShardWork, wanted: Release, task: Task) -> Iterator[Started | Part]:
    """Say where this worker runs, then make the shard. This is what Ray runs on a worker."""
    import ray

    yield Started(socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id())
    refuse_another(wanted)
    yield make_shard(work, task)


@dataclass
class _Dispatch:
    """Gives shards to Ray, a few per slot at a time, until each is made."""

    execution: ExecutionSettings
    work: ShardWork
    log: Log
    waiting: deque[tuple[Task, frozenset[str]]] = field(default_factory=deque)
    running: dict[Any, Attempt] = field(default_factory=dict)
    """Attempts by Ray's generator of their answers, in the order in which Ray got them."""
    n_attempts: dict[int, int] = field(default_factory=dict)
    lost_on: dict[int, list[str]] = field(default_factory=dict)
    """Where the attempts at each shard were lost."""
    silent: set[str] = field(default_factory=set)
    """Nodes on which a shard is overdue; further shards avoid them if others have slots."""
    heard: dict[str, float] = field(default_factory=dict)
    """When each node gave its last answer."""

    def __post_init__(self) -> None:
        import ray

        settings = self.execution
        self.asked = {"CPU": settings.cpus}
        if self.work.needs_model and settings.gpus:
            self.asked["GPU"] = settings.gpus
        if settings.memory is not None:
            self.asked["memory"] = settings.memory * 2**20
        # A task with a GPU would otherwise get a new process, which loads the model again.
        options: dict[str, Any] = {
            "max_calls": 0,
            "max_retries": 0,
            "num_returns": "streaming",
            "num_cpus": settings.cpus,
            "num_gpus": self.asked.get("GPU", 0),
            "memory": self.asked.get("memory"),
        }
        self.remote: Any = ray.remote(**options)(shard_events)
        # Sent once, not with every shard.
        self.arguments = (ray.put(self.work), ray.put(release()))
        self.nodes: list[Node] = []
        self.listed = self.last_event = time.monotonic()
        self.patience = NO_SLOT_S

    def parts(self, tasks: Sequence[Task]) -> Iterator[Part]:
        """Yield the part of each shard once."""
        import ray

        self.waiting.extend((task, frozenset()) for task in tasks)
        self._list_nodes()
        self.log(
            f"{self.work.table}: {len(tasks)} shards go to {len(self.nodes)} Ray nodes with "
            f"{self.slots} slots of {self._asked_text}"
        )
        missing = {number for number, _ in tasks}
        looked = time.monotonic()
        while missing:
            self._fill()
            answered, _ = ray.wait(list(self.running), num_returns=1, timeout=_LOOK_S)
            if answered:  # a look at all of them costs no more
                answered, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
            for answers in answered:
                part = self._receive(answers)
                if part is not None and part.number in missing:
                    missing.remove(part.number)
                    self._forget(part.number)
                    yield part
            if time.monotonic() - looked >= _LOOK_S:
                self._look_at_clocks()
                looked = time.monotonic()

    def cancel(self) -> None:
        """End what still runs: after an error, or an attempt that another one overtook."""
        import ray

        for answers in self.running:
            ray.cancel(answers, force=True)
        self.running.clear()

    @property
    def slots(self) -> int:
        """The shards that run at a time."""
        return sum(node.slots for node in self.nodes)

    @property
    def _asked_text(self) -> str:
        units = {"CPU": "CPU", "GPU": "GPU", "memory": "bytes of memory"}
        return ", ".join(f"{amount:g} {units[name]}" for name, amount in self.asked.items())

    def _shard(self, number: int) -> str:
        return f"{self.work.table}: shard {number + 1}"

    def _list_nodes(self) -> None:
        """Look which nodes live; an autoscaler adds and removes them."""
        import ray

        before = {node.id for node in self.nodes}
        self.nodes = [
            Node(node["NodeID"], node["NodeManagerHostname"], self._slots(node["Resources"]))
            for node in ray.nodes()
            if node["Alive"]
        ]
        self.listed = time.monotonic()
        self._leave(before - {node.id for node in self.nodes})

    def _slots(self, resources: Mapping[str, float]) -> int:
        return min(int(resources.get(name, 0) / amount) for name, amount in self.asked.items())

    def _fill(self) -> None:
        """Give Ray shards until it has a few per slot. Overdue ones hold no slot."""
        if time.monotonic() - self.listed > _NODES_S:
            self._list_nodes()
        room = self.execution.in_flight * max(self.slots, 1)
        n_running = sum(not attempt.overdue for attempt in self.running.values())
        while self.waiting and n_running < room:
            task, avoiding = self.waiting.popleft()
            self._give(task, avoiding)
            n_running += 1

    def _give(self, task: Task, avoiding: frozenset[str]) -> None:
        useful = {node.id for node in self.nodes if node.slots}
        remote = self.remote
        avoided = next(
            (these for these in (avoiding | self.silent, frozenset(self.silent)) if useful - these),
            frozenset[str](),
        )
        if avoided:
            remote = remote.options(
                label_selector={"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
            )
        number, _ = task
        self.n_attempts[number] = self.n_attempts.get(number, 0) + 1
        answers = remote.remote(*self.arguments, task)
        self.running[answers] = Attempt(task, avoided)

    def _receive(self, answers: Any) -> Part | None:
        """Take the next answer of a task: where it runs, its part, or its error."""
        import ray
        from ray.exceptions import (
            NodeDiedError,
            ObjectLostError,
            OutOfMemoryError,
            RayTaskError,
            WorkerCrashedError,
        )

        attempt = self.running.get(answers)
        if attempt is None:  # forgotten since: another attempt was faster
            return None
        now = self.last_event = time.monotonic()
        self.patience = NO_SLOT_S
        try:
            answer = ray.get(next(answers))
        except RayTaskError as error:
            raise self._own_error(error, attempt) from None
        except OutOfMemoryError:
            self._lost(answers, "had no memory left, and the worker was ended")
        except (WorkerCrashedError, NodeDiedError, ObjectLostError):
            self._lost(answers, "was killed or its node died")
        else:
            if isinstance(answer, Started):
                attempt.started, attempt.clock, attempt.overdue = answer, now, False
            if attempt.started:
                self.heard[attempt.started.node] = now
            return answer if isinstance(answer, Part) else None
        return None

    def _own_error(self, error: Any, attempt: Attempt) -> BaseException:
        """Return the error that was raised on the worker, as it would be in this process. One that
        nobody expects keeps the worker's traceback.
        """
        cause: BaseException = error.cause
        number, _ = attempt.task
        self.log(f"{self._shard(number)} failed on {attempt.where}")
        if not isinstance(cause, StorageError):
            cause.add_note(f"on {attempt.where}, where Ray says: {error}")
        return cause

    def _forget(self, number: int) -> None:
        """End the attempts at a shard that is made."""
        import ray

        for answers in [key for key, one in self.running.items() if one.task[0] == number]:
            attempt = self.running.pop(answers)
            if attempt.overdue or attempt.started is None:
                ray.cancel(answers)
        if self.n_attempts[number] > 1 or number in self.lost_on:
            self.waiting = deque(one for one in self.waiting if one[0][0] != number)

    def _lost(self, answers: Any, what: str) -> None:
        """Give out a shard again whose worker is gone."""
        attempt = self.running.pop(answers)
        self._again(attempt, f"on {attempt.where} {what}")

    def _again(self, attempt: Attempt, what: str, suspects: frozenset[str] = frozenset()) -> None:
        """Let a shard wait for its next attempt, on another node if there is one. suspects: ids of
        the nodes that may have the attempt, if it is not known which one has it.
        """
        number, _ = attempt.task
        self.lost_on.setdefault(number, []).append(attempt.where)
        running = (one.task[0] for one in self.running.values() if not one.overdue)
        if number in running or number in (task[0] for task, _ in self.waiting):
            self.log(f"{self._shard(number)} {what}; another attempt is under way")
            return
        made, allowed = self.n_attempts[number], self.execution.attempts
        if made >= allowed:
            raise WorkersLostError(
                f"{self._shard(number)} {what}; this was attempt {made} of {allowed} (lost on "
                f"{', '.join(self.lost_on[number])}); finished shards are kept: see to these hosts "
                "and run the step again"
            )
        self.log(f"{self._shard(number)} {what}; attempt {made + 1} of {allowed} follows")
        suspects = frozenset([attempt.started.node]) if attempt.started else suspects
        self.waiting.appendleft((attempt.task, attempt.avoiding | suspects))

    def _leave(self, gone: AbstractSet[str]) -> None:
        """Give out again what nodes had that Ray has given up. Ray's own errors come later, when
        the connections to these nodes have timed out.
        """
        self._turn_away_from(gone)
        for answers, attempt in list(self.running.items()):
            if attempt.started and attempt.started.node in gone and not attempt.overdue:
                self._lost(answers, "was killed or its node died")

    def _turn_away_from(self, lost: AbstractSet[str]) -> None:
        """Let the shards wait again that have not started and might go to these nodes: Ray has
        asked these for a slot, and goes on waiting for their answer. Uses up no attempt.
        """
        import ray

        for answers, attempt in reversed(list(self.running.items())):
            if not (attempt.started or attempt.overdue or lost <= attempt.avoiding):
                del self.running[answers]
                ray.cancel(answers)
                self.n_attempts[attempt.task[0]] -= 1
                self.waiting.appendleft((attempt.task, attempt.avoiding | lost))

    def _look_at_clocks(self) -> None:
        """Give out again what is overdue, and say so if nothing runs."""
        now, deadline = time.monotonic(), self.execution.deadline_s
        active = [one for one in self.running.values() if not one.overdue]
        set_clocks(active, self.nodes, self.silent, now)
        for attempt in active:
            if attempt.clock is None or now - attempt.clock <= deadline:
                continue
            if attempt not in self.running.values():  # given out again just now
                continue
            attempt.overdue = True
            if attempt.started:
                self.silent.add(attempt.started.node)
                self._turn_away_from({attempt.started.node})
                self._again(attempt, f"on {attempt.where} has no part after {deadline:g} s")
            else:
                # Uses up no attempt, because other work on the network may hold its slot.
                self.n_attempts[attempt.task[0]] -= 1
                since = attempt.clock
                unheard = (node.id for node in self.nodes if self.heard.get(node.id, 0) < since)
                what = f"has not started for {deadline:g} s, though a slot should be free"
                self._again(attempt, what, frozenset(unheard))
        if any(one.started for one in active):
            return
        idle = now - self.last_event
        if idle > self.patience:
            self.patience *= 2
            free = ", ".join(f"{node.host}: {node.slots}" for node in self.nodes) or "no node"
            self.log(
                f"{self.work.table}: no shard has started for {idle:.0f} s: the Ray network has no "
                f"free slot of {self._asked_text}, its workers are still starting, or a node does "
                f"not answer (slots by node: {free}); waiting"
            )
