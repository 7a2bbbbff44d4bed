"""The search: it weighs configurations for one request by the request's own past and by other
tenants' experience.

What belongs here: the search space, evidence, priors, decision rules, their fitting, and the
request path. What does not: the model (`forecaster`), the methods that the search is compared with
(`baselines`), the scores (`evaluation`).
"""

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine, Response
from tsfm_pipeline.autoresearch.policy import SearchPolicy

__all__ = ["AutoresearchEngine", "Response", "SearchPolicy"]
