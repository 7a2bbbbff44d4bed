"""Measure everything that needs a GPU in one command of at most eight minutes: `python
benchmarks/cuda.py`.

Only the entry point belongs here. The rows, their options and the checks that need no GPU are in
`gpu`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    from gpu import main

    raise SystemExit(main())

# NVIDIA's package is also named `cuda`, and torch imports it. Every benchmark in this folder gets
# this file instead, so it must lead on to the modules of that package.
__path__ = [str(package) for folder in sys.path if (package := Path(folder) / "cuda").is_dir()]
