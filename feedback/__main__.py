"""`python -m feedback`: says that the command is `python -m labeling` now, and runs that."""

import runpy
import sys

print(
    "`python -m feedback` is `python -m labeling` now; the next version has the new name only",
    file=sys.stderr,
)
runpy.run_module("labeling", run_name="__main__", alter_sys=True)
