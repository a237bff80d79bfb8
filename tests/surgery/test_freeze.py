"""What `freeze` holds still, what may not notice it, and what `unfreeze` gives back."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import batchnorm as bn
from batchnorm.errors import OptionError, SurgeryError
from batchnorm.nn.frozen import is_frozen

CLASSES = {
    "ours": bn.BatchNorm1d,
    "torch": nn.BatchNorm1d,
    "sync": nn.SyncBatchNorm,
    "any": bn.nn.BatchNorm,
}
OPTIONS = {
    "fused": {"activation": "relu"},
    "virtual": {"virtual_batch_size": 3},
    "renorm": {"renorm": bn.Renorm(warmup_steps=0, ramp_steps=1)},
    "running": {"degenerate": "running"},
    "average": {"momentum": None},
}
each_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES.keys())


def trained(cls=bn.BatchNorm1d, channels=4, **options):
    """A layer whose statistics and parameters are all different, after three batches."""
    torch.manual_seed(0)
    layer = cls(channels, **options)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
    for _ in range(3):
        layer(2 + 3 * torch.randn(16, channels))
    return layer


def network(cls=bn.BatchNorm1d):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), trained(cls), nn.ReLU())
    return nn.Sequential(nn.Linear(3, 4), trained(cls), nn.Dropout(), inner, nn.Linear(4, 2))


def state(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def everything(model):
    """All that freeze and unfreeze together must not change."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return (
        [module.training for module in model.modules()],
        [(id(p), p.requires_grad) for p in model.parameters()],
        [(layer.momentum, layer.eps, layer.track_running_stats, repr(layer)) for layer in layers],
        [sorted(layer.__dict__) for layer in layers],
        [type(layer) for layer in layers],
    )


@each_class
def test_a_frozen_layer_normalizes_by_its_statistics_and_leaves_them(cls):
    layer = trained(cls)
    before, x = state(layer), 5 + torch.randn(8, 4)
    expected = copy.deepcopy(layer).eval()(x)
    bn.freeze(layer)
    for call in (layer.train, layer.eval, layer.train):
        call()
        assert torch.equal(layer(x), expected)
    assert_same(layer, before)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("extra", ["plain", "residual", "mask"])
def test_options_that_matter_in_training_do_not_when_frozen(options, extra):
    layer = trained(**options)
    before, x = state(layer), 5 + torch.randn(8, 4)
    more = {"residual": torch.randn(8, 4), "mask": torch.arange(8) > 2}
    more = {extra: more[extra]} if extra in more else {}
    expected = copy.deepcopy(layer).eval()(x, **more)
    bn.freeze(layer)
    assert torch.equal(layer.train()(x, **more), expected)
    assert_same(layer, before)


@each_class
def test_one_value_per_channel_is_enough_for_a_frozen_layer(cls):
    layer = trained(cls)
    x = torch.randn(1, 4)
    expected = copy.deepcopy(layer).eval()(x)
    bn.freeze(layer)
    assert torch.equal(layer.train()(x), expected)


@each_class
def test_gradients_of_a_frozen_layer_are_those_of_evaluation(cls):
    layer, x = trained(cls), torch.randn(8, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(layer.eval()(x).square().sum(), x)
    bn.freeze(layer.train(), affine=False)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.equal(found, expected)


@each_class
@pytest.mark.parametrize("zero", ["none", "zeros"])
def test_an_optimizer_that_has_the_parameters_leaves_them_alone(cls, zero):
    model = network(cls)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step():
        optimizer.zero_grad(set_to_none=zero == "none")
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()

    step()
    model.zero_grad(set_to_none=False)
    bn.freeze(model)
    held = {n: t for n, t in state(model).items() if n.split(".")[-2] == "1"}
    assert len(held) == 10
    linear = model[0].weight.clone()
    for _ in range(3):
        step()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in held.items())
    assert not torch.equal(model[0].weight, linear)
    bn.unfreeze(model)
    step()
    assert not any(torch.equal(after[name], tensor) for name, tensor in held.items())


@each_class
@pytest.mark.parametrize(("statistics", "affine"), [(True, False), (False, True), (True, True)])
def test_statistics_and_affine_are_frozen_separately(cls, statistics, affine):
    layer = trained(cls)
    before = state(layer)
    bn.freeze(layer, statistics=statistics, affine=affine)
    layer.train()(9 + torch.randn(8, 4, requires_grad=True)).square().sum().backward()
    assert torch.equal(layer.running_mean, before["running_mean"]) is statistics
    assert torch.equal(layer.running_var, before["running_var"]) is statistics
    assert layer.num_batches_tracked == (3 if statistics else 4)
    assert [p.requires_grad for p in (layer.weight, layer.bias)] == [not affine] * 2
    assert [p.grad is None for p in (layer.weight, layer.bias)] == [affine] * 2


