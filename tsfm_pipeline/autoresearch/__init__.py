"""The search: which configurations to believe for one request, from its own past and others'
experience.

What belongs here: the search space, evidence, priors, decision rules, their fitting, and the
request path. What does not: the model (`forecaster`), what it is compared with (`baselines`), what
it is worth (`evaluation`).
"""

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine, Response
from tsfm_pipeline.autoresearch.policy import SearchPolicy

__all__ = ["AutoresearchEngine", "Response", "SearchPolicy"]
