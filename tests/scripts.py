"""The scripts in benchmarks/, as modules."""

import importlib
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    """Import a script as it imports its neighbors: by the names they have in its folder.

    Only while it is imported: other tests have modules of the same names.
    """
    before = sys.modules.pop(name, None)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
