"""The command that writes `tables.lock` from the records of tables and their makers.

What belongs here: the command. What does not: the content of the lock and its rules
(`catalogue.tables_lock`).

    python -m tsfm_pipeline.steps.lock_tables --equal-content TABLE ... --reason "why"
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.catalogue.tables_lock import (
    COMMAND,
    LOCK_FILE,
    code_digests,
    moved_tables,
    open_package,
    read_lock,
    updated,
)
from tsfm_pipeline.steps.makers import MAKERS, Maker

CODE: Mapping[str, tuple[str, ...]] = {table: maker.code for table, maker in MAKERS.items()}
"""By table: the functions whose code determines its content."""


def main(
    arguments: Sequence[str] | None = None,
    *,
    tables: Mapping[str, Table] = TABLES,
    makers: Mapping[str, Maker] = MAKERS,
    lock_file: Path | None = None,
    command: str = COMMAND,
) -> int:
    """Write `tables.lock`; return 1, after printing the reason, if that is not allowed.

    tables, makers, lock_file, command: those of a study, for a lock of its own.
    """
    parser = argparse.ArgumentParser(prog=command, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--equal-content",
        nargs="*",
        metavar="TABLE",
        help="declare that the content of these tables stays byte-identical although their code "
        "has changed; without names: all tables whose code has changed",
    )
    parser.add_argument("--reason", default="", help="reason for the declaration; kept in the lock")
    chosen = parser.parse_args(arguments)
    file = lock_file or LOCK_FILE
    lock, versions = read_lock(file), {name: table.version for name, table in tables.items()}
    code = {table: maker.code for table, maker in makers.items()}
    digests = code_digests(open_package(), code)
    declared = (
        moved_tables(lock, versions, digests)
        if chosen.equal_content == []
        else chosen.equal_content or ()
    )
    try:
        made = updated(lock, versions, digests, declared, chosen.reason, command)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    file.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    changed = sorted(
        table for table in made.keys() | lock.keys() if made.get(table) != lock.get(table)
    )
    print(f"{file.name}: {', '.join(changed) or 'nothing'} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
