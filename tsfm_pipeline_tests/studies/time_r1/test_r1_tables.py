"""Test the records of the study's tables: their lock and their codebook.

What belongs here: the records. What does not: the content of the tables (`test_r1_definitions`).
"""

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.studies.time_r1.codebook import codebook_markdown
from tsfm_pipeline.studies.time_r1.lock_tables import COMMAND, LOCK_FILE
from tsfm_pipeline.studies.time_r1.tables import MAKERS, TABLES
from tsfm_pipeline_tests.studies.records import require_codebook, require_locked

PAGE = PROJECT_ROOT / "docs" / "time-r1-tables.md"


@pytest.mark.heavy
def test_the_lock_is_up_to_date() -> None:
    require_locked(TABLES, MAKERS, LOCK_FILE, COMMAND)


def test_the_codebook_is_the_generated_one_and_explains_every_column() -> None:
    command = "python -m tsfm_pipeline.studies.time_r1.codebook > docs/time-r1-tables.md"
    require_codebook(TABLES, codebook_markdown(), PAGE, command)
