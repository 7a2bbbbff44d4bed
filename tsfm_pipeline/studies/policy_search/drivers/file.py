"""The driver `file`: one policy that a person or a program wrote.

What belongs here: proposing the policy of one file, once. What does not: reading and checking a
file (`policy`, `space`).
"""

from pathlib import Path

import polars as pl

from tsfm_pipeline.studies.policy_search import space
from tsfm_pipeline.studies.policy_search.drivers import DriverError, Proposal, tried
from tsfm_pipeline.studies.policy_search.policy import Policy, read_policy


class FileDriver:
    """Proposes the policy of a file, unless the ledger already holds it."""

    name = "file"

    def __init__(self, policy: Policy, description: str) -> None:
        self.policy = policy
        self._description = description
        self._proposed = False

    @classmethod
    def read(cls, path: Path | None, description: str) -> "FileDriver":
        """Return the driver of a policy file. An empty description becomes the list of changes.

        Raises `DriverError` if no file is named, and `PolicyError` for a file that cannot be used.
        """
        if path is None:
            raise DriverError("the driver `file` needs a policy file; name one")
        policy = read_policy(path)
        space.require_allowed(policy, str(path))
        return cls(policy, " ".join(description.split()))

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal | None:
        """Return the file's policy the first time, None after that or if it was tried before."""
        if self._proposed or self.policy.digest in tried(history):
            return None
        self._proposed = True
        description = self._description or space.described(incumbent, self.policy)
        return Proposal(self.policy, incumbent.digest, description)
