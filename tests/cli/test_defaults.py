"""The command cannot import the design for its defaults, as --help must not wait for torch."""

import inspect

from batchnorm.cli import study as command
from batchnorm.study import make_design


def test_the_command_and_the_design_have_the_same_defaults():
    said = inspect.signature(command.command).parameters
    meant = inspect.signature(make_design).parameters
    shared = set(said) & set(meant)
    assert shared == {"model", "data", "seeds", "inputs", "steps", "batch_size", "depth", "width"}
    assert {n: said[n].default for n in shared} == {n: meant[n].default for n in shared}
