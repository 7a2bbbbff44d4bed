"""Share the reports on made evidence among the tests of what is shown of them.

What belongs here: reports and a page. What does not: any expectation.
"""

import pytest

from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.numbers import slow_thinking_report_of
from tsfm_pipeline.studies.time_r1.report.page import render
from tsfm_pipeline_tests.studies.time_r1.report import made


@pytest.fixture(scope="session")
def won() -> SlowThinkingReport:
    return slow_thinking_report_of(made.evidence(made.WIN))


@pytest.fixture(scope="session")
def null() -> SlowThinkingReport:
    return slow_thinking_report_of(made.evidence(made.NULL))


@pytest.fixture(scope="session")
def lost() -> SlowThinkingReport:
    return slow_thinking_report_of(made.evidence(made.LOSS))


@pytest.fixture(scope="session")
def page(won: SlowThinkingReport) -> str:
    return render(won)
