"""What holds for the records of every study's tables: their lock, and their codebook.

What belongs here: checks that the studies' tests share. What does not: the tables of one study.
"""

from collections.abc import Mapping
from pathlib import Path

from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.tables_lock import code_digests, open_package, problems, read_lock
from tsfm_pipeline.reports.page.codebook import column_meaning, shown_columns
from tsfm_pipeline.steps.makers import Maker


def require_locked(
    tables: Mapping[str, Table], makers: Mapping[str, Maker], lock_file: Path, command: str
) -> None:
    versions = {name: table.version for name, table in tables.items()}
    code = {table: maker.code for table, maker in makers.items()}
    wrong = problems(read_lock(lock_file), versions, code_digests(open_package(), code), command)
    assert not wrong, "\n".join(f"{table}: {sentence}" for table, sentence in wrong.items())


def require_codebook(tables: Mapping[str, Table], markdown: str, page: Path, command: str) -> None:
    assert page.read_text(encoding="utf-8") == markdown, command
    for table in tables.values():
        assert f"#### {table.name}\n\nOne row per {table.row}." in markdown
        for name, column in shown_columns(table).items():
            assert column_meaning(column)[2], name
