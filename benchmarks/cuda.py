"""All that only a GPU can tell, in one command of at most eight minutes: `python
benchmarks/cuda.py`.

Only the entry point belongs here; `gpu` has the rows, their options and what is checked without a
GPU.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    from gpu import main

    raise SystemExit(main())

# NVIDIA's package has this name too, and torch looks for it: to every benchmark in this folder,
# this file is that package.
__path__ = [str(found) for folder in sys.path if (found := Path(folder) / "cuda").is_dir()]
