import copy
import math
import pickle

import pytest
import torch

from batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, Renorm
from batchnorm.errors import OptionError, ShapeError, StatisticsError
from batchnorm.nn import BatchNorm
from batchnorm.ops import normalize
from batchnorm.ops.activation import ACTIVATIONS

CLASSES = {
    BatchNorm: (torch.nn.BatchNorm1d, (6, 4)),
    BatchNorm1d: (torch.nn.BatchNorm1d, (6, 4, 3)),
    BatchNorm2d: (torch.nn.BatchNorm2d, (6, 4, 3, 2)),
    BatchNorm3d: (torch.nn.BatchNorm3d, (6, 4, 3, 2, 2)),
}
OPTIONS = [
    {},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"momentum": None, "eps": 0.1},
    {"dtype": torch.float64, "momentum": 0.5},
]

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def make_pair(cls, options):
    """Our layer and torch's, with the same random weights."""
    torch.manual_seed(0)
    ours, its = cls(4, **options), CLASSES[cls][0](4, **options)
    with torch.no_grad():
        for p in ours.parameters():
            p.uniform_(0.5, 2.0)
    its.load_state_dict(ours.state_dict())
    return ours, its


def batches(cls, dtype=torch.float32, count=3):
    generator = torch.Generator().manual_seed(0)
    return [
        2 * torch.randn(CLASSES[cls][1], generator=generator).to(dtype) + k for k in range(count)
    ]


@each_class
@each_option
def test_layer_trains_and_evaluates_as_torch_does(cls, options):
    ours, its = make_pair(cls, options)
    for x in batches(cls, options.get("dtype", torch.float32)):
        torch.testing.assert_close(ours(x), its(x))
        for key, value in its.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value)
    ours.eval(), its.eval()
    torch.testing.assert_close(ours(x), its(x))


@each_class
@each_option
def test_layer_is_torchs_and_survives_every_copy(cls, options):
    ours, its = make_pair(cls, options)
    ours.activation, ours.virtual_batch_size = "relu", 3
    x = batches(cls, options.get("dtype", torch.float32))[0]
    ours(x)
    its.load_state_dict(ours.state_dict(), strict=True)
    fresh = cls(4, activation="relu", virtual_batch_size=3, **options)
    fresh.load_state_dict(its.state_dict(), strict=True)
    copies = fresh, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    expected = ours.eval()(x)
    for layer in copies:
        assert isinstance(layer, CLASSES[cls][0]) or cls is BatchNorm
        assert isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
        assert repr(layer) == repr(ours)
        assert torch.equal(layer.eval()(x), expected)


@each_class
def test_repr_shows_our_options_only_where_they_are_set(cls):
    parent = CLASSES[cls][0]
    plain = repr(parent(4)).replace(parent.__name__, cls.__name__)
    assert repr(cls(4)) == plain
    full = repr(cls(4, activation="relu", virtual_batch_size=8))
    assert full == plain[:-1] + ", activation='relu', virtual_batch_size=8)"


@each_class
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_layer_moves_to_another_dtype(cls, dtype):
    layer = cls(4, activation="silu").to(dtype)
    x = batches(cls)[0].to(dtype).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert {y.dtype, x.grad.dtype, layer.weight.grad.dtype} == {dtype}
    wide = torch.promote_types(dtype, torch.float32)
    assert {layer.running_mean.dtype, layer.running_var.dtype} == {wide}
    assert layer.num_batches_tracked.dtype is torch.int64


@each_class
def test_checkpoint_from_before_num_batches_tracked_loads(cls):
    state = CLASSES[cls][0](4).state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    layer = cls(4)
    layer.load_state_dict(state)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("steps", [1, 2, 100])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_evaluation_after_steps_on_constant_data(momentum, steps):
    layer = BatchNorm1d(1, eps=0.5, momentum=momentum, dtype=torch.float64)
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # mean 2, variance 2 (correction 1)
    for _ in range(steps):
        layer(x)
    left = 0.9**steps if momentum else 0.0
    mean, var = 2 * (1 - left), left + 2 * (1 - left)
    expected = torch.tensor([[1.0 - mean], [3.0 - mean]], dtype=torch.float64) / (var + 0.5) ** 0.5
    torch.testing.assert_close(layer.eval()(x), expected)
    assert layer.num_batches_tracked == steps