@each_class
def test_unfreeze_gives_everything_back(cls):
    model = network(cls)
    model[1].bias.requires_grad_(False)
    model[3][1].momentum = 0.37
    before, tensors = everything(model), state(model)
    bn.freeze(model)
    assert everything(model) != before
    bn.unfreeze(model)
    assert everything(model) == before
    assert_same(model, tensors)
    model[1](torch.randn(8, 4))
    assert model[1].num_batches_tracked == 4


@each_class
def test_freezing_twice_is_freezing_once(cls):
    model = network(cls)
    model[1].weight.requires_grad_(False)
    before = everything(model)
    bn.freeze(model, affine=False)
    bn.freeze(model)
    again = bn.freeze(model)
    assert {change.action for change in again} == {"leave"}
    bn.unfreeze(model)
    assert everything(model) == before
    assert {change.action for change in bn.unfreeze(model)} == {"leave"}
    assert everything(model) == before


@each_class
def test_one_half_can_be_let_go_before_the_other(cls):
    layer = trained(cls)
    before = everything(layer)
    bn.freeze(layer)
    bn.unfreeze(layer, affine=False)
    assert not is_frozen(layer) and not layer.weight.requires_grad
    bn.freeze(layer)
    bn.unfreeze(layer, statistics=False)
    assert is_frozen(layer) and layer.weight.requires_grad
    bn.unfreeze(layer)
    assert everything(layer) == before


@each_class
@pytest.mark.parametrize("mode", [False, True])
def test_unfreeze_puts_a_layer_in_the_mode_that_was_asked_for_last(cls, mode):
    model = network(cls)
    bn.freeze(model)
    model.train(not mode).train(mode)
    bn.unfreeze(model)
    assert [module.training for module in model.modules()] == [mode] * 9


@each_class
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_are_frozen_and_let_go_by_themselves(cls, how):
    model = network(cls)
    bn.freeze(model)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    before = state(model)
    twin.train()(torch.randn(8, 3))
    assert_same(twin, before)
    bn.unfreeze(twin)
    twin(torch.randn(8, 3))
    assert twin[1].num_batches_tracked == 4 and twin[1].weight.requires_grad
    model.train()(torch.randn(8, 3))
    assert_same(model, before)
    assert is_frozen(model[1]) and not model[1].weight.requires_grad


@each_class
def test_part_of_a_model_is_frozen_and_let_go(cls):
    model = network(cls)
    bn.freeze(model[3])
    model.train()(torch.randn(8, 3))
    assert [model[1].num_batches_tracked, model[3][1].num_batches_tracked] == [4, 3]
    bn.freeze(model)
    bn.unfreeze(model[1])
    assert is_frozen(model[3][1]) and not is_frozen(model[1])


def test_a_shared_parameter_gets_its_gradient_back():
    model = network()
    model[3][1].weight = model[1].weight
    bn.freeze(model)
    bn.unfreeze(model)
    assert model[1].weight.requires_grad
    bn.freeze(model[1])
    bn.freeze(model[3])
    bn.unfreeze(model[1])
    bn.unfreeze(model[3])
    assert model[1].weight.requires_grad


@each_class
def test_a_parametrized_weight_is_frozen_at_its_source(cls):
    layer = trained(cls)

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(layer, "weight", Double())
    bn.freeze(layer)
    assert not layer.parametrizations.weight.original.requires_grad
    bn.unfreeze(layer)
    assert layer.parametrizations.weight.original.requires_grad


def test_weights_elsewhere_keep_their_gradients():
    model = network()
    parametrizations.weight_norm(model[0])
    bn.freeze(model)
    assert all(p.requires_grad for part in (model[0], model[3][0]) for p in part.parameters())


@pytest.mark.parametrize("base", [bn.BatchNorm1d, nn.BatchNorm1d], ids=["ours", "torch"])
def test_a_subclass_keeps_its_behavior_and_its_children_follow_the_mode(base):
    class WithDropout(base):
        def __init__(self, channels):
            super().__init__(channels)
            self.after = nn.Dropout(1.0)

        def forward(self, x):
            return self.after(super().forward(x)) + 1

    layer = WithDropout(4)
    bn.freeze(layer)
    layer.train()
    assert torch.equal(layer(torch.randn(8, 4)), torch.ones(8, 4))
    layer.eval()
    x = torch.randn(8, 4)
    torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5 + 1)
    assert layer.num_batches_tracked == 0


