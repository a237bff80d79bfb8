"""For all tests: one thread each, as several test processes share the processors."""

import os

import pytest
import torch

from batchnorm.ops import native

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the compiled kernels where there are none, or, where they must be, fail."""
    if item.get_closest_marker("native") is None or native.library() is not None:
        return
    if "BATCHNORM_REQUIRE_NATIVE" in os.environ:
        pytest.fail(f"the compiled kernels are missing: {native.reason()}")
    pytest.skip(f"needs the compiled kernels: {native.reason()}")
