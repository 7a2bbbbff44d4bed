"""The online service: forecasts on request, from one file that a fleet's run has written.

What belongs here: the routes and their contract, preparing a series, the runtimes behind the
answers (our model in this process, or a tollama daemon), the fallback, the safety of intervals,
calibration and rollout as the service reads them, metrics and records. What does not: the lake and
its tables, and fitting anything. A server has a bundle but no fleet; an import contract forbids
`lake`, `catalogue`, `steps` and dagster.
"""