def test_momentum_none_is_the_average_of_the_batches():
    layer = BatchNorm1d(1, momentum=None)
    for mean in (1.0, 2.0, 6.0):
        layer(torch.tensor([[mean - 1], [mean + 1]]))
    layer(torch.empty(0, 1))
    assert layer.running_mean.item() == 3.0
    assert layer.running_var.item() == 2.0
    assert layer.num_batches_tracked == 3


@each_class
@pytest.mark.parametrize("momentum", [0.1, None])
def test_nothing_waits_for_the_device(cls, momentum):
    """Tensors without data raise where a number is read from them."""
    layer = cls(4, momentum=momentum, device="meta", activation="relu", virtual_batch_size=3)
    x = torch.empty(CLASSES[cls][1], device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == layer.eval()(x).shape == x.shape


# torch's compiler itself makes an instance of every Function it meets.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("small", [normalize.SMALL, 0], ids=["small", "large"])
def test_layer_compiles_as_one_graph(small, monkeypatch):
    monkeypatch.setattr(normalize, "SMALL", small)
    plain = BatchNorm1d(4, activation="relu", virtual_batch_size=3)
    compiled = torch.compile(copy.deepcopy(plain), backend="aot_eager", fullgraph=True)
    for x in batches(BatchNorm1d):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(x) for layer, x in zip((plain, compiled), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        grads = [
            torch.autograd.grad(y.square().sum(), x) for y, x in zip(outputs, inputs, strict=True)
        ]
        torch.testing.assert_close(*grads)
    for ours, its in zip(plain.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(ours, its)
        assert not its.requires_grad


@each_class
def test_reset_parameters_without_weight_or_bias(cls):
    for options in OPTIONS:
        layer = cls(4, **options)
        layer.reset_parameters()
    layer = cls(4, bias=False)
    layer(batches(cls)[0])
    torch.nn.init.zeros_(layer.weight)
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.ones(4))
    assert torch.equal(layer.running_mean, torch.zeros(4))
    assert layer.bias is None


def test_activation_and_virtual_batches_reach_the_function():
    x = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    layer = BatchNorm1d(1, eps=1e-12, activation="relu", virtual_batch_size=2)
    torch.testing.assert_close(layer(x), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
    layer.eval().running_mean.fill_(10.0)
    layer.running_var.fill_(4.0)
    torch.testing.assert_close(layer(x), torch.tensor([[0.0], [0.0], [0.0], [10.0]]))


def test_evaluation_by_the_batch_has_no_virtual_batches():
    x = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    layer = BatchNorm1d(1, track_running_stats=False, virtual_batch_size=2).eval()
    assert torch.equal(layer(x), BatchNorm1d(1)(x))


def test_failed_step_leaves_the_statistics():
    layer = BatchNorm1d(3)
    with pytest.raises(StatisticsError, match="found 1"):
        layer(torch.randn(1, 3))
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(3))


@pytest.mark.parametrize(
    ("cls", "shape", "match"),
    [
        (
            BatchNorm1d,
            (2, 5, 3),
            r"BatchNorm1d\(3\): expected 3 channels at axis 1, found 5 \(input 2×5×3\)",
        ),
        (BatchNorm1d, (2, 3, 4, 4), r"expected an input with 2 or 3 axes .* found 4"),
        (BatchNorm2d, (2, 3, 4), r"expected an input with 4 axes .* found 3"),
        (BatchNorm3d, (2, 3, 4), r"with 5 axes"),
        (BatchNorm, (3,), r"with at least 2 axes"),
    ],
)
def test_wrong_shape_is_a_value_error_that_names_both(cls, shape, match):
    with pytest.raises(ShapeError, match=match) as caught:
        cls(3)(torch.zeros(shape))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"momentum": -0.1}, "momentum .* from 0 to 1 .* found -0.1"),
        ({"momentum": 1.1}, "found 1.1"),
        ({"momentum": math.nan}, "found nan"),
        ({"activation": "swish"}, "found 'swish'"),
        ({"activation": {"relu": 1}}, "activation"),
        ({"virtual_batch_size": 0}, "virtual_batch_size .* found 0"),
        ({"virtual_batch_size": 2.0}, "found 2.0"),
        ({"virtual_batch_size": True}, "found True"),
        ({"nonfinite": "ignore"}, "'skip', 'propagate', 'raise'; found 'ignore'"),
        ({"nonfinite": None}, "found None"),
        ({"degenerate": "skip"}, "'raise', 'running'; found 'skip'"),
        ({"degenerate": ["raise"]}, "found"),
        ({"degenerate": "running", "track_running_stats": False}, "track_running_stats=True"),
    ],
    ids=str,
)
def test_constructor_refuses_a_wrong_option(options, found):
    with pytest.raises(OptionError, match=found) as caught:
        BatchNorm2d(3, **options)
    assert isinstance(caught.value, ValueError)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(OptionError, match="swish") as caught:
        BatchNorm1d(3, activation="swish")
    for name in ACTIVATIONS:
        assert repr(name) in str(caught.value)


