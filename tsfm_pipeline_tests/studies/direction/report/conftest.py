"""Share one report on a made market among the tests of what is shown of it.

What belongs here: the report. What does not: any expectation.
"""

import pytest

from tsfm_pipeline.studies.direction.report.model import DirectionReport
from tsfm_pipeline.studies.direction.report.numbers import direction_report_of
from tsfm_pipeline_tests.studies.direction.report import made


@pytest.fixture(scope="session")
def report() -> DirectionReport:
    return direction_report_of(made.evidence())
