"""Frozen normalizations of other libraries, told by what they hold and what they compute.

Detection networks bring classes of their own, often called `FrozenBatchNorm2d`: the four tensors of
batch normalization as buffers, and a forward that scales and shifts. Their names and where they
keep eps differ, so they are asked: a copy is run on random numbers, in float64, and watched. One
that runs nothing but arithmetic is an algebraic function of its input; if that agrees with batch
normalization at random points, it is that.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..copying import copy_model
from ..editing.replace import has_hooks, keepers, replace_module, set_tensor
from ..example import Example
from ..graph.watch import watch

_STATISTICS = {"running_mean", "running_var"}
_KNOWN = _STATISTICS | {"weight", "bias", "num_batches_tracked"}

_ARITHMETIC = frozenset(
    (
        "_native_batch_norm_legit_no_training",
        "_to_copy",
        "_unsafe_view",
        "add",
        "addcmul",
        "clone",
        "detach",
        "div",
        "expand",
        "mul",
        "native_batch_norm",
        "neg",
        "pow",
        "reciprocal",
        "rsqrt",
        "select",
        "slice",
        "sqrt",
        "sub",
        "unsqueeze",
        "view",
    )
)


class FrozenBatchNorm(_BatchNorm):
    """What stands for a frozen normalization while a model is being folded.

    Args:
        original: The module it stands for, whose tensors it shares.
        eps: As the original has it.
    """

    def __init__(self, original: nn.Module, eps: float) -> None:
        tensors = tensors_of(original)
        super().__init__(tensors["running_mean"].numel(), eps, affine=False, device="meta")
        for name in tensors:
            delattr(self, name)
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.original = (original,)  # in a tuple, so that it is no module of the tree

    def _check_input_dim(self, input: Tensor) -> None:
        """Take what the original takes."""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers."""
    own = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}


def looks_frozen(module: nn.Module) -> bool:
    """Whether a module of no class of PyTorch's or ours holds a running mean and variance."""
    return not isinstance(module, _NormBase) and set(tensors_of(module)) >= _STATISTICS


def stand_in(model: nn.Module) -> None:
    """Put `FrozenBatchNorm` in the place of what provably computes the same.

    Args:
        model: A copy that nobody else has.
    """
    for name, module in list(model.named_modules()):
        if not (name and looks_frozen(module)) or has_hooks(module):
            continue
        eps = None if any(keepers(model, module)) else eps_of(module)
        if eps is not None:
            replace_module(model, name, FrozenBatchNorm(module, eps))


def put_back(model: nn.Module) -> None:
    """Give those that still have a stand-in their place back."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FrozenBatchNorm):
            replace_module(model, name, module.original[0])


def eps_of(module: nn.Module) -> float | None:
    """Eps of a frozen normalization; None if it is none.

    With a variance of 0, a mean of 0 and a weight of 1 it gives x / √eps. Then, with random
    tensors, it must give what the formula does.

    Example:
        >>> eps_of(nn.BatchNorm2d(3, eps=0.25).eval())
        0.25
    """
    own = tensors_of(module)
    vectors = {name: own[name] for name in own if name != "num_batches_tracked"}
    shapes = {tuple(tensor.shape) for tensor in vectors.values()}
    if set(own) - _KNOWN or len(shapes) != 1 or any(module.children()):
        return None
    ((num_features, *more),) = shapes
    if more:
        return None
    try:
        copy = copy_model(module).to("cpu", torch.float64)
        sizes = [(4, num_features, *[3] * spatial) for spatial in range(4)]
        found = {_eps_on(copy, set(vectors), size) for size in sizes} - {None}
    except Exception:  # whatever its forward raises, it cannot be told
        return None
    return found.pop() if len(found) == 1 else None


def _eps_on(module: nn.Module, names: set[str], size: tuple[int, ...]) -> float | None:
    generator = torch.Generator().manual_seed(0)
    plain = {"running_mean": 0.0, "running_var": 0.0, "weight": 1.0, "bias": 0.0}
    _set(module, {n: torch.full((size[1],), plain[n], dtype=torch.float64) for n in names})
    try:
        y = module(torch.ones(size, dtype=torch.float64))
    except (RuntimeError, ValueError):  # another number of axes
        return None
    if not isinstance(y, Tensor) or y.shape != size:
        return None
    eps = float(y.flatten()[0]) ** -2
    random = {n: torch.rand(size[1], generator=generator, dtype=torch.float64) - 0.5 for n in names}
    random["running_var"] += 1
    _set(module, random)
    x = 9 * torch.randn(size, generator=generator, dtype=torch.float64)
    graph = watch(module, Example((x,), {}))
    operators = {step.op.overloadpacket.__name__ for v in graph.values for step in v.readers}
    if operators - _ARITHMETIC:
        return None
    along = [1, -1, *[1] * (len(size) - 2)]
    mean, var, weight, bias = (random.get(n, torch.tensor(plain[n])).view(along) for n in plain)
    wanted = (x - mean) / (var + eps).sqrt() * weight + bias
    return eps if torch.allclose(module(x.clone()), wanted, rtol=1e-10, atol=1e-10) else None


def _set(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        set_tensor(module, name, tensor)
