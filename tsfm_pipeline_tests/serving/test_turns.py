"""Test that work is spread over turns of the event loop, in its order."""

import asyncio

from tsfm_pipeline.serving.turns import Turns


async def done_by_turn(turns: Turns, n: int, cancelled: int = 0) -> list[list[int]]:
    """Which of `n` blocks that are ready at once have begun, turn by turn of the loop."""
    begun: list[int] = []

    async def block(number: int) -> None:
        await turns.mine()
        begun.append(number)

    tasks = [asyncio.create_task(block(number)) for number in range(n)]
    seen: list[list[int]] = []
    while len(begun) < n - cancelled:
        before = len(begun)
        await asyncio.sleep(0)
        seen.append(begun[before:])
        for task in tasks[1 : 1 + cancelled]:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [turn for turn in seen if turn]


def test_no_turn_of_the_loop_begins_more_than_a_few() -> None:
    turns = asyncio.run(done_by_turn(Turns(4), 21))
    assert [number for turn in turns for number in turn] == list(range(21))
    assert max(map(len, turns)) == 4


def test_what_comes_alone_does_not_wait() -> None:
    assert asyncio.run(done_by_turn(Turns(4), 1)) == [[0]]


def test_one_who_leaves_takes_no_turn_from_others() -> None:
    turns = asyncio.run(done_by_turn(Turns(1), 5, cancelled=2))
    assert [number for turn in turns for number in turn] == [0, 3, 4]


def test_turns_come_again_after_a_pause() -> None:
    async def twice() -> list[list[list[int]]]:
        turns = Turns(2)
        return [await done_by_turn(turns, 4) for _ in range(2)]

    assert asyncio.run(twice()) == [[[0, 1], [2, 3]]] * 2
