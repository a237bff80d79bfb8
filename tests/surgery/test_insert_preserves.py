"""What `insert` must not change: eight properties of the model, and the model it was given."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import batchnorm as bn


def net(**factory):
    return nn.Sequential(
        nn.Linear(3, 4, **factory), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, **factory), nn.Tanh())
    ).append(nn.Linear(4, 2, **factory))


def parametrized():
    model = net()
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[2][0])
    return model


def frozen():
    model = net()
    model[0].requires_grad_(False)
    return model


def half_in_eval():
    model = net()
    model[2].eval()
    return model


def hooked():
    model = net()
    model[1].register_forward_hook(lambda module, args, output: output + 1)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


def shared():
    layer, act = nn.Linear(3, 3), nn.ReLU()
    model = nn.Sequential(layer, act, nn.Linear(3, 3), act, layer, nn.GELU(), nn.Linear(3, 1))
    model[2].weight = layer.weight
    return model


def check_names(model, new):
    kept = [name for name, _ in new.named_modules() if "norm" not in name]
    assert kept == [name for name, _ in model.named_modules()]


def check_training(model, new):
    modes = {name: module.training for name, module in new.named_modules()}
    assert modes["0_norm"] and not modes["2.0_norm"]
    assert all(modes[name] is module.training for name, module in model.named_modules())


def check_dtype_and_device(model, new):
    norm, weight = new.get_submodule("2.0_norm"), model[2][0].weight
    assert {(t.dtype, t.device) for t in norm.parameters()} == {(weight.dtype, weight.device)}
    wide = torch.promote_types(weight.dtype, torch.float32)
    running = [norm.running_mean, norm.running_var]
    assert {(t.dtype, t.device) for t in running} == {(wide, weight.device)}
    assert (new[0].weight.dtype, new[0].weight.device) == (weight.dtype, weight.device)


def check_requires_grad(model, new):
    parameters = dict(new.named_parameters())
    assert not parameters["0.weight"].requires_grad
    assert parameters["2.0.weight"].requires_grad
    assert parameters["0_norm.weight"].requires_grad and parameters["0_norm.bias"].requires_grad


def check_hooks(model, new):
    x, scale = torch.randn(4, 3), (1 + 1e-5) ** -0.5
    hidden = (scale * (2 * x) @ model[0].weight.T).relu() + 1
    hidden = (scale * hidden @ model[2][0].weight.T).tanh()
    torch.testing.assert_close(new.eval()(x), model[3](hidden))


def check_parametrizations(model, new):
    assert nn.utils.parametrize.is_parametrized(new[0], "weight")
    assert nn.utils.parametrize.is_parametrized(new[3][0], "weight")
    assert {k for k in new.state_dict() if "_norm." not in k} == {
        k for k in model.state_dict() if k not in ("0.bias", "2.0.bias")
    }


def check_sharing(model, new):
    at = dict(new.named_modules(remove_duplicate=False))
    assert at["0"] is at["4"] and at["1"] is at["3"]
    assert at["2"].weight is at["0"].weight
    assert len({id(at[name]) for name in ("0_norm", "2_norm", "4_norm")}) == 3


PROPERTIES = {
    "names": (net, check_names),
    "training": (half_in_eval, check_training),
    "dtype-float64": (lambda: net(dtype=torch.float64), check_dtype_and_device),
    "dtype-bfloat16": (lambda: net(dtype=torch.bfloat16), check_dtype_and_device),
    "dtype-half": (lambda: net(dtype=torch.half), check_dtype_and_device),
    "device": (lambda: net(device="meta"), check_dtype_and_device),
    "requires_grad": (frozen, check_requires_grad),
    "hooks": (hooked, check_hooks),
    "parametrizations": (parametrized, check_parametrizations),
    "sharing": (shared, check_sharing),
}


@pytest.mark.parametrize(("make", "check"), PROPERTIES.values(), ids=PROPERTIES.keys())
@pytest.mark.parametrize("has_example", [False, True], ids=["blind", "example"])
def test_insert_preserves(make, check, has_example):
    model = make()
    like = next(model.parameters())
    x = torch.zeros(4, 3, dtype=like.dtype, device=like.device)
    check(model, bn.insert(model, *[x] * has_example))


@pytest.mark.parametrize("where", ["before_activation", "after_activation", "input"])
@pytest.mark.parametrize("make", [net, parametrized, frozen, half_in_eval, hooked, shared])
def test_insert_leaves_its_model_untouched(make, where):
    model, x = make(), torch.randn(4, 3)
    before, text = copy.deepcopy(model), repr(model)
    tensors = {n: (id(t), t._version) for n, t in model.state_dict(keep_vars=True).items()}
    new = bn.insert(model, x, where=where)
    new.train()(x).sum().backward()

    after = model.state_dict(keep_vars=True)
    assert {n: (id(t), t._version) for n, t in after.items()} == tensors
    for name, tensor in before.state_dict().items():
        assert torch.equal(after[name], tensor), name
    assert repr(model) == text
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in before.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_insert_returns_fresh_statistics_and_does_not_write_to_the_example():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 4), nn.ReLU(inplace=True))
    x = -torch.ones(4, 3)
    norm = bn.insert(model, x).get_submodule("1_norm")
    assert torch.equal(x, -torch.ones(4, 3))
    assert norm.num_batches_tracked == 0 and torch.equal(norm.running_mean, torch.zeros(4))


def test_insert_leaves_a_parametrized_bias_uncomputed_and_says_so():
    class Counting(nn.Module):
        calls = 0

        def forward(self, bias):
            self.calls += 1
            return 2 * bias

    model, counting = net(), Counting()
    nn.utils.parametrize.register_parametrization(model[0], "bias", counting)
    calls = counting.calls
    new, changes = bn.insert(model), bn.insert(model, dry_run=True)
    assert counting.calls == calls
    assert new[0].bias is not None
    assert "0: keep bias (it is computed by a parametrization" in str(changes)


class Stepwise(nn.Sequential):
    """With a forward of its own, so that its layers hold their normalizations themselves."""

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def stepwise(model):
    model[2] = Stepwise(*model[2])
    return Stepwise(*model)


def check_held_hooks(model, new):
    x, scale = torch.randn(4, 3), (1 + 1e-5) ** -0.5
    hidden = (scale * (2 * x) @ model[0].weight.T).relu() + 1
    hidden = (scale * hidden @ model[2][0].weight.T).tanh()
    torch.testing.assert_close(new.eval()(x), model[3](hidden))
    assert len(new[0]._forward_pre_hooks) == 1


def check_held_state(model, new):
    kept = [name for name in new.state_dict() if ".norm." not in name]
    assert kept == [n for n in model.state_dict() if n not in ("0.bias", "2.0.bias")]
    assert [n for n, _ in new.named_modules() if not n.endswith("norm")] == [
        n for n, _ in model.named_modules()
    ]
    assert isinstance(new[0], nn.Linear) and isinstance(new, Stepwise)
    modes = {name: module.training for name, module in new.named_modules()}
    assert all(modes[name] is module.training for name, module in model.named_modules())
    assert modes["0.norm"] is modes["0"] and modes["2.0.norm"] is modes["2.0"]
    norm, weight = new.get_submodule("2.0.norm"), model[2][0].weight
    assert {(t.dtype, t.device) for t in norm.parameters()} == {(weight.dtype, weight.device)}
    assert new[0].weight.requires_grad is model[0].weight.requires_grad


def check_held_parametrizations(model, new):
    assert nn.utils.parametrize.is_parametrized(new[0], "weight")
    assert {k for k in new.state_dict() if ".norm." not in k} == {
        k for k in model.state_dict() if k not in ("0.bias", "2.0.bias")
    }
    x, scale = torch.randn(4, 3), (1 + 1e-5) ** -0.5
    new, model = new.eval(), model.eval()
    hidden = (scale * x @ model[0].weight.T).relu()
    hidden = (scale * hidden @ model[2][0].weight.T).tanh()
    torch.testing.assert_close(new(x), model[3](hidden))


def check_held_sharing(model, new):
    assert new[0] is new[4] and new[1] is new[3] and new[2].weight is new[0].weight
    assert [n for n, _ in new.named_modules() if n.endswith("norm")] == ["2.norm"]
    assert new[0].bias is not None and new[2].bias is None


HELD = {
    "names": (net, check_held_state),
    "training": (half_in_eval, check_held_state),
    "dtype-float64": (lambda: net(dtype=torch.float64), check_held_state),
    "dtype-bfloat16": (lambda: net(dtype=torch.bfloat16), check_held_state),
    "device": (lambda: net(device="meta"), check_held_state),
    "requires_grad": (frozen, check_held_state),
    "hooks": (hooked, check_held_hooks),
    "parametrizations": (parametrized, check_held_parametrizations),
}


@pytest.mark.parametrize(("make", "check"), HELD.values(), ids=HELD.keys())
def test_insert_preserves_where_layers_hold_it(make, check):
    model = stepwise(make())
    before = [type(module) for module in model.modules()]
    like = next(model.parameters())
    new = bn.insert(model, torch.zeros(4, 3, dtype=like.dtype, device=like.device))
    check(model, new)
    assert [type(module) for module in model.modules()] == before


def test_insert_preserves_sharing_where_layers_hold_it():
    model = Stepwise(*shared())
    check_held_sharing(model, bn.insert(model, torch.zeros(4, 3)))
