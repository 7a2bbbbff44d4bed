"""The page's section that explains a few tenants.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
which tenants it explains (`numbers`).
"""

from collections.abc import Sequence

from tsfm_pipeline.reports.explain import words
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.layout import Section


def explanations_answer(explanations: Sequence[TenantExplanation]) -> Answer:
    """Say which tenants are explained, and where the others are."""
    names = ", ".join(each.tenant_id for each in explanations)
    return Answer(
        "unknown",
        f"Explained here are the tenants whose worst misses cost most: {names}. "
        f"`tsfm-pipeline explain {explanations[0].fleet} TENANT` explains any other.",
    )


def explanations_section(section: Section, explanations: Sequence[TenantExplanation]) -> None:
    """Show a few tenants, each folded: what to reserve, on which evidence, and its last misses."""
    section.answer = explanations_answer(explanations).sentence
    for each in explanations:
        section.points.append((each.tenant_id, words.answer(each)))
        section.fold(*(table(each) for table in words.TABLES))


def tenant_section(explanation: TenantExplanation) -> Section:
    """Return the section of the page on one tenant alone."""
    section = Section(
        "tenant", explanation.tenant_id, f"Why this much for {explanation.tenant_id}?"
    )
    section.answer = words.answer(explanation)
    section.points += words.points(explanation)
    section.show(*(table(explanation) for table in words.TABLES))
    return section
