"""`convert` on whole networks: those of `transformers`, of the examples, and residual ones."""

import copy
import pickle

import pytest
import torch

import batchnorm as bn
from batchnorm.nn import BatchNorm
from batchnorm.surgery.editing.step import step_of
from batchnorm.surgery.example import Example

from . import architectures
from .equal import same_states
from .examples import load
from .nets import distance, norms, randomized, reference, run

pytestmark = pytest.mark.slow


OURS, RESIDUAL = load("architectures"), load("resnet")


def resnet18():
    return RESIDUAL.ResNet(width=8, classes=5)


def resnet50():
    return RESIDUAL.ResNet(RESIDUAL.Bottleneck, (1, 2), width=8, classes=5)


def detr_backbone():
    """A ResNet whose normalizations `transformers` has frozen, as it does for DETR."""
    detr = pytest.importorskip("transformers.models.detr.modeling_detr")
    model = randomized(architectures.resnet())
    with torch.no_grad():
        detr.replace_batch_norm(model)
    return model


CASES = {
    "resnet18": (resnet18, (4, 3, 32, 32), 20, 9, 8),
    "resnet50": (resnet50, (4, 3, 32, 32), 12, 7, 3),
    "unet": (OURS.UNet, (4, 3, 16, 16), 10, 10, 0),
    "densenet": (OURS.DenseNet, (4, 3, 16, 16), 15, 15, 0),
    "generator": (OURS.Generator, (4, 16), 3, 3, 0),
    "resnet": (architectures.resnet, (4, 3, 32, 32), 15, 9, 4),
    "regnet": (architectures.regnet, (4, 3, 32, 32), 12, 7, 3),
    "mobilenet_v2": (architectures.mobilenet_v2, (2, 3, 64, 64), 52, 0, 0),
    "efficientnet": (architectures.efficientnet, (2, 3, 64, 64), 31, 21, 0),
    "levit": (architectures.levit, (2, 3, 64, 64), 28, 3, 0),
    "detr": (detr_backbone, (4, 3, 32, 32), 15, 9, 4),
}
"""Builder, shape of its input, normalizations, those that take in an activation alone, and those
that take in an addition."""

SLOW = {"mobilenet_v2", "efficientnet", "levit"}
PARAMS = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in CASES]


@pytest.mark.parametrize("case", PARAMS)
def test_converts_whole_networks_and_back(case):
    make, shape, num_norms, num_activations, num_additions = CASES[case]
    torch.manual_seed(0)
    model, x = randomized(make()), torch.randn(shape)
    before = copy.deepcopy(model.state_dict())
    fused, changes = bn.convert(model, x)
    assert len(changes) == num_norms
    assert sum("the addition" in c.action for c in changes) == num_additions
    alone = [c for c in changes if "with" in c.action and "the addition" not in c.action]
    assert len(alone) == num_activations
    assert all(isinstance(fused.get_submodule(c.name), BatchNorm) for c in changes)
    same_states(fused, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wanted = reference(model, x)
    assert distance(run(fused, x), wanted) < 4 * distance(run(model, x), wanted) + 2**-22
    back, _ = bn.convert(fused, to="torch")
    same_states(back, model)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(run(back, x), run(model, x), strict=True))


@pytest.mark.parametrize("case", ["resnet18", "resnet50", "resnet", "detr"])
def test_a_training_step_is_the_same(case):
    make, shape, *_ = CASES[case]
    torch.manual_seed(0)
    model, x = randomized(make()).double(), torch.randn(shape, dtype=torch.float64)
    fused = bn.convert(model, x).model
    wanted, found = (step_of(m, Example((x,), {})) for m in (model, fused))
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.gradients, wanted.gradients, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.buffers, wanted.buffers, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["resnet18", "resnet", "densenet"])
def test_rewritten_modules_can_be_copied_and_pickled(case):
    make, shape, *_ = CASES[case]
    torch.manual_seed(0)
    model, x = randomized(make()), torch.randn(shape)
    fused = bn.convert(model, x).model
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        same_states(other, model)
        assert torch.equal(run(other, x)[0], run(fused, x)[0])
        assert [type(m) for m in other.modules()] == [type(m) for m in fused.modules()]
        back, _ = bn.convert(other, to="torch")
        assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    for name, module in model.named_modules():
        is_kept = isinstance(fused.get_submodule(name), type(module))
        assert is_kept or isinstance(module, torch.nn.ReLU)


def test_converted_networks_can_be_folded_and_exported():
    torch.manual_seed(0)
    model, x = randomized(resnet18()), torch.randn(4, 3, 32, 32)
    fused = bn.convert(model, x).model
    folded, changes = bn.fold(fused, x)
    assert len(changes) == 20 and not norms(folded)
    assert torch.allclose(run(folded, x)[0], run(model, x)[0], rtol=1e-3, atol=1e-4)
    program = torch.export.export(fused.eval(), (x,))
    assert torch.allclose(program.module()(x), run(model, x)[0], rtol=1e-3, atol=1e-4)
