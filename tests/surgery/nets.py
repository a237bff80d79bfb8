"""What the tests of surgery share: random statistics, and float64 outputs to compare with."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from batchnorm.surgery.copying import in_evaluation


def randomized(model, seed=0):
    """The model with statistics and affine parameters far from where they start."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.data.copy_(low + (high - low) * values)

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if module.running_mean is not None:
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
            if module.weight is not None:
                uniform(module.weight, 0.5, 1.5)
            if module.bias is not None:
                uniform(module.bias, -0.5, 0.5)
    return model


def run(model, *inputs, **kwargs):
    """All tensors that the model returns in evaluation, without touching it or the inputs."""
    scratch = in_evaluation(model)
    inputs, kwargs = pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (inputs, kwargs)
    )
    with torch.no_grad():
        output = scratch(*inputs, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def wide(tree):
    """Tensors, in any nest, as float64."""
    return pytree.tree_map(
        lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, tree
    )


def reference(model, *inputs, **kwargs):
    """The outputs in float64, of the model as it is."""
    inputs, kwargs = wide((inputs, kwargs))
    return run(copy.deepcopy(model).double(), *inputs, **kwargs)


def distance(found, wanted):
    """Largest difference of two lists of tensors, relative to the largest value wanted."""
    assert [x.shape for x in found] == [x.shape for x in wanted]
    assert found
    size = max(float(x.abs().max()) for x in wanted)
    apart = max(float((a.double() - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    return apart / size


def norms(model):
    """Names of the batch normalizations in a model."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


class Net(nn.Module):
    """Modules a, b, c ... called by a function, which stands for the forward of a user's model."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._run = forward

    def forward(self, *args, **kwargs):
        return self._run(self, *args, **kwargs)


class OneInput(Net):
    """The same, with a signature that `torch.fx` can read."""

    def forward(self, x):
        return self._run(self, x)
