"""The page's section on latency.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figures (`figures`).
"""

from tsfm_pipeline.reports.latency import words
from tsfm_pipeline.reports.latency.figures import latency_figure
from tsfm_pipeline.reports.latency.model import LatencyReport
from tsfm_pipeline.reports.shared.layout import Section


def latency(section: Section, report: LatencyReport) -> None:
    """Show the time that each number of configurations takes, and the loss at each number."""
    section.answer = words.latency_answer(report).sentence
    section.draw(
        latency_figure(report),
        "K: how many configurations a request may choose among. Left: one request from history "
        "array to decision, warm, with the budget "
        "and the interval of p95. Right: what the same engine's answers cost, with 95 % "
        "intervals; the filled point is the portfolio, "
        "beyond it there is no experience of other tenants.",
    )
    section.fold(words.latency(report))
