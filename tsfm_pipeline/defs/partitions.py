"""The one partition dimension of a scope's graph: its members.

What belongs here: the partitions definition. What does not: what a member is (`fleets.spec` for
fleets).
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.catalogue.scopes import Scope
from tsfm_pipeline.settings import Settings


def partitions_of(scope: Scope[Any], settings: Settings) -> dg.StaticPartitionsDefinition:
    """Return one partition per member. A new member appears after the code location is reloaded."""
    return dg.StaticPartitionsDefinition(list(scope.partitions(settings)))
