"""For all tests: one thread each, as several test processes share the processors."""

import os

import pytest
import torch

# Before anything imports Triton: where there is no GPU, its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from batchnorm.ops import native

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU or the compiled kernels where there are none.

    Where the compiled kernels must be, fail.
    """
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and PyTorch finds none")
    if item.get_closest_marker("native") is None or native.library() is not None:
        return
    if "BATCHNORM_REQUIRE_NATIVE" in os.environ:
        pytest.fail(f"the compiled kernels are missing: {native.reason()}")
    pytest.skip(f"needs the compiled kernels: {native.reason()}")
