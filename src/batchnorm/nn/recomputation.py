"""Whether a forward is run for the second time, and what it then must not compute anew.

Activation checkpointing and reversible networks run a forward again to have its activations for the
backward pass; that happens inside the backward pass. A compiled graph has to ask each time it runs,
so what is asked here is an operation, which no compiler looks into.
"""

import itertools
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .. import checks
from ..compose import Correct, Pair
from ..errors import StatisticsError
from ..ops.library import define
from .latest import REMEMBERED, Latest


def is_recomputation() -> bool:
    """Say whether this code runs inside a backward pass; never true while compiling."""
    return not torch.compiler.is_compiling() and _in_backward()


def is_recomputation_of(like: Tensor) -> Tensor:
    """Ask the same in a compiled graph.

    Args:
        like: A tensor on the device of the answer.

    Returns:
        A tensor of one bool.
    """
    answer: Tensor = torch.ops.batchnorm.is_recomputation.default(like)
    return answer


class Memory(Latest[Pair, Pair]):
    """The latest corrections of a layer, so that a recomputation has those of the first forward.

    By then the running statistics, of which they are made, have moved on. A forward is known by
    the moments of its batch, mean and variance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_numbers)
        _memories[self.number] = self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy remembers nothing."""
        return Memory, ()

    def keeping(self, correct: Correct) -> Correct:
        """Make a correction that is remembered, or, in a recomputation, recalled."""

        def kept(mean: Tensor, var: Tensor) -> Pair:
            r, d = correct(mean, var)
            if not (torch.compiler.is_compiling() or checks.can_wait(mean)):
                # Tensors of a function transform must not outlive it.
                if is_recomputation():
                    raise StatisticsError(
                        "renorm cannot be recomputed by activation checkpointing around a "
                        "function transform such as vmap; put the checkpoint inside of it, or "
                        "leave this layer out"
                    )
                return r, d
            pair: Pair = torch.ops.batchnorm.remember.default(mean, var, r, d, self.number)
            return pair

        return kept

    def recall(self, batch: Pair) -> Pair | None:
        """Find what the forward of this batch has used; None where there was none.

        Raises:
            StatisticsError: It has been forgotten.
        """
        # A compiler may choose another order of summation for the second time.
        correction = self.find(
            lambda known: _equal(known, batch), lambda known: _alike(known, batch)
        )
        if correction is None and self.forgotten:
            raise StatisticsError(
                f"renorm remembers {REMEMBERED} forward passes of a layer; the one to be "
                f"recomputed by activation checkpointing is older. Call backward more often, "
                f"or leave this layer out of the checkpoint"
            )
        return correction


def _equal(known: Pair, new: Pair) -> bool:
    if known[0].shape != new[0].shape:
        return False
    return all(
        bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in zip(known, new, strict=True)
    )


def _alike(known: Pair, new: Pair) -> bool:
    """Equal up to rounding."""
    if known[0].shape != new[0].shape:
        return False
    (mean, var), (new_mean, new_var) = known, new
    near = (new_mean - mean).abs() <= 1e-5 * (mean.abs() + var.sqrt())
    near &= (new_var - var).abs() <= 1e-4 * var
    return bool((near | (mean.isnan() & new_mean.isnan())).all())


_numbers = itertools.count()
_memories: WeakValueDictionary[int, Memory] = WeakValueDictionary()
"""By number: what an operation can be given."""


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _is_recomputation(like: Tensor) -> Tensor:
    return torch.full((), _in_backward(), dtype=torch.bool, device=like.device)


def _remember(mean: Tensor, var: Tensor, r: Tensor, d: Tensor, memory: int) -> Pair:
    remembered = _memories.get(memory)
    if remembered is not None and _in_backward():
        r, d = remembered.recall((mean, var)) or (r, d)
    elif remembered is not None:
        # Clones: a compiled graph uses its memory again.
        remembered.record((mean.clone(), var.clone()), (r.clone(), d.clone()))
    return r.clone(), d.clone()


define(
    "is_recomputation(Tensor like) -> Tensor",
    _is_recomputation,
    lambda like: like.new_empty((), dtype=torch.bool),
    "CompositeExplicitAutograd",
)
define(
    "remember(Tensor mean, Tensor var, Tensor r, Tensor d, int memory) -> (Tensor, Tensor)",
    _remember,
    lambda mean, var, r, d, memory: (torch.empty_like(r), torch.empty_like(d)),
    "CompositeExplicitAutograd",
)
