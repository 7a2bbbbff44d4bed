"""The names of the metrics that the service exports.

What belongs here: the names, which rules and dashboards must read. What does not: expectations.
"""

from tsfm_pipeline.serving.metrics import Metrics


def exported() -> set[str]:
    """The name of every metric, without the suffixes of histograms."""
    lines = Metrics().text().decode().splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE")}
