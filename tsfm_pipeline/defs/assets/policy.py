"""Group `forecasts`: the policy in force, which is the same for all fleets and has no partition.

What belongs here: showing which values of the search's settings were adopted. What does not:
reading the file (`policy_file`), its effect on tables, which their fingerprints hold
(`catalogue.parameters`), and promoting a policy. Every run of a single fleet includes it, so it
reads no table and takes no lock.
"""

import dagster as dg

from tsfm_pipeline.defs.materialise import OWNERS, RETRY
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.policy_file import strict_json

NAME = "promoted_policy"
GROUP = "forecasts"
READERS = ("config_portfolio", "search_policy")
"""The tables whose first choices the policy's values make."""


def build() -> list[dg.AssetsDefinition]:
    """Return the asset."""

    @dg.asset(
        name=NAME,
        group_name=GROUP,
        owners=OWNERS,
        retry_policy=RETRY,
        kinds={"yaml"},
        code_version="1",
    )
    def promoted_policy(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Which values of the search's settings were adopted, and where do they come from?"""
        policy = workspace.settings.policy
        if policy is None:
            return dg.MaterializeResult(
                metadata={ANSWER: "No policy is in force: the defaults of this release count."},
                data_version=dg.DataVersion("defaults"),
            )
        named = ", ".join(policy.changes) or "nothing"
        return dg.MaterializeResult(
            metadata={
                ANSWER: f"The policy {policy.digest} is in force since {policy.since}; it changes "
                f"{named}.",
                "policy": policy.digest,
                "since": policy.since,
                "changes": dg.MetadataValue.json(policy.changes),
                "provenance": dg.MetadataValue.json(strict_json(policy.provenance)),
                "path": dg.MetadataValue.path(str(policy.path)),
            },
            data_version=dg.DataVersion(policy.digest),
        )

    return [promoted_policy]
