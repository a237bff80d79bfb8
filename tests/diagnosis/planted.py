"""The networks of `examples/`, with a mistake and without."""

import importlib
import sys
from pathlib import Path

import batchnorm as bn

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """Import a file of the examples, which import each other as scripts do."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


healthy = example("healthy")
example("ported")  # puts its own into the list
FAULTS = {fault.name: fault for fault in example("faults").FAULTS}


def diagnosed(case):
    """Diagnose a case with all that is known of it."""
    return bn.diagnose(
        case.model,
        case.batches,
        healthy.cross_entropy,
        optimizer=case.optimizer,
        replicas=case.replicas,
        progress=False,
    )


def layers_found(diagnosis, rule):
    """The layers that a rule names."""
    return tuple(f.layer for f in diagnosis.findings if f.rule == rule)


def alarms(diagnosis):
    """Everything above information."""
    return [str(f) for f in diagnosis.findings if f.severity != "information"]
