"""`insert` into models whose forward is Python: where it goes, and what is left, and why."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import SurgeryError

from .nets import Net, OneInput, distance, norms, randomized, run

EPS = 1e-5
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))


def two(act, make=nn.Linear):
    return Net(lambda m, x: m.b(act(m.a(x))), a=make(3, 4), b=make(4, 2))


def conv(before, after):
    return nn.Conv2d(before, after, 3, padding=1)


def standardized(y, axes):
    return (y - y.mean(axes, True)) / (y.var(axes, correction=0, keepdim=True) + EPS).sqrt()


def changes(model, *example, **options):
    return {c.name: str(c) for c in bn.insert(model, *example, dry_run=True, **options)}


FUNCTIONS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "F.relu, in place": lambda x: F.relu(x, inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "operator": torch.ops.aten.relu.default,
    "F.relu6": F.relu6,
    "F.leaky_relu": F.leaky_relu,
    "F.prelu": lambda x: F.prelu(x, torch.tensor([0.2])),
    "F.rrelu": F.rrelu,
    "F.elu": F.elu,
    "F.selu": F.selu,
    "F.celu": F.celu,
    "F.gelu": F.gelu,
    "F.gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x**3))),
    "F.silu": F.silu,
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "F.mish": F.mish,
    "F.hardswish": F.hardswish,
    "F.hardsigmoid": F.hardsigmoid,
    "F.hardtanh": F.hardtanh,
    "torch.sigmoid": torch.sigmoid,
    "torch.tanh": torch.tanh,
    "F.softplus": F.softplus,
    "F.logsigmoid": F.logsigmoid,
    "F.softsign": F.softsign,
    "F.tanhshrink": F.tanhshrink,
    "F.softshrink": F.softshrink,
    "F.hardshrink": F.hardshrink,
    "F.threshold": lambda x: F.threshold(x, 0.1, 0.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_that_are_functions(name):
    act = FUNCTIONS[name]
    model = two(act).eval()
    new = bn.insert(model, X)
    assert norms(new) == ["a.norm"] and new.a.bias is None
    scale = (1 + EPS) ** -0.5
    hidden = act(scale * (X @ model.a.weight.T))
    torch.testing.assert_close(new(X), model.b(hidden))


LAYERS = {
    "linear": (nn.Linear, X, [0], bn.BatchNorm1d),
    "linear on sequences": (nn.Linear, SEQUENCE, [0, 1], bn.BatchNorm1d),
    "linear on images": (nn.Linear, torch.randn(2, 4, 5, 3), [0, 1, 2], bn.BatchNorm1d),
    "conv1d": (lambda i, o: nn.Conv1d(i, o, 2), SEQUENCE.mT, [0, 2], bn.BatchNorm1d),
    "conv2d": (conv, IMAGE, [0, 2, 3], bn.BatchNorm2d),
    "conv3d": (
        lambda i, o: nn.Conv3d(i, o, 2),
        IMAGE[..., None].expand(-1, -1, -1, -1, 4),
        None,
        bn.BatchNorm3d,
    ),
    "transposed": (lambda i, o: nn.ConvTranspose2d(i, o, 2), IMAGE, [0, 2, 3], bn.BatchNorm2d),
}


@pytest.mark.parametrize("case", LAYERS)
def test_channels_are_normalized_on_their_axis(case):
    make, x, axes, cls = LAYERS[case]
    axes = axes or [0, 2, 3, 4]
    model = two(F.relu, make)
    new = bn.insert(model, x).train()
    assert type(new.a.norm) is cls and new.a.norm.num_features == 4
    plain = copy.deepcopy(model.a)
    plain.bias = None
    wanted = model.b(standardized(plain(x), axes).relu())
    torch.testing.assert_close(new(x), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["linear", "linear on sequences", "conv2d"])
def test_after_a_function_in_front_of_what_reads_it(case):
    make, x, axes, cls = LAYERS[case]
    model = two(F.gelu, make)
    new = bn.insert(model, x, where="after_activation").train()
    assert norms(new) == ["b.input_norm"] and type(new.b.input_norm) is cls
    wanted = model.b(standardized(F.gelu(model.a(x)), axes))
    torch.testing.assert_close(new(x), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["linear", "linear on sequences", "conv2d"])
def test_at_the_input_of_any_model(case):
    make, x, axes, cls = LAYERS[case]
    model = two(F.gelu, make)
    new = bn.insert(model, 3 * x + 2, where="input").train()
    assert norms(new) == ["a.input_norm"] and type(new.a.input_norm) is cls
    assert new.a.input_norm.weight is None
    torch.testing.assert_close(new(x), model(standardized(x, axes)), atol=1e-5, rtol=1e-4)


def test_after_an_activation_that_is_a_module():
    model = Net(lambda m, x: m.b(m.act(m.a(x))), a=conv(3, 4), act=nn.ReLU(), b=conv(4, 2))
    new = bn.insert(model, IMAGE, where="after_activation").train()
    assert norms(new) == ["act.norm"] and isinstance(new.act, nn.ReLU)
    wanted = model.b(standardized(model.a(IMAGE).relu(), [0, 2, 3]))
    torch.testing.assert_close(new(IMAGE), wanted, atol=1e-5, rtol=1e-4)


def test_linear_layers_of_a_sequence_on_sequences_hold_it_themselves():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    new = bn.insert(model, SEQUENCE).train()
    assert norms(new) == ["0.norm"] and list(new._modules) == ["0", "1", "2"]
    hidden = standardized(SEQUENCE @ model[0].weight.T, [0, 1]).relu()
    torch.testing.assert_close(new(SEQUENCE), model[2](hidden), atol=1e-5, rtol=1e-4)


def test_several_examples_and_keywords():
    model = Net(
        lambda m, x, pair, *, other: m.c(torch.relu(m.a(x) + m.b(pair["y"])) * other),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 4),
        c=nn.Linear(4, 2),
    )
    options = {"example_kwargs": {"other": torch.tensor(2.0)}}
    new = bn.insert(model, X, {"y": X + 1}, **options)
    assert norms(new) == ["a.norm", "b.norm"]
    inputs = bn.insert(model, X, {"y": X + 1}, where="input", **options)
    assert norms(inputs) == ["a.input_norm", "b.input_norm"]
    said = changes(model, X, {"y": X + 1}, where="input", **options)
    assert "example input 2 has shape ()" in said[""]


def attention(m, x):
    q, k, v = m.q(x), m.k(x), m.v(x)
    return m.out(torch.softmax(q @ k.mT, -1) @ v)


def gated(m, x):
    hidden = F.relu(m.a(x))
    return m.b(hidden * torch.sigmoid(m.up(F.relu(m.down(hidden.mean((2, 3), keepdim=True))))))


def sampled(m, x):
    hidden = m.a(x).relu()
    return m.b(m.mean(hidden) + F.softplus(m.scale(hidden)) * torch.randn(6, 2))


def linears(**sizes):
    return {name: nn.Linear(*size) for name, size in sizes.items()}


LEFT = {
    "attention": (
        Net(attention, **linears(q=(3, 4), k=(3, 4), v=(3, 4), out=(4, 3))),
        SEQUENCE,
        {"q": "no activation follows it; matmul", "v": "no activation", "out": "the last layer"},
    ),
    "gate": (
        Net(gated, a=conv(3, 4), down=conv(4, 2), up=conv(2, 4), b=conv(4, 2)),
        IMAGE,
        {"up": "sigmoid .* makes a gate of it", "down": "only feeds a gate, Conv2d 'up'"},
    ),
    "standard deviation": (
        Net(sampled, **linears(a=(3, 4), mean=(4, 2), scale=(4, 2), b=(2, 2))),
        X,
        {"mean": "no activation", "scale": "softplus .* makes a gate of it"},
    ),
    "output": (
        Net(lambda m, x: torch.sigmoid(m.b(m.a(x).relu())), **linears(a=(3, 4), b=(4, 2))),
        X,
        {"b": "gives the network's output its range"},
    ),
    "probabilities": (
        Net(lambda m, x: F.log_softmax(m.b(m.a(x).relu()), 1), **linears(a=(3, 4), b=(4, 2))),
        X,
        {"b": "gives probabilities"},
    ),
    "normalized": (
        Net(lambda m, x: m.b(m.n(m.a(x)).relu()), n=nn.LayerNorm(4), **linears(a=(3, 4), b=(4, 2))),
        X,
        {"a": "already normalized by LayerNorm 'n'"},
    ),
    "normalized by a function": (
        Net(lambda m, x: m.b(F.layer_norm(m.a(x), [4]).relu()), **linears(a=(3, 4), b=(4, 2))),
        X,
        {"a": "already normalized by layer_norm in Net"},
    ),
    "normalized sum": (
        Net(lambda m, x: m.n(x + m.a(x)), n=nn.LayerNorm(3), **linears(a=(3, 3))),
        X,
        {"a": "the sum that it goes into is already normalized"},
    ),
    "recurrent": (
        Net(lambda m, x: m.b(m.rnn(x)[0]), rnn=nn.GRU(3, 4), b=nn.Linear(4, 2)),
        SEQUENCE,
        {"rnn": "its layers run inside of it"},
    ),
    "transformer": (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        torch.randn(2, 3, 4),
        {"linear1": "TransformerEncoderLayer may read its weight and not call it"},
    ),
    "called twice": (
        Net(lambda m, x: m.b(m.a(m.a(x).relu()).relu()), **linears(a=(3, 3), b=(3, 2))),
        X,
        {"a": "Linear 'a' is called 2 times"},
    ),
    "function": (
        Net(
            lambda m, x: m.b(F.linear(x, m.w).relu()),
            w=nn.Parameter(torch.eye(3)),
            b=nn.Linear(3, 2),
        ),
        X,
        {"": "linear in Net 'the model itself' is the call of a function"},
    ),
    "matrix": (
        Net(lambda m, x: (x @ m.w).relu(), w=nn.Parameter(torch.eye(3))),
        X,
        {"": "relu in Net 'the model itself': matmul .* feeds it, and is no linear"},
    ),
    "not called": (
        Net(lambda m, x: m.b(m.a(x).relu()), **linears(a=(3, 3), b=(3, 2), c=(9, 9))),
        X,
        {"c": "was not called on the example"},
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_leaves_with_the_reason(case):
    model, x, reasons = LEFT[case]
    said = changes(model, x)
    for name, reason in reasons.items():
        line = said[name]
        assert "leave alone" in line
        assert re.search(reason, line), line


def test_after_activation_leaves_what_others_read():
    def forward(m, x):
        hidden = m.a(x).relu()
        return m.b(hidden) + hidden.mean()

    said = changes(Net(forward, **linears(a=(3, 4), b=(4, 2))), X, where="after_activation")
    assert "relu in Net 'the model itself' is the call of a function; add" in said["a"]
    assert "reads it, not only layers" in said["a"]


def test_says_what_else_reads_the_value():
    def forward(m, x):
        hidden = m.a(x)
        return m.b(hidden.relu()) + m.c(hidden)

    said = changes(Net(forward, **linears(a=(3, 4), b=(4, 2), c=(4, 2))), X)
    assert "before relu in Net 'the model itself'; Linear 'c' reads it, too" in said["a.norm"]


def test_a_bias_that_is_read_elsewhere_stays():
    model = Net(lambda m, x: m.b(m.a(x).relu()) + m.a.bias.sum(), **linears(a=(3, 4), b=(4, 2)))
    new = bn.insert(model, X)
    assert norms(new) == ["a.norm"] and new.a.bias is not None
    assert "keep bias (sum in Net 'the model itself' reads it, too)" in changes(model, X)["a"]


def test_a_norm_that_would_be_skipped_is_an_error():
    """In evaluation, without hooks on it, the model takes another way."""

    def forward(m, x):
        if m.training or m.a._forward_hooks:
            return m.b(m.a(x).relu())
        return m.b((x @ m.a.weight.T).relu())

    with pytest.raises(SurgeryError, match=r"a\.norm: .* the model skips it in evaluation"):
        bn.insert(Net(forward, **linears(a=(3, 4), b=(4, 2))), X)


def test_exported_and_traced_models():
    model = OneInput(lambda m, x: m.b(F.relu(m.a(x))), a=conv(3, 4), b=conv(4, 2)).eval()
    wanted = bn.insert(model, IMAGE)
    program = torch.export.export(model, (IMAGE,))
    for other in (program.module(), torch.fx.symbolic_trace(model)):
        new = bn.insert(other, IMAGE)
        assert new.state_dict().keys() == wanted.state_dict().keys()
        torch.testing.assert_close(new(IMAGE), wanted(IMAGE))
    again = torch.export.export(bn.insert(program.module(), IMAGE), (IMAGE,))
    torch.testing.assert_close(again.module()(IMAGE), wanted(IMAGE))


def test_insert_after_insert():
    model = two(F.relu)
    once = bn.insert(model, X, where="input")
    both = bn.insert(once, X)
    assert sorted(norms(both)) == ["a.input_norm", "a.norm"]
    assert isinstance(both.a, nn.Linear) and both.a.bias is None
    with pytest.raises(SurgeryError, match=r"already normalized by BatchNorm1d 'a\.norm'"):
        bn.insert(both, X)
    with pytest.raises(SurgeryError, match=r"normalized by BatchNorm1d 'a\.input_norm' already"):
        bn.insert(both, X, where="input")


def test_children_named_twice_and_parts_of_sequences():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), conv(4, 2))
            self.alias = self.features

        def forward(self, x):
            for layer in self.features[:2]:
                x = layer(x)
            return self.features[2:](x)

    new = bn.insert(Half(), IMAGE)
    assert norms(new) == ["features.0.norm", "features.2.norm"]
    assert new.alias is new.features and list(new.features._modules) == list("01234")


def test_channels_that_turn_into_others_are_left_in_front_of_a_layer():
    x = torch.randn(2, 3, 4)
    model = Net(lambda m, x: m.b(F.gelu(m.a(x)).mT), a=nn.Conv1d(3, 4, 1), b=nn.Conv1d(4, 2, 1))
    said = changes(model, x, where="after_activation")
    assert "Conv1d 'b' takes other channels than (2, 4, 4)" in said["a"]


def test_zeros_of_padding_are_no_inputs():
    by_module = Net(lambda m, x: m.a(m.pad(x)), pad=nn.ZeroPad2d(1), a=nn.Conv2d(3, 4, 3))
    assert norms(bn.insert(by_module, IMAGE, where="input")) == ["pad.input_norm"]
    by_function = Net(lambda m, x: m.a(F.pad(x, [1, 1, 1, 1])), a=nn.Conv2d(3, 4, 3))
    assert "pads it before" in changes(by_function, IMAGE, where="input")[""]
    new = bn.insert(nn.Sequential(by_function), IMAGE, where="input")
    assert norms(new) == ["input_norm"]


class Frozen(nn.Module):
    """As detection networks have them: statistics that are buffers, and a formula."""

    def __init__(self):
        super().__init__()
        for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            self.register_buffer(name, torch.full((4,), float(value)))

    def forward(self, x):
        scale = self.weight * (self.running_var + EPS).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_a_frozen_normalization_of_any_class_is_one():
    model = Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, 4), n=Frozen(), b=conv(4, 2))
    assert "already normalized by Frozen 'n'" in changes(model, IMAGE)["a"]


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Activated(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_subclasses_of_layers():
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=Standardized(3, 4, 3), b=conv(4, 2))
    new = bn.insert(model, IMAGE).train()
    assert norms(new) == ["a.norm"] and isinstance(new.a, Standardized)
    wanted = model.b(standardized(model.a(IMAGE), [0, 2, 3]).relu())
    torch.testing.assert_close(new(IMAGE), wanted, atol=1e-5, rtol=1e-4)
    said = changes(Net(lambda m, x: m.b(m.a(x)), a=Activated(3, 4, 3), b=conv(4, 2)), IMAGE)
    assert "its class Activated has the activation inside of its forward" in said["a"]


@pytest.mark.parametrize("where", ["before_activation", "after_activation", "input"])
@pytest.mark.parametrize("case", ["linear", "linear on sequences", "conv1d"])
def test_fold_takes_out_what_insert_put_in(case, where):
    make, x, *_ = LAYERS[case]
    model = two(F.gelu, make).double()
    new = randomized(bn.insert(model, x.double(), where=where))
    folded, said = bn.fold(new, x.double())
    assert len(norms(new)) == 1 and not norms(folded)
    assert folded.state_dict().keys() == model.state_dict().keys()
    assert distance(run(folded, x.double()), run(new, x.double())) < 1e-13  # rounding in float64
    assert [change.action.split(" into ")[0] for change in said] == ["fold"]


def test_an_input_that_is_laid_beside_other_values():
    def skip(m, x):
        return m.b(torch.cat((m.a(x).relu(), x), 1))

    model = Net(skip, a=conv(3, 4), b=conv(7, 2))
    assert (
        "cat in Net 'the model itself' lays other values"
        in changes(model, IMAGE, where="input")[""]
    )
    assert norms(bn.insert(nn.Sequential(model), IMAGE, where="input")) == ["input_norm"]


class Twice(nn.Conv2d):
    def forward(self, x):
        one = F.conv2d(x, self.weight, self.bias, padding=1)
        return one + F.conv2d(x, self.weight.flip(3), self.bias, padding=1)


def test_a_module_of_two_layers_gets_one_normalization():
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=Twice(3, 4, 3), b=conv(4, 2))
    for where, name in {"before_activation": "a.norm", "input": "a.input_norm"}.items():
        new = bn.insert(model, IMAGE, where=where)
        assert norms(new) == [name] and type(new.a).__bases__[1] is Twice


def test_after_activation_leaves_what_is_laid_beside_other_values():
    def beside(m, x):
        return m.b(torch.cat((m.a(x).relu(), m.c(x)), 0))

    model = Net(beside, a=conv(3, 4), b=conv(4, 2), c=conv(3, 4))
    said = changes(model, IMAGE, where="after_activation")
    assert "cat in Net 'the model itself' lays other values beside it" in said["a"]
