"""The command that writes the study's own `tables.lock`.

What belongs here: which tables, makers and file. What does not: the rules of a lock
(`catalogue.tables_lock`), and the command's options (`steps.lock_tables`).

    python -m tsfm_pipeline.studies.time_r1.lock_tables
"""

import sys
from functools import partial
from pathlib import Path

from tsfm_pipeline.steps import lock_tables
from tsfm_pipeline.studies.time_r1.tables import MAKERS, TABLES

LOCK_FILE = Path(__file__).with_name("tables.lock")
COMMAND = "make studies-lock STUDY=time_r1"

main = partial(lock_tables.main, tables=TABLES, makers=MAKERS, lock_file=LOCK_FILE, command=COMMAND)

if __name__ == "__main__":
    sys.exit(main())
