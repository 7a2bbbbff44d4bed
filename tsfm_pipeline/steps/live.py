"""The live engine of a fold, built from the fleet's tables.

What belongs here: reading what an engine needs. What does not: answering requests (`autoresearch.engine`).
"""

from typing import Any

import numpy as np

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.steps.archetypes import window_index
from tsfm_pipeline.steps.evidence import read_policies
from tsfm_pipeline.steps.policies import tuning_experience


def build_engine(fleet: Fleet, forecaster: Any, fold: int) -> AutoresearchEngine:
    """The engine that answers the fold's test tenants exactly as the batch path does."""
    known = tuning_experience(fleet, fold)
    return AutoresearchEngine(
        forecaster,
        read_policies(fleet)[fold],
        known.over(np.flatnonzero(fleet.portfolio_mask(fold)).tolist()),
        window_index(fleet, fold, "request"),
        n_neighbours=fleet.settings.search.neighbours,
    )
