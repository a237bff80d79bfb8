"""What every verb that changes the structure of a model must keep, in one table.

A verb is one row of `VERBS`. What is kept is asked of all modules, parameters, and buffers that the
new model has under the name they had; each property is prepared in parts that no verb changes, and
around those that each does.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import batchnorm as bn

from .nets import randomized

pytestmark = pytest.mark.slow


VERBS = {
    "convert": lambda model, x: bn.convert(model, x, to="batchnorm").model,
    "fused": lambda model, x: bn.convert(model, x, to="fused").model,
    "fold": lambda model, x: bn.fold(model, x).model,
    "insert": lambda model, x: bn.insert(model, x),
}
ON_META = {"insert"}
"""Verbs that need not run the model: it may have no memory."""


def net(**factory):
    """A normalization to fold or convert, an activation to insert one before, and a tail."""

    def conv(size, bias=True):
        return nn.Conv2d(4, 4, size, bias=bias, **factory)

    head = nn.Sequential(conv(3, bias=False), nn.BatchNorm2d(4, **factory), nn.ReLU())
    tail = nn.Sequential(nn.Dropout(), conv(1), nn.Dropout(), conv(1))
    return nn.Sequential(head, nn.Sequential(conv(3), nn.Tanh()), tail)


def in_two_modes(model):
    model.train()[0].eval()
    model[1].eval()
    model[2][0].eval()


def frozen(model):
    model[2][1].requires_grad_(False)
    model[1][0].weight.requires_grad_(False)
    model[0][0].requires_grad_(False)


def noted(module, args, output=None):
    """Do nothing, but be there."""


def hooked(model):
    model[2][1].register_forward_hook(noted)
    model[2].register_forward_pre_hook(noted)
    model[2][3].register_full_backward_hook(noted)
    model.register_forward_hook(noted)


def parametrized(model):
    parametrizations.weight_norm(model[2][1])
    parametrizations.orthogonal(model[2][3])


def shared(model):
    model[2].append(model[2][1])
    model[2][3].weight = model[2][1].weight
    model[2].append(model[2][0])


def both(model, new):
    """Modules that both have under a name, the name of each once for every place it is at."""
    old, found = (dict(m.named_modules(remove_duplicate=False)) for m in (model, new))
    return [(name, old[name], found[name]) for name in old if name in found]


def tensors(model, new):
    """Parameters and buffers that both have."""
    old, found = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (model, new))
    common = [name for name in old if name in found]
    assert {"1.0.weight", "0.0.weight"} <= set(common)
    return [(name, old[name], found[name]) for name in common]


def check_names(model, new):
    names = [name for name, _ in model.named_modules()]
    assert [name for name, _ in new.named_modules() if name in names] == names


def check_training(model, new):
    assert all(old.training is found.training for _, old, found in both(model, new))
    assert {m.training for m in new.modules()} == {True, False}
    for name, module in new.named_modules():  # also what is new is in the mode of its place
        parent = new.get_submodule(name.rpartition(".")[0])
        assert name in dict(model.named_modules()) or module.training is parent.training


def check_dtype(model, new):
    buffers = {name for name, _ in model.named_buffers()}
    for name, old, found in tensors(model, new):  # our layers keep statistics in float32 at least
        wider = torch.promote_types(old.dtype, torch.float32) if name in buffers else old.dtype
        assert found.dtype in (old.dtype, wider)
    assert {p.dtype for p in new.parameters()} == {p.dtype for p in model.parameters()}


def check_device(model, new):
    own = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    assert {tensor.device for tensor in (*new.parameters(), *new.buffers())} == own


def check_requires_grad(model, new):
    pairs = tensors(model, new)
    assert all(old.requires_grad is found.requires_grad for _, old, found in pairs)
    assert {p.requires_grad for p in new.parameters()} == {True, False}


def hooks(module):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [list(getattr(module, kind).values()) for kind in kinds]


def check_hooks(model, new):
    assert all(hooks(old) == hooks(found) for _, old, found in both(model, new))
    assert sum(len(kind) for module in new.modules() for kind in hooks(module)) == 4


def check_parametrizations(model, new):
    for name in ("2.1", "2.3"):
        old, found = model.get_submodule(name), new.get_submodule(name)
        assert parametrize.is_parametrized(found, "weight")
        originals = [dict(m.parametrizations.weight.named_parameters()) for m in (old, found)]
        assert list(originals[0]) == list(originals[1]) != []
        for key, tensor in originals[0].items():
            assert torch.equal(tensor, originals[1][key])


def check_sharing(model, new):
    pairs = both(model, new)
    for _, old, found in pairs:
        ours = {name for name, other, _ in pairs if other is old}
        assert ours == {name for name, _, other in pairs if other is found}
    first, tied = new.get_submodule("2.1"), new.get_submodule("2.3")
    assert first.weight is tied.weight and first is not tied


PROPERTIES = {
    "names": (lambda model: None, check_names),
    "training": (in_two_modes, check_training),
    "dtype": (lambda model: model.double(), check_dtype),
    "dtype-bfloat16": (lambda model: model.bfloat16(), check_dtype),
    "device": (lambda model: None, check_device),
    "requires_grad": (frozen, check_requires_grad),
    "hooks": (hooked, check_hooks),
    "parametrizations": (parametrized, check_parametrizations),
    "sharing": (shared, check_sharing),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", PROPERTIES)
def test_is_preserved(name, verb):
    prepare, check = PROPERTIES[name]
    torch.manual_seed(0)
    model = randomized(net())
    prepare(model)
    before = copy.deepcopy(model)
    ids = {key: id(t) for key, t in model.state_dict(keep_vars=True).items()}
    new = VERBS[verb](model, torch.randn(2, 4, 8, 8).to(model[1][0].weight.dtype))
    assert [type(m) for m in new.modules()] != [type(m) for m in model.modules()]
    check(model, new)
    # and the model it was given is as it was
    assert repr(model) == repr(before)
    assert {key: id(t) for key, t in model.state_dict(keep_vars=True).items()} == ids
    for key, tensor in before.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key
    check(before, model)


@pytest.mark.parametrize("verb", sorted(ON_META))
def test_a_model_without_memory_stays_without(verb):
    model = net(device="meta")
    check_device(model, VERBS[verb](model, torch.empty(2, 4, 8, 8, device="meta")))
