"""`convert`, one for one: to our layers, to PyTorch's, to `SyncBatchNorm`, to `GroupNorm`."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import batchnorm as bn
from batchnorm import distributed
from batchnorm import nn as ours
from batchnorm.errors import OptionError, SurgeryError
from batchnorm.records import Change
from batchnorm.surgery.changes import Changes
from batchnorm.surgery.conversion import choices
from batchnorm.surgery.conversion.activated import ActivatedBatchNorm2d

from .equal import same_states, step
from .nets import OneInput, randomized, run
from .test_fold import images

X = images(4, 3, 6, 6)
PAIRS = {
    "1d": (nn.BatchNorm1d, ours.BatchNorm1d, (6, 3)),
    "1d with length": (nn.BatchNorm1d, ours.BatchNorm1d, (6, 3, 5)),
    "2d": (nn.BatchNorm2d, ours.BatchNorm2d, (6, 3, 4, 4)),
    "3d": (nn.BatchNorm3d, ours.BatchNorm3d, (6, 3, 2, 2, 2)),
}
LAYERS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "no affine": {"affine": False},
    "no statistics": {"track_running_stats": False},
    "eps and momentum": {"eps": 0.3, "momentum": 0.7},
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", LAYERS)
def test_to_batchnorm_and_back_is_one_for_one(pair, options):
    torchs, cls, shape = PAIRS[pair]
    model = randomized(nn.Sequential(torchs(3, **LAYERS[options])))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    converted, changes = bn.convert(model, to="batchnorm")
    assert type(converted[0]) is cls and type(model[0]) is torchs
    assert [change.name for change in changes] == ["0"]
    same_states(converted, model)
    assert not {*map(id, converted.parameters())} & {*map(id, model.parameters())}
    torch.testing.assert_close(step(converted, x), step(model, x), rtol=1e-9, atol=1e-12)
    back, _ = bn.convert(converted, to="torch")
    assert type(back[0]) is torchs and vars(back[0]).keys() == vars(model[0]).keys()
    assert repr(back) == repr(model)
    same_states(back, model)
    assert all(map(torch.equal, step(back, x), step(model, x)))


def test_a_layer_without_bias_stays_without():
    layer = ours.BatchNorm2d(3, bias=False)
    back, _ = bn.convert(layer, to="torch")
    assert type(back) is nn.BatchNorm2d and back.bias is None and "bias" in back._parameters
    again, _ = bn.convert(back, to="batchnorm")
    assert again.bias is None and list(again.state_dict()) == list(layer.state_dict())


def frozen(model):
    bn.freeze(model[1])
    return model


def in_eval(model):
    model[1].eval()
    return model


def untrained(model):
    model[1].weight.requires_grad_(False)
    return model


def hooked(model):
    model[1].register_forward_hook(lambda m, args, y: y + 1)
    model[1].register_state_dict_post_hook(lambda *args: None)
    return model


def parametrized(model):
    nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Softplus())
    parametrizations.weight_norm(model[0])
    return model


def shared(model):
    model.append(model[1])
    model.append(nn.BatchNorm2d(3))
    model[3].weight = model[1].weight
    return model


PROPERTIES = {
    "frozen": (frozen, lambda m: (m[1].weight.requires_grad, m[1].training is False)),
    "mode": (in_eval, lambda m: [x.training for x in m.modules()]),
    "dtype": (lambda m: m.bfloat16(), lambda m: [p.dtype for p in m.parameters()]),
    "device": (lambda m: m.to("meta"), lambda m: [p.device for p in m.parameters()]),
    "requires_grad": (untrained, lambda m: [p.requires_grad for p in m.parameters()]),
    "hooks": (hooked, lambda m: (len(m[1]._forward_hooks), len(m[1]._state_dict_hooks))),
    "parametrizations": (parametrized, lambda m: [n for n, _ in m.named_parameters()]),
    "sharing": (shared, lambda m: (m[1] is m[2], m[1].weight is m[3].weight)),
    "attributes": (lambda m: setattr(m[1], "note", "mine") or m, lambda m: m[1].note),
}


@pytest.mark.parametrize("to", ["batchnorm", "sync", "fused"])
@pytest.mark.parametrize("name", PROPERTIES)
def test_convert_preserves(name, to):
    prepare, look = PROPERTIES[name]
    model = prepare(randomized(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))))
    x = X.to(next(model.parameters()).dtype)
    example = () if name == "device" and to != "fused" else (x.to(model[0].weight.device),)
    if name == "device" and to == "fused":
        return
    converted, changes = bn.convert(model, *example, to=to)
    assert all(change.action.startswith("convert to") for change in changes)
    seen, wanted = look(converted), look(model)
    if name == "frozen":
        assert seen[0] is False and bn.unfreeze(converted) and converted[1].weight.requires_grad
        converted.train()
        assert converted[1].training
        return
    assert seen == wanted
    back, _ = bn.convert(converted, *example, to="torch")
    assert look(back) == wanted
    same = [n for n, _ in model.named_modules()] == [n for n, _ in back.named_modules()]
    assert same and list(back.state_dict()) == list(model.state_dict())


def test_statistics_of_half_precision_become_float32():
    model = nn.Sequential(nn.BatchNorm2d(3)).bfloat16()
    converted = bn.convert(model, X.bfloat16()).model
    assert converted[0].running_mean.dtype is torch.float32
    assert converted[0].weight.dtype is torch.bfloat16
    back = bn.convert(converted, X.bfloat16(), to="torch").model
    assert back[0].running_mean.dtype is torch.bfloat16
    same_states(back, model)


def test_a_frozen_layer_stays_frozen_and_can_be_let_go():
    model = frozen(randomized(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())))
    fused, _ = bn.convert(model, X)
    before = copy.deepcopy(fused.state_dict())
    fused.train()(X)
    assert all(torch.equal(before[name], value) for name, value in fused.state_dict().items())
    back, _ = bn.convert(fused, to="torch")
    assert "train" in vars(back[1]) and not back.train()[1].training
    bn.unfreeze(back)
    assert back[1].training and "train" not in vars(back[1])


def test_options_go_to_the_layers():
    model = randomized(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    converted, _ = bn.convert(model, X, virtual_batch_size=2, nonfinite="raise")
    assert (converted[0].virtual_batch_size, converted[0].nonfinite) == (2, "raise")
    assert converted[0].activation == "relu"
    again, changes = bn.convert(converted, to="batchnorm", degenerate="running")
    assert again[0].degenerate == "running" and again[0].virtual_batch_size == 2
    assert changes[0].action == "set degenerate='running'"
    back, changes = bn.convert(again, to="torch")
    assert back[0].virtual_batch_size == 2 and changes[0].action == "leave alone"
    assert changes[0].reason == "torch's layers have no virtual_batch_size="


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "fast"}, "expected to"),
        ({"to": "torch", "nonfinite": "skip"}, "expected options of to='torch'"),
        ({"to": "fused", "activation": "relu"}, "found 'activation'"),
        ({"to": "group", "num_groups": 0}, "expected num_groups to be an int of 1 or more"),
        ({"to": "group", "num_groups": 2}, "0: expected num_groups to divide its 3 channels"),
        ({"to": "batchnorm", "virtual_batch_size": -1}, "virtual_batch_size"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        bn.convert(nn.Sequential(nn.BatchNorm2d(3)), **options)


def test_a_dry_run_gives_the_list_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    changes = bn.convert(model, X, dry_run=True)
    assert changes == bn.convert(model, X).changes and isinstance(changes, Changes)
    reason = "nothing else reads what is between"
    assert changes == [Change("0", "convert to BatchNorm2d, with relu", reason)]
    assert type(model[0]) is nn.BatchNorm2d


class Mine(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class Stubborn(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


class Named(nn.BatchNorm2d):
    def __init__(self, num_features):
        super().__init__(num_features, eps=0.25)


def test_subclasses_with_a_behavior_of_their_own_are_left():
    for to in ("batchnorm", "sync", "group"):
        for cls, name in ((Mine, "forward"), (Stubborn, "train")):
            model = randomized(nn.Sequential(cls(3)))
            converted, changes = bn.convert(model, to=to)
            assert type(converted[0]) is cls and changes[0].action == "leave alone"
            assert changes[0].reason.startswith(f"its class {cls.__name__} has a {name} of its own")


def test_a_subclass_with_only_a_constructor_is_converted_and_restored():
    model = randomized(nn.Sequential(Named(3), nn.ReLU()))
    fused, _ = bn.convert(model, X)
    assert type(fused[0]) is ours.BatchNorm2d and fused[0].eps == 0.25
    back, _ = bn.convert(fused, to="torch")
    assert type(back[0]) is Named and type(back[1]) is nn.ReLU
    assert vars(back[0]).keys() == vars(model[0]).keys()


def test_a_forward_of_an_instance_is_left():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model[0].forward = lambda x: x
    _, changes = bn.convert(model, to="batchnorm")
    assert changes[0].reason == "its forward is an attribute of its own"


@pytest.mark.parametrize("lazy", [nn.LazyBatchNorm2d, ours.LazyBatchNorm2d])
def test_lazy_layers_stay_lazy(lazy):
    model = nn.Sequential(nn.LazyConv2d(4, 3), lazy(), nn.ReLU())
    converted, _ = bn.convert(model, to="batchnorm")
    assert type(converted[1]) is ours.LazyBatchNorm2d
    fused, changes = bn.convert(model, X)
    assert type(fused[1]) is ours.LazyBatchNorm2d and "with relu" in changes[0].action
    y = fused(X)
    assert type(fused[1]) is ours.BatchNorm2d and bool((y >= 0).all()) and y.shape[1] == 4
    back, _ = bn.convert(bn.convert(model, X).model, to="torch")
    assert type(back[1]) is nn.LazyBatchNorm2d and type(back[2]) is nn.ReLU
    back(X)
    assert type(back[1]) is nn.BatchNorm2d


def test_sync_there_and_back():
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()))
    sync, _ = bn.convert(model, X, to="sync")
    assert type(sync[1]) is ours.BatchNorm2d and sync[1].sync is True
    torchs, _ = bn.convert(sync, X, to="torch")
    assert type(torchs[1]) is nn.SyncBatchNorm and torchs[1].process_group is None
    made = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert vars(torchs[1]).keys() == vars(made[1]).keys()
    assert all(map(torch.equal, step(torchs, X), step(model, X)))
    again, _ = bn.convert(torchs, X, to="batchnorm")
    assert type(again[1]) is ours.BatchNorm2d and again[1].sync is True
    assert all(map(torch.equal, step(again, X), step(sync, X)))
    left, changes = bn.convert(torchs, to="batchnorm")
    assert type(left[1]) is nn.SyncBatchNorm and "give an example" in changes[0].reason


def test_sync_keeps_what_a_layer_took_in():
    model = randomized(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()))
    fused, _ = bn.convert(model, X)
    sync, changes = bn.convert(fused, X, to="sync")
    assert sync[1].activation == "relu" and sync[1].sync is True
    assert changes[0].action == "set sync=True"
    left, changes = bn.convert(sync, X, to="torch")
    assert left[1].sync is True and "set sync to False first" in changes[0].reason
    sync[1].sync = False
    back, _ = bn.convert(sync, X, to="torch")
    assert type(back[1]) is nn.BatchNorm2d and type(back[2]) is nn.ReLU


def test_sync_keeps_the_group_that_a_layer_has(monkeypatch):
    group = object()
    torchs = nn.Sequential(nn.SyncBatchNorm(3, process_group=group))
    asked = []
    monkeypatch.setattr(distributed, "check_sync", lambda sync: asked.append(sync) or False)
    bn.convert(nn.Sequential(nn.BatchNorm2d(3)), to="sync", process_group=group)
    assert asked[-1] is group
    assert choices._sync_of(torchs[0]) is group


def test_group_keeps_weight_and_bias():
    layer = randomized(nn.BatchNorm2d(48))
    model = nn.Sequential(nn.Conv2d(3, 48, 1), layer, nn.ReLU())
    model[1].weight.requires_grad_(False)
    grouped, changes = bn.convert(model, X, to="group")
    assert changes[0].action == "convert to GroupNorm(24, 48)"
    assert type(grouped[1]) is nn.GroupNorm and grouped[1].eps == layer.eps
    assert torch.equal(grouped[1].weight, layer.weight) and torch.equal(grouped[1].bias, layer.bias)
    assert not grouped[1].weight.requires_grad and grouped[1].bias.requires_grad
    wanted = nn.functional.group_norm(model[0](X), 24, layer.weight, layer.bias, layer.eps)
    assert torch.equal(grouped[:2](X), wanted)
    assert bn.convert(model, to="group", num_groups=3).model[1].num_groups == 3
    without = bn.convert(nn.Sequential(nn.BatchNorm2d(4, affine=False)), to="group").model[0]
    assert without.weight is None and without.bias is None and not without.affine


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = ours.BatchNorm2d(3, activation="silu")
        self.plain = ours.BatchNorm2d(3)

    def forward(self, x):
        return self.plain(self.norm(x, x))


def test_layers_written_by_hand_become_layers_of_torch():
    model = randomized(nn.Sequential(ours.BatchNorm2d(3, activation="gelu"), Block()))
    back, changes = bn.convert(model, X, to="torch")
    assert [type(m).__name__ for m in back.children()] == ["BatchNorm2d", "GELU", "Block"]
    assert list(back.state_dict()) == list(model.state_dict())
    assert type(back[2].norm) is ActivatedBatchNorm2d and type(back[2].plain) is nn.BatchNorm2d
    assert not any(isinstance(m, ours.BatchNorm) for m in back.modules())
    assert [c.reason.rpartition("; ")[2] for c in changes] == [
        "gelu follows it",
        "with silu in its forward",
        "computes what BatchNorm2d does",
    ]
    assert torch.equal(run(pickle.loads(pickle.dumps(back)), X)[0], run(back, X)[0])
    again, _ = bn.convert(back, X)
    assert again[0].activation == "gelu" and type(again[1]) is not nn.GELU
    assert type(again[2].norm) is ours.BatchNorm2d and again[2].norm.activation == "silu"


def test_one_layer_that_stays_keeps_what_it_shares():
    act = nn.ReLU()
    model = randomized(nn.Sequential(nn.BatchNorm2d(3), act, nn.BatchNorm2d(3), act))
    fused, _ = bn.convert(model, X)
    fused[0].virtual_batch_size = 2
    back, _ = bn.convert(fused, X, to="torch")
    assert back[0].activation == "relu" and type(back[1]) is not nn.ReLU
    assert torch.allclose(run(back, X)[0], run(model, X)[0], atol=1e-6)


def test_an_activation_that_was_changed_by_hand_is_not_what_was_taken():
    fused, _ = bn.convert(randomized(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())), X)
    fused[0].activation = "silu"
    back, _ = bn.convert(fused, X, to="torch")
    assert torch.allclose(run(back, X)[0], run(fused, X)[0], atol=1e-6)


def test_a_model_that_cannot_be_copied_is_refused():
    class Stuck(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    with pytest.raises(SurgeryError, match="no copies"):
        bn.convert(Stuck(nn.BatchNorm2d(3)), to="batchnorm")


def test_a_layer_that_is_the_model_is_converted():
    fused, changes = bn.convert(randomized(nn.BatchNorm2d(3)), X)
    assert type(fused) is ours.BatchNorm2d and changes[0].name == ""
    left, changes = bn.convert(nn.BatchNorm2d(3), to="group")
    assert type(left) is nn.BatchNorm2d and changes[0].reason == "it is the model itself"


def test_momentum_that_ours_does_not_take_is_left():
    model = OneInput(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(3, momentum=1.5))
    converted, changes = bn.convert(model, to="batchnorm")
    assert type(converted.norm) is nn.BatchNorm2d and "momentum" in changes[0].reason
