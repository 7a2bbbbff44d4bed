"""Share one report on a made market and its page among the tests of what is shown of it.

What belongs here: the report and its page. What does not: any expectation.
"""

import pytest

from tsfm_pipeline.studies.direction.report.model import DirectionReport
from tsfm_pipeline.studies.direction.report.numbers import direction_report_of
from tsfm_pipeline.studies.direction.report.page import render
from tsfm_pipeline_tests.studies.direction.report import made


@pytest.fixture(scope="session")
def report() -> DirectionReport:
    return direction_report_of(made.evidence())


@pytest.fixture(scope="session")
def page(report: DirectionReport) -> str:
    return render(report)
