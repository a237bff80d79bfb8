"""Modules made from a forward, which `torch.fx` can follow."""

from torch import nn

from .nets import randomized


class Traceable(nn.Module):
    """A module whose forward `torch.fx` can follow."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def traceable(forward, **modules):
    cls = type("Block", (Traceable,), {"forward": forward})
    modules = {"conv": nn.Conv2d(3, 3, 3, padding=1), "norm": nn.BatchNorm2d(3)} | modules
    return randomized(cls(**modules))
