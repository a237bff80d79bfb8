"""What `fold` keeps: names, modes, dtype, requires_grad, hooks, parametrizations, sharing."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import batchnorm as bn
from batchnorm.errors import SurgeryError

from .nets import norms, randomized, run
from .test_fold import images

X = images(2, 3, 6, 6)


def net():
    """Two pairs to fold, and around them what must stay."""
    tail = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), tail, nn.Conv2d(4, 4, 1), nn.Tanh()
        )
    )


def check_names(model, new):
    assert [n for n, _ in model.named_modules()] == [n for n, _ in new.named_modules()]
    gone = {f"{n}.{t}" for n in norms(model) for t in model.get_submodule(n).state_dict()}
    assert set(new.state_dict()) == set(model.state_dict()) - gone | {"0.bias"}


def check_modes(model, new):
    modes = [module.training for module in new.modules()]
    assert modes == [module.training for module in model.modules()]
    assert len(set(modes)) == 2


def check_dtypes(model, new):
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}


def check_requires_grad(model, new):
    asked = {name: p.requires_grad for name, p in new.named_parameters()}
    kept = {name: p.requires_grad for name, p in model.named_parameters() if name in asked}
    assert not asked["2.0.weight"] and asked["3.weight"] and asked == kept | {"0.bias": True}


def check_hooks(model, new):
    assert len(new[4]._forward_hooks) == len(new[2]._forward_pre_hooks) == 1


def check_parametrizations(model, new):
    assert nn.utils.parametrize.is_parametrized(new[3], "weight")
    assert torch.equal(new[3].parametrizations.weight.original1, model[3].weight_v())


def check_sharing(model, new):
    assert new[3] is new[5]
    assert new[3].weight is new[6].weight
    assert new[0].weight is not new[7].weight
    assert torch.equal(new[7].weight, model[7].weight)


def check_memory_format(model, new):
    assert new[2][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not new[2][0].weight.is_contiguous()


def in_eval(model):
    model[2].eval()


def frozen(model):
    model[2][0].requires_grad_(False)


def hooked(model):
    model[4].register_forward_hook(lambda module, args, output: None)
    model[2].register_forward_pre_hook(lambda module, args: None)


def parametrized(model):
    parametrizations.weight_norm(model[3])
    model[3].weight_v = lambda: model[3].parametrizations.weight.original1


def shared(model):
    model.append(model[3]).append(nn.Conv2d(4, 4, 1)).append(nn.Conv2d(4, 3, 3))
    model[6].weight = model[3].weight
    model[7] = nn.ConvTranspose2d(4, 3, 3, bias=False)
    model[7].weight = model[0].weight


PROPERTIES = {
    "names": (lambda model: None, check_names),
    "modes": (in_eval, check_modes),
    "dtype": (lambda model: model.bfloat16(), check_dtypes),
    "requires_grad": (frozen, check_requires_grad),
    "hooks": (hooked, check_hooks),
    "parametrizations": (parametrized, check_parametrizations),
    "sharing": (shared, check_sharing),
    "memory format": (
        lambda model: model.to(memory_format=torch.channels_last),
        check_memory_format,
    ),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_fold_preserves(name):
    prepare, check = PROPERTIES[name]
    torch.manual_seed(0)
    model = net()
    prepare(model)
    x = X.to(next(model.parameters()).dtype)
    folded, changes = bn.fold(model, x)
    assert len(changes) == 2 and not norms(folded)
    check(model, folded)


def test_a_shared_normalization_goes_under_all_its_names():
    norm = nn.BatchNorm2d(3)
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm))
    folded, _ = bn.fold(model, X)
    assert folded[1] is folded[3] and isinstance(folded[1], nn.Identity)
    assert torch.allclose(run(folded, X)[0], run(model, X)[0], atol=1e-5)


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model)


@pytest.mark.parametrize("wrap", [scripted, torch.compile], ids=["script", "compile"])
def test_compiled_parts_are_refused(wrap):
    model = nn.Sequential(wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()))
    with pytest.raises(SurgeryError, match="'0' is compiled; expected a model of Python"):
        bn.fold(model, X)


def test_lazy_parts_are_refused():
    with pytest.raises(SurgeryError, match="1: lazy"):
        bn.fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d()), X)
