"""Test when the clock of an attempt at a shard runs before its worker has said anything.

What belongs here: the rule, on invented nodes. What does not: a real Ray (`test_on_ray`).
"""

from tsfm_pipeline.catalogue.attempts import Attempt, Node, Started, set_clocks

A, B = Node("a", "host-a", 1), Node("b", "host-b", 1)
HEAD = Node("head", "host-head", 0)


def attempt(number: int, node: Node | None = None, *, avoiding: str = "") -> Attempt:
    """An attempt that runs on a node, or has not started. avoiding: one letter per node."""
    if node is None:
        return Attempt((number, [number]), frozenset(avoiding))
    return Attempt((number, [number]), frozenset(avoiding), Started(node.host, 1, node.id), 5.0)


def clocks(
    *active: Attempt, nodes: tuple[Node, ...] = (A, B), silent: str = ""
) -> list[float | None]:
    set_clocks(active, nodes, set(silent), 100.0)
    return [one.clock for one in active]


def test_the_last_shard_of_a_table_counts_though_its_worker_never_spoke() -> None:
    assert clocks(attempt(1)) == [100.0]


def test_as_many_count_as_there_are_free_slots_the_oldest_first() -> None:
    assert clocks(attempt(1, A), attempt(2), attempt(3)) == [5.0, 100.0, None]
    assert clocks(attempt(1, A), attempt(2, B), attempt(3)) == [5.0, 5.0, None]
    assert clocks(attempt(1), nodes=(HEAD,)) == [None]
    assert clocks(attempt(1), nodes=()) == [None]


def test_a_clock_goes_on_while_the_slot_is_free_and_is_set_back_when_it_is_taken() -> None:
    waits = attempt(1)
    clocks(waits)
    set_clocks([waits], [A, B], set(), 200.0)
    assert waits.clock == 100.0
    clocks(attempt(2, A), attempt(3, B), waits)
    assert waits.clock is None


def test_a_second_attempt_counts_when_a_node_that_it_may_use_is_free() -> None:
    assert clocks(attempt(1, A), attempt(2, avoiding="b")) == [5.0, None]
    assert clocks(attempt(1, B), attempt(2, avoiding="b")) == [5.0, 100.0]


def test_slots_of_silent_nodes_do_not_count_unless_there_are_no_others() -> None:
    assert clocks(attempt(1, A), attempt(2), silent="b") == [5.0, None]
    assert clocks(attempt(1), nodes=(A, HEAD), silent="a") == [100.0]


def test_an_attempt_that_avoids_every_living_node_counts() -> None:
    assert clocks(attempt(1, avoiding="b"), nodes=(B,)) == [100.0]
