"""What PyTorch's own tests are made of, imported so that the other tests of a process are unmoved.

`torch.testing._internal` is installed with torch, but the import alone takes seconds, lets
hypothesis try 10 examples instead of 100, freezes the flags of `torch.backends` and adds warning
filters.
"""

import warnings

import hypothesis
import torch

PROFILE = hypothesis.settings.get_current_profile_name()

try:
    with warnings.catch_warnings(), torch.backends.__allow_nonbracketed_mutation():
        from torch.testing._internal import (
            common_methods_invocations,
            common_modules,
            composite_compliance,
            optests,
        )
        from torch.testing._internal.common_utils import (
            gradcheck,
            gradgradcheck,
            noncontiguous_like,
        )
finally:
    hypothesis.settings.load_profile(PROFILE)

OPERATORS = {
    op.variant_test_name or "main": op
    for op in common_methods_invocations.op_db
    if op.name == "nn.functional.batch_norm"
}
"""Every variant of the functional."""

MODULES = {
    info.module_cls.__name__: info
    for info in common_modules.module_db
    if "BatchNorm" in info.module_cls.__name__
}
"""Every batch normalization layer; a new one is judged as soon as PyTorch has inputs for it."""

FORWARD_ERROR = common_modules.ModuleErrorEnum.FORWARD_ERROR

__all__ = [
    "FORWARD_ERROR",
    "MODULES",
    "OPERATORS",
    "PROFILE",
    "composite_compliance",
    "gradcheck",
    "gradgradcheck",
    "noncontiguous_like",
    "optests",
]
