"""What PyTorch's tests of its module database demand of a layer's state: kept, moved, replaced."""

import copy
import io
import pickle

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.testing import assert_close

import batchnorm

from .layers import MODULES, each_case, each_mode

pytestmark = pytest.mark.slow


CONVERSIONS = [
    (old, new) for old in (torch.float32, torch.float64) for new in (torch.float32, torch.float64)
]
SETTERS = {
    "in-place": None,
    "overwrite": torch.__future__.set_overwrite_module_params_on_conversion,
    "swap": torch.__future__.set_swap_module_params_on_conversion,
}


@pytest.fixture(params=SETTERS)
def conversion(request):
    """One of the ways in which torch converts parameters."""
    setter = SETTERS[request.param]
    if setter is not None:
        setter(True)
    yield request.param
    if setter is not None:
        setter(False)


def tensors(layer):
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def assert_same(layer, expected, x):
    """Same state, same output, and the same state after it."""
    for _ in range(2):
        state, other = layer.state_dict(), expected.state_dict()
        assert list(state) == list(other)
        assert all(torch.equal(t, other[name]) for name, t in state.items())
        assert torch.equal(layer(x), expected(x))


@each_case
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64], ids=str)
def test_factory_arguments_reach_every_tensor(case, dtype, device):
    layer, its = (make(device=device, dtype=dtype) for make in (case.ours, case.torchs))
    assert {t.device.type for t in tensors(layer).values()} <= {device}
    for name, t in tensors(its).items():
        assert (tensors(layer)[name].dtype, tensors(layer)[name].shape) == (t.dtype, t.shape)


@each_case
def test_default_dtype_is_respected(case):
    torch.set_default_dtype(torch.float64)
    try:
        layer, its = case.ours(), case.torchs()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, t in tensors(its).items():
        assert tensors(layer)[name].dtype is t.dtype


@each_case
def test_repr_is_torchs(case):
    assert repr(case.ours()) == str(case.ours()) == repr(case.torchs())


COPIES = {
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: torch.load(_saved(layer), weights_only=False),
    "deepcopy": copy.deepcopy,
}


def _saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return file


@each_case
@each_mode
@pytest.mark.parametrize("way", COPIES)
def test_copy_has_the_state_and_computes_the_same(case, training, way):
    layer = case.ours(training, dtype=torch.float64)
    copied = COPIES[way](layer)
    assert copied.training is training
    shared = {t.data_ptr() for t in tensors(layer).values() if t.numel()}
    assert shared.isdisjoint(t.data_ptr() for t in tensors(copied).values())
    assert_same(copied, layer, case.input())


@each_case
@each_mode
@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
def test_saved_state_loads_into_a_fresh_layer_and_into_torchs(case, training, assign):
    layer = case.ours(training, dtype=torch.float64)
    args, kwargs = case.arguments()
    fresh = getattr(batchnorm, case.name)(*args, **kwargs, dtype=torch.float64)
    its = MODULES[case.name].module_cls(*args, **kwargs, dtype=torch.float64)
    for other in (fresh, its):
        state = torch.load(_saved(layer.state_dict()), weights_only=True)
        other.load_state_dict(state, strict=True, assign=assign)
    x = case.input()
    assert_close(its.train(training)(x), copy.deepcopy(layer)(x))
    assert_same(fresh.train(training), layer, x)


@each_case
@pytest.mark.parametrize("dtypes", CONVERSIONS, ids=lambda dtypes: f"{dtypes[0]}-to-{dtypes[1]}")
def test_conversion_to_a_dtype_is_torchs(case, dtypes, conversion):
    layer, its = (make(dtype=dtypes[0]) for make in (case.ours, case.torchs))
    for p in (*layer.parameters(), *its.parameters()):
        p.grad = torch.ones_like(p)
    before = [list(map(id, module.parameters())) for module in (layer, its)]
    assert layer.to(dtypes[1]) is layer
    its.to(dtypes[1])
    for name, t in tensors(its).items():
        our = tensors(layer)[name]
        assert our.dtype is t.dtype
        assert torch.equal(our, t)
        assert getattr(our.grad, "dtype", None) is getattr(t.grad, "dtype", None)
    kept = [
        [id(p) == old for p, old in zip(module.parameters(), ids, strict=True)]
        for module, ids in zip((layer, its), before, strict=True)
    ]
    assert kept[0] == kept[1]
    x = case.input(dtypes[1])
    assert_close(layer(x), its(x))