def test_refused_options_leave_the_old_ones():
    layer = BatchNorm1d(3, activation="relu", virtual_batch_size=4)
    with pytest.raises(OptionError):
        layer.set_options(activation="silu", virtual_batch_size=8, degenerate="never")
    assert (layer.activation, layer.virtual_batch_size, layer.degenerate) == ("relu", 4, "raise")


REPR = {
    "activation='gelu'": {"activation": "gelu"},
    "virtual_batch_size=8": {"virtual_batch_size": 8},
    "renorm=Renorm(r_max=2.0, d_max=1.0, warmup_steps=5, ramp_steps=(3, 4))": {
        "renorm": Renorm(2.0, 1.0, 5, (3, 4))
    },
    "nonfinite='raise'": {"nonfinite": "raise"},
    "degenerate='running'": {"degenerate": "running"},
}


def test_repr_shows_every_option_in_the_order_of_the_constructor():
    plain = repr(BatchNorm1d(4))
    for text, options in REPR.items():
        assert repr(BatchNorm1d(4, **options)) == f"{plain[:-1]}, {text})"
    together = {name: value for options in REPR.values() for name, value in options.items()}
    assert repr(BatchNorm1d(4, **together)) == f"{plain[:-1]}, {', '.join(REPR)})"


def test_residual_mask_and_weights_reach_the_function():
    """Mean (1·1 + 3·7)/4 = 5.5 and variance (20.25 + 3·2.25)/4 = 6.75 of what counts."""
    x = torch.tensor([[1.0], [7.0], [100.0]])
    layer = BatchNorm1d(1, eps=2.25, activation="relu")
    arguments = {
        "mask": torch.tensor([True, True, False]),
        "sample_weight": torch.tensor([1.0, 3.0, 5.0]),
    }
    y = layer(x, torch.ones(3, 1), **arguments)
    torch.testing.assert_close(y, torch.tensor([[0.0], [1.5], [0.0]]))
    effective = 16 / 10
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.55]))
    expected = 0.9 + 0.1 * 6.75 * effective / (effective - 1)
    torch.testing.assert_close(layer.running_var, torch.tensor([expected]))


def test_weights_do_not_count_in_evaluation_by_running_statistics():
    layer = BatchNorm1d(1, eps=3.0).eval()
    x, weight = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 0.0])
    torch.testing.assert_close(layer(x, sample_weight=weight), x / 2)
    untracked = BatchNorm1d(1, eps=3.0, track_running_stats=False).eval()
    weight = torch.tensor([3.0, 1.0])  # mean 1.5, variance 0.75
    expected = torch.tensor([[-0.5], [1.5]]) / 3.75**0.5
    torch.testing.assert_close(untracked(x, sample_weight=weight), expected)


@each_class
def test_residual_is_the_only_argument_by_position(cls):
    x = batches(cls)[0]
    with pytest.raises(TypeError, match="positional"):
        cls(4)(x, x, torch.ones(6) > 0)
