"""Share one simulated study among the tests of what is shown of it.

What belongs here: the study. What does not: any expectation.
"""

from typing import NamedTuple

import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.report import importance
from tsfm_pipeline.studies.policy_search.report.model import PolicySearchReport
from tsfm_pipeline.studies.policy_search.report.numbers import policy_search_report
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick
from tsfm_pipeline_tests.studies.policy_search import simulated


class Study(NamedTuple):
    """A data folder with a ledger and promotions, its yardstick, and the report on both."""

    settings: Settings
    yardstick: Yardstick
    report: PolicySearchReport


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    settings = Settings(data_dir=tmp_path_factory.mktemp("study") / "data", policy_file="none")
    yardstick = simulated.ran(settings, 90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "N_FORESTS", 8)  # enough to be shown
        return Study(settings, yardstick, policy_search_report(settings, yardstick))