@each_case
@each_mode
def test_transfer_by_way_of_meta(case, training, conversion):
    """`to` and back by `to_empty`: every tensor arrives, then the state can be loaded."""
    layer, expected = (
        case.ours(training, dtype=torch.float64),
        case.ours(training, dtype=torch.float64),
    )
    x = case.input()
    layer.to("meta")
    assert all(
        t.is_meta and t.dtype is tensors(expected)[n].dtype for n, t in tensors(layer).items()
    )
    y = layer(x.to("meta"))
    assert (y.is_meta, y.shape, y.dtype) == (True, x.shape, x.dtype)
    layer.to_empty(device="cpu")
    assert not any(t.is_meta for t in tensors(layer).values())
    layer.load_state_dict(expected.state_dict())
    assert_same(layer, expected, x)


@each_case
@each_mode
def test_state_of_a_call_can_be_given_from_outside(case, training):
    """As torch.func demands: what is given is used and updated, what is owned is left alone."""
    layer, expected = (case.ours(training, dtype=torch.float64) for _ in range(2))
    given = {name: t.detach().clone() for name, t in tensors(expected).items()}
    for name in dict(layer.named_parameters()):
        given[name].requires_grad_()
    with torch.no_grad():
        for t in tensors(layer).values():
            t.zero_()
    x = case.input()
    y = functional_call(layer, given, (x,))
    assert torch.equal(y, expected(x))
    assert y.requires_grad == bool(dict(layer.named_parameters()))
    for name, t in tensors(expected).items():
        assert torch.equal(given[name], t), name
    assert not any(t.any() for t in tensors(layer).values())


@each_case
@each_mode
@pytest.mark.parametrize("whose", ["torchs", "ours"])
def test_ensemble_of_layers_is_one_call(case, training, whose):
    """As torch.func demands: stacked layers under vmap compute what each does by itself."""
    layers = [getattr(case, whose)(training, dtype=torch.float64) for _ in range(3)]
    with torch.no_grad():
        for scale, layer in enumerate(layers):
            for t in tensors(layer).values():
                t.mul_(scale + 1)
    parameters, buffers = stack_module_state(layers)

    def call(parameters, buffers, x):
        return functional_call(layers[0], (parameters, buffers), (x,))

    x = torch.stack([k + case.input() for k in range(3)])
    if whose == "torchs" and training and layers[0].momentum is None:
        # What torch cannot do and ours can: it reads the number of batches.
        with pytest.raises(RuntimeError, match=r"calling \.item\(\)"):
            vmap(call)(parameters, buffers, x)
        return
    y = vmap(call)(parameters, buffers, x)
    assert_close(y, torch.stack([layer(part) for layer, part in zip(layers, x, strict=True)]))
    for name, stacked in buffers.items():
        assert_close(stacked, torch.stack([tensors(layer)[name] for layer in layers]))


@each_case
@each_mode
def test_lazy_layer_becomes_the_one_of_its_first_input(case, training):
    """ModuleInfo has no inputs for lazy layers; those of the others do, without num_features."""
    assert f"Lazy{case.name}" not in MODULES
    (_, *args), kwargs = case.arguments()
    lazy = getattr(batchnorm, f"Lazy{case.name}")(*args, **kwargs, dtype=torch.float64)
    expected = case.ours(training, dtype=torch.float64)
    x = case.input()
    lazy.train(False)(x)
    assert type(lazy) is type(expected)
    lazy.load_state_dict(expected.state_dict())
    assert repr(lazy) == repr(expected)
    assert_same(lazy.train(training), expected, x)
