"""The driver `random`: small moves from the incumbent, and fresh values of a few fields.

What belongs here: how many moves, and which of the two. What does not: the moves (`space`).
"""

import polars as pl

from tsfm_pipeline.studies.policy_search import space
from tsfm_pipeline.studies.policy_search.drivers import Draws, Proposal
from tsfm_pipeline.studies.policy_search.policy import Policy

MOST_MOVES = 3
MOST_FIELDS = 5


class RandomDriver:
    """With probability 1/2 one to three small moves from the incumbent, else new random values in
    one to five of its fields. The seed and the number of rows in the history decide what is drawn.
    """

    name = "random"

    def __init__(self, seed: int) -> None:
        self._draws = Draws(seed)

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal:
        """Return the next policy. There always is one."""
        rng = self._draws.next(history)
        if rng.random() < 0.5:
            policy = space.stepped(incumbent, rng, int(rng.integers(1, MOST_MOVES + 1)))
        else:
            policy = space.fresh(incumbent, rng, int(rng.integers(1, MOST_FIELDS + 1)))
        return Proposal(policy, incumbent.digest, space.described(incumbent, policy))
