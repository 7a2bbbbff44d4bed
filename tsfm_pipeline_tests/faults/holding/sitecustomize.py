"""Make a run wait in the middle of a table until it is killed or released. Python imports this file
at start if the folder is on its path.

What belongs here: waiting. What does not: when, and until which file is there (the variables of
`cli.test_killed_runs`).
"""

import os
import time
from pathlib import Path

from tsfm_pipeline_tests.faults.moments import at_renaming


def wait() -> None:
    """Say that this process waits, and wait."""
    Path(os.environ["HELD"]).touch()
    while not Path(os.environ["LET_GO"]).exists():
        time.sleep(0.01)


at_renaming(os.environ["HOLD_PREFIX"], int(os.environ["HOLD_NUMBER"]), wait)
