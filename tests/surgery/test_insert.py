"""Where `insert` puts batch normalization, checked by what the new model computes."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import batchnorm as bn
from batchnorm.errors import OptionError, SurgeryError
from batchnorm.surgery import kinds

EPS = 1e-5


def mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))


def names(model):
    return [name for name, _ in model.named_modules(remove_duplicate=False) if name]


LAYERS = [
    ("Linear", nn.Linear(3, 4), (5, 3), bn.BatchNorm1d),
    ("Conv1d", nn.Conv1d(3, 4, 2), (5, 3, 6), bn.BatchNorm1d),
    ("Conv2d", nn.Conv2d(3, 4, 2), (5, 3, 6, 4), bn.BatchNorm2d),
    ("Conv3d", nn.Conv3d(3, 4, 2), (5, 3, 4, 3, 2), bn.BatchNorm3d),
    ("ConvTranspose1d", nn.ConvTranspose1d(3, 4, 2), (5, 3, 6), bn.BatchNorm1d),
    ("ConvTranspose2d", nn.ConvTranspose2d(3, 4, 2), (5, 3, 6, 4), bn.BatchNorm2d),
    ("ConvTranspose3d", nn.ConvTranspose3d(3, 4, 2), (5, 3, 4, 3, 2), bn.BatchNorm3d),
]


@pytest.mark.parametrize(
    ("layer", "shape", "cls"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS]
)
@pytest.mark.parametrize("has_example", [False, True], ids=["blind", "example"])
def test_insert_computes_activation_of_normalized_layer_without_bias(
    layer, shape, cls, has_example
):
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(shape)
    new = bn.insert(model, *[x] * has_example)
    without_bias = copy.deepcopy(layer)
    without_bias.bias = None
    axes = [0, *range(2, x.dim())]

    y = without_bias(x)
    standardized = (y - y.mean(axes, True)) / (y.var(axes, correction=0, keepdim=True) + EPS).sqrt()

    assert type(new[1]) is cls and new[1].num_features == 4
    assert_close(new.train()(x), standardized.relu(), atol=1e-5, rtol=1e-5)
    assert "0.bias" not in new.state_dict() and new[0].bias is None


def test_insert_with_fresh_statistics_only_scales_in_eval():
    model, x = mlp().eval(), torch.randn(6, 3)
    new = bn.insert(model, x)
    scale = (1 + EPS) ** -0.5
    hidden = (scale * (x @ model[0].weight.T)).relu()
    hidden = (scale * (hidden @ model[2].weight.T)).tanh()
    assert_close(new(x), model[4](hidden))


def test_insert_after_activation_computes_the_original_with_scaled_activations():
    model, x = mlp().eval(), torch.randn(6, 3)
    new = bn.insert(model, x, where="after_activation")
    scale = (1 + EPS) ** -0.5
    hidden = scale * model[2](scale * model[0](x).relu()).tanh()
    assert names(new) == ["0", "1", "1_norm", "2", "3", "3_norm", "4"]
    assert_close(new(x), model[4](hidden))


def test_insert_at_input_standardizes_the_input_without_weight_or_bias():
    model, x = mlp(), torch.randn(64, 3) * 5 + 2
    new = bn.insert(model, x, where="input")
    standardized = (x - x.mean(0)) / (x.var(0, correction=0) + EPS).sqrt()
    assert names(new) == ["input_norm", "0", "1", "2", "3", "4"]
    assert [n for n, _ in new.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert_close(new(x), model(standardized), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "first", "cls"),
    [
        ((4, 3), nn.Linear(3, 2), bn.BatchNorm1d),
        ((4, 3, 5), nn.Conv1d(3, 2, 1), bn.BatchNorm1d),
        ((4, 3, 5, 6), nn.Sequential(nn.Flatten(), nn.Linear(90, 2)), bn.BatchNorm2d),
        ((4, 3, 5, 6, 7), nn.Conv3d(3, 2, 1), bn.BatchNorm3d),
    ],
    ids=["N-C", "N-C-L", "N-C-H-W", "N-C-D-H-W"],
)
def test_insert_at_input_takes_dimension_from_the_example(shape, first, cls):
    new = bn.insert(nn.Sequential(first), torch.randn(shape, dtype=torch.float32), where="input")
    assert type(new[0]) is cls and new[0].num_features == 3


def test_insert_at_input_goes_in_front_of_a_wrapped_model():
    class Shifted(nn.Module):
        def forward(self, x):
            return x + x.square()

    model = nn.Sequential(Shifted())
    assert names(bn.insert(model, torch.randn(2, 3, 3), where="input")) == ["input_norm", "0"]


def test_insert_crosses_nested_sequentials_and_passive_modules():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)),
        nn.Sequential(nn.Sequential(nn.ReLU()), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Dropout()),
        nn.ELU(inplace=True),
        nn.Sequential(),
        nn.Linear(24, 2),
    )
    x = torch.randn(4, 1, 10, 10)
    new = bn.insert(model, x)
    assert [n for n in names(new) if "norm" in n] == ["0.0_norm", "1.1_norm"]
    assert list(new[0]._modules) == ["0", "0_norm", "1"]
    assert type(new[1][2]) is bn.BatchNorm2d and new[1][2].num_features == 6
    new(x).sum().backward()
    assert new[0][1].weight.grad is not None


def test_insert_after_activation_sees_the_channels_behind_flattening():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(16, 2))
    new = bn.insert(model, torch.randn(2, 1, 4, 4), where="after_activation")
    assert type(new[3]) is bn.BatchNorm1d and new[3].num_features == 16


def test_insert_after_gated_activation_counts_the_channels_left():
    model = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2))
    assert bn.insert(model, torch.randn(2, 3), where="after_activation")[2].num_features == 4
    assert bn.insert(model)[1].num_features == 8


@pytest.mark.parametrize("cls", kinds.ACTIVATIONS, ids=lambda cls: cls.__name__)
def test_insert_knows_every_activation_of_torch(cls):
    activation = cls(0.1, 0.2) if cls is nn.Threshold else cls()
    model = nn.Sequential(nn.Linear(3, 4), activation, nn.LazyLinear(2))
    model(torch.randn(2, 3))
    assert names(bn.insert(model, torch.randn(2, 3))) == ["0", "0_norm", "1", "2"]


def test_tables_name_every_activation_module_of_this_torch():
    known = {cls.__name__ for cls in (*kinds.ACTIVATIONS, *kinds.OUTPUTS)}
    assert set(nn.modules.activation.__all__) - known == {"MultiheadAttention"}


def test_insert_keeps_names_of_a_named_sequential_and_avoids_taken_ones():
    class Block(nn.Sequential):
        act_norm = "taken"

    layers = OrderedDict(fc=nn.Linear(3, 4), fc_norm=nn.Dropout(), act=nn.ReLU())
    block = Block(OrderedDict(layers, out=nn.Linear(4, 2)))
    new = bn.insert(block)
    assert type(new) is Block
    assert names(new) == ["fc", "fc_norm2", "fc_norm", "act", "out"]
    assert names(bn.insert(block, where="after_activation"))[3] == "act_norm2"


def test_insert_loads_the_original_state_dict_by_name():
    model = mlp()
    report = bn.insert(model).load_state_dict(model.state_dict(), strict=False)
    assert report.unexpected_keys == ["0.bias", "2.bias"]
    assert all("_norm." in key for key in report.missing_keys)


def test_insert_normalizes_each_use_of_shared_modules_separately():
    shared, act = nn.Linear(3, 3), nn.ReLU()
    model = nn.Sequential(shared, act, shared, act, nn.Linear(3, 2))
    new = bn.insert(model, torch.randn(4, 3))
    assert names(new) == ["0", "0_norm", "1", "2", "2_norm", "3", "4"]
    assert new[0] is new[3] and new[2] is new[5]
    assert new[1] is not new[4]
    assert new[0].bias is None


def test_insert_keeps_the_bias_of_a_shared_layer_that_is_also_used_plainly():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    new, changes = bn.insert(model), bn.insert(model, dry_run=True)
    assert new[0].bias is not None
    assert "not normalized at 1 other place" in str(changes)


def test_insert_keeps_a_bias_that_a_forward_hook_can_see():
    model = mlp()
    model[0].register_forward_hook(lambda module, args, output: None)
    new = bn.insert(model)
    assert new[0].bias is not None and new[3].bias is None


def test_insert_passes_options_to_the_layers():
    new = bn.insert(mlp(), momentum=0.3, eps=1e-3, virtual_batch_size=16)
    assert (new[1].momentum, new[1].eps, new[1].virtual_batch_size) == (0.3, 1e-3, 16)


def test_insert_sees_modules_of_unknown_class():
    class Standardize(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            return ((x - self.mean[None]) / 2).reshape(-1, 3)

    model = nn.Sequential(Standardize(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert names(bn.insert(model, torch.randn(5, 3)))[2] == "1_norm"
    with pytest.raises(SurgeryError, match="0: Standardize is of a class insert does not know"):
        bn.insert(model)


def test_insert_twice_says_that_nothing_is_left_to_insert():
    with pytest.raises(SurgeryError, match="already normalized by BatchNorm1d '0_norm'"):
        bn.insert(bn.insert(mlp()))


def test_dry_run_lists_insertions_biases_and_what_is_left_alone():
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.ReLU(),
        nn.Linear(4, 4, bias=False),
        nn.LayerNorm(4),
        nn.ReLU(),
        nn.Linear(4, 4),
        nn.Linear(4, 1),
        nn.Sigmoid(),
    )
    changes = bn.insert(model, dry_run=True)
    assert str(changes).splitlines() == [
        "0_norm: insert BatchNorm1d(4) (after Linear '0', before ReLU '1')",
        "0: drop bias (the normalization behind it cancels it)",
        "2: leave alone (already normalized by LayerNorm '3')",
        "5: leave alone (no activation follows it)",
        "6: leave alone (Sigmoid '7' gives the network's output its range; "
        "this is no hidden layer)",
    ]
    assert changes[0].action == "insert BatchNorm1d(4)"


def test_dry_run_promises_what_insert_does():
    model = mlp()
    for where in ("before_activation", "after_activation"):
        changes = bn.insert(model, where=where, dry_run=True)
        inserted = {c.name for c in changes if c.action.startswith("insert")}
        assert inserted == set(names(bn.insert(model, where=where))) - set(names(model))


@pytest.mark.parametrize(
    "last", [nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax(1)], ids=str
)
@pytest.mark.parametrize("where", ["before_activation", "after_activation"])
def test_insert_leaves_the_output_of_the_network_alone(last, where):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), last, nn.Flatten())
    new = bn.insert(model, torch.randn(2, 3), where=where)
    assert len([n for n in names(new) if "norm" in n]) == 1
    assert new[-1] is not last and list(new._modules)[-3:] == ["2", "3", "4"]


def test_insert_takes_a_rectifier_at_the_end_for_hidden_but_never_normalizes_the_output():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    assert names(bn.insert(model)) == ["0", "0_norm", "1", "2", "2_norm", "3"]
    new = bn.insert(model, where="after_activation")
    assert names(new) == ["0", "1", "1_norm", "2", "3"]
    assert new[0].bias is not None


def test_unknown_where_lists_the_known_ones():
    with pytest.raises(OptionError, match=r"where='middle'.*before_activation, after_activation"):
        bn.insert(mlp(), where="middle")


@pytest.mark.parametrize("name", ["virtual_batchsize", "num_features", "dtype", "activation"])
def test_unknown_option_is_named_beside_the_known_ones(name):
    with pytest.raises(OptionError, match=f"^{name}: not an option.*virtual_batch_size"):
        bn.insert(mlp(), **{name: 1})
