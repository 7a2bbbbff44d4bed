"""Test that the lock of the study's tables is up to date, and that it sees the code behind them.

What belongs here: the study's lock. What does not: the rules of any lock
(`catalogue.test_tables_lock`).
"""

from functools import cache

import pytest

from tsfm_pipeline.catalogue.source_names import read_sources
from tsfm_pipeline.catalogue.tables_lock import (
    PACKAGE,
    code_digests,
    open_package,
    problems,
    read_lock,
)
from tsfm_pipeline.studies.policy_search.lock_tables import COMMAND, LOCK_FILE
from tsfm_pipeline.studies.policy_search.tables import EVIDENCE, FORECASTS, MAKERS, TABLES

pytestmark = pytest.mark.heavy

CODE = {table: maker.code for table, maker in MAKERS.items()}
MAKING = "tsfm_pipeline/studies/policy_search/making.py"


@cache
def digests() -> dict[str, str]:
    return code_digests(open_package(), CODE)


def test_the_lock_is_up_to_date() -> None:
    versions = {name: table.version for name, table in TABLES.items()}
    wrong = problems(read_lock(LOCK_FILE), versions, digests(), COMMAND)
    assert not wrong, "\n".join(f"{table}: {sentence}" for table, sentence in wrong.items())


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        ("np.argsort((*fleet.offsets, *further))", "np.argsort(further)", {EVIDENCE}),
        ('columns["spread"] = level_unit', 'columns["spread"] = -level_unit', {FORECASTS}),
        ("% MAX_ORIGINS", "// MAX_ORIGINS", {"request_features"}),
    ],
)
def test_an_edit_moves_the_tables_that_it_changes(old: str, new: str, moved: set[str]) -> None:
    sources = read_sources(PACKAGE)
    assert old in sources[MAKING]
    edited = sources | {MAKING: sources[MAKING].replace(old, new)}
    after = code_digests(open_package(edited), CODE)
    assert {table for table in TABLES if after[table] != digests()[table]} == moved
