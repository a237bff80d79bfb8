"""Whether a forward is run for the second time, to have its activations for the backward pass.

That is what activation checkpointing and reversible networks do, and it happens inside a backward
pass. A compiled graph has to ask anew each time it runs, so there the question is an operation.
"""

import torch
from torch import Tensor

_library = torch.library.Library("batchnorm", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "is_recomputation(Tensor like) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)


def is_recomputation() -> bool:
    """Say whether this code runs inside a backward pass; never true while compiling."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def is_recomputation_of(like: Tensor) -> Tensor:
    """Put the question into a compiled graph.

    Args:
        like: A tensor on the device of the answer.

    Returns:
        A tensor of one bool.
    """
    answer: Tensor = torch.ops.batchnorm.is_recomputation.default(like)
    return answer


def _answer(like: Tensor) -> Tensor:
    answer = torch._C._current_graph_task_id() != -1
    return torch.full((), answer, dtype=torch.bool, device=like.device)


def _fake_answer(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.bool)


_library.impl(  # type: ignore[no-untyped-call]
    "is_recomputation", _answer, "CompositeExplicitAutograd"
)
torch.library.register_fake("batchnorm::is_recomputation", _fake_answer, lib=_library)