def test_a_layer_without_statistics_is_named():
    model = nn.Sequential(
        bn.BatchNorm1d(3, track_running_stats=False),
        nn.BatchNorm1d(3, affine=False, track_running_stats=False),
        nn.BatchNorm1d(3, affine=False),
    )
    assert str(bn.freeze(model)).splitlines() == [
        "0: freeze affine (it keeps no running statistics, and so normalizes by those of every "
        "batch)",
        "1: leave (it keeps no running statistics, and so normalizes by those of every batch)",
        "2: freeze statistics (normalizes by its running statistics, also in training)",
    ]
    model(torch.randn(8, 3))
    assert model.training and not model[0].weight.requires_grad


def test_every_change_is_listed():
    model = network()
    assert [change.name for change in bn.freeze(model)] == ["1", "3.1"]
    assert "frozen='statistics and affine'" in repr(model[1])
    assert str(bn.unfreeze(model, statistics=False)).splitlines() == [
        "1: unfreeze affine (as before freeze)",
        "3.1: unfreeze affine (as before freeze)",
    ]
    assert "frozen='statistics'" in repr(model[1])


@pytest.mark.parametrize("lazy", [bn.LazyBatchNorm1d, nn.LazyBatchNorm1d], ids=["ours", "torch"])
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_layer_is_refused_and_nothing_has_changed(lazy):
    model = nn.Sequential(trained(), nn.Linear(4, 4), lazy())
    with pytest.raises(SurgeryError, match="2: lazy"):
        bn.freeze(model)
    assert not is_frozen(model[0]) and model[0].weight.requires_grad


@pytest.mark.parametrize("verb", [bn.freeze, bn.unfreeze])
def test_nothing_to_do_is_refused(verb):
    with pytest.raises(OptionError, match="statistics or affine"):
        verb(network(), statistics=False, affine=False)


@each_class
def test_the_mode_must_be_a_bool(cls):
    layer = trained(cls)
    bn.freeze(layer)
    with pytest.raises(ValueError, match="bool"):
        layer.train("eval")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_script_is_reported():
    model = nn.Sequential(nn.Linear(3, 4), torch.jit.script(nn.BatchNorm1d(4)))
    assert "1: leave (it is compiled to a script" in str(bn.freeze(model))


@each_class
def test_a_loaded_state_is_what_a_frozen_layer_then_has(cls):
    layer, other = trained(cls), trained(cls)
    other(7 + torch.randn(8, 4))
    bn.freeze(layer)
    layer.load_state_dict(other.state_dict())
    x = torch.randn(8, 4)
    assert torch.equal(layer.train()(x), other.eval()(x))


@pytest.mark.parametrize("cls", [bn.BatchNorm1d, nn.BatchNorm1d], ids=["ours", "torch"])
def test_blocks_around_a_frozen_layer_change_nothing(cls):
    model = network(cls)
    bn.freeze(model)
    before = state(model)
    for context in (bn.no_update, bn.accumulate):
        with context(model):
            model.train()(torch.randn(8, 3))
    assert_same(model, before)
    assert [is_frozen(model[1]), is_frozen(model[3][1])] == [True, True]
    bn.unfreeze(model)
    assert model[1].track_running_stats


@each_class
def test_compiled_and_traced_models_follow(cls):
    model = network(cls)
    x = torch.randn(8, 3)
    model[2].p = 0.0
    traced = torch.fx.symbolic_trace(model)
    compiled = torch.compile(model, backend="eager", fullgraph=cls is not nn.SyncBatchNorm)
    compiled(x)
    bn.freeze(model)
    before = state(model)
    expected = copy.deepcopy(model).eval()(x)
    model.train(), traced.train()
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(traced(x), expected)
    assert_same(model, before)
    bn.unfreeze(model)
    compiled(x)
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"] + 1


@each_class
def test_an_averaged_model_of_a_frozen_one_is_frozen(cls):
    model = network(cls)
    bn.freeze(model)
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    average.train()(torch.randn(8, 3))
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)


def test_freezing_again_lets_all_go_that_was_frozen_before():
    layer = bn.BatchNorm1d(2)
    bn.freeze(layer)
    layer.bias.requires_grad_(True)  # by hand
    bn.freeze(layer)
    bn.unfreeze(layer)
    assert layer.weight.requires_grad and layer.bias.requires_grad
