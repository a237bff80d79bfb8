import warnings

import pytest
import torch


@pytest.fixture
def fresh_compiler():
    """Compiled code of one test does not count for the next one's limit of recompilations."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        # The compiler itself makes an instance of every autograd Function it meets.
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        yield
    torch._dynamo.reset()
