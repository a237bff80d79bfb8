"""What docs/others.md says about Opacus, beside what is done here."""

import pytest
import torch
from torch import nn

import batchnorm as bn

ModuleValidator = pytest.importorskip("opacus.validators").ModuleValidator


def test_fix_drops_the_affine_parameters():
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32))
    nn.init.constant_(model[1].weight, 3.0)
    nn.init.constant_(model[1].bias, 5.0)
    theirs = ModuleValidator.fix(model)
    ours, _ = bn.convert(model, torch.randn(2, 3, 4, 4), to="group")
    assert [type(m[1]) for m in (theirs, ours)] == [nn.GroupNorm, nn.GroupNorm]
    assert set(theirs[1].weight.tolist()) == {1.0}
    assert set(theirs[1].bias.tolist()) == {0.0}
    assert set(ours[1].weight.tolist()) == {3.0}
    assert set(ours[1].bias.tolist()) == {5.0}


class Subclass(nn.BatchNorm2d):
    """As those with an activation are."""


@pytest.mark.parametrize(
    "layer", [Subclass(4), nn.BatchNorm2d(4, affine=False)], ids=["subclass", "affine=False"]
)
def test_validate_passes_batch_normalization(layer):
    """Statistics of a batch are shared by its samples, whatever the class or the parameters."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    assert ModuleValidator.validate(model, strict=False) == []
    assert list(bn.diagnose(model, [torch.randn(4, 3, 5, 5)] * 2).quantities) == ["1"]
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert len(ModuleValidator.validate(plain, strict=False)) == 1
