"""Calls in a process of their own, whose memory goes with it.

What belongs here: what a promotion does with the model, so that a loop which runs for days keeps
neither the model nor a fleet's rows. What does not: experiments, whose every end is an outcome
(`process`).
"""

import pickle
import sys
import tempfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from tsfm_pipeline.studies.policy_search.experiment import end_with_parent
from tsfm_pipeline.studies.policy_search.process import environment, run_limited

HARD_SECONDS = 6 * 3600.0
"""A call that takes longer hangs. A look at the test tenants of a large fleet takes minutes."""


class ApartError(RuntimeError):
    """A call in a process of its own failed; the message says how."""


def call_apart(function: str, *arguments: Any, seconds: float = HARD_SECONDS) -> Any:
    """Call `module:function` in a new process and return its result; both must be picklable.

    The process has as many threads as this one, and is killed when this one ends or is interrupted.
    Raises `ApartError` for whatever the function raises, and if its process is killed or takes
    longer than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="policy-search-") as folder:
        job, out, log = (Path(folder, name) for name in ("job", "out", "log"))
        job.write_bytes(pickle.dumps((function, arguments)))
        command = [sys.executable, "-P", "-m", __name__, str(job), str(out)]
        ended = run_limited(command, log, seconds, environment())
        if out.exists():
            return pickle.loads(out.read_bytes())
        said = log.read_text(encoding="utf-8", errors="replace").strip()
    how = "took too long" if ended.overran else f"ended with exit status {ended.returncode}"
    raise ApartError(f"{function} {how}: {said.rpartition(chr(10))[2] or 'it printed nothing'}")


def main(job: Path, out: Path) -> None:
    """Make the call of a file and write its result to another."""
    end_with_parent()
    function, arguments = pickle.loads(job.read_bytes())
    result = resolve_name(function)(*arguments)
    written = out.with_suffix(".part")
    written.write_bytes(pickle.dumps(result))
    written.replace(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
