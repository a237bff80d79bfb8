import gc
import math
import re
import weakref

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, functional
from batchnorm.errors import (
    BatchNormError,
    DtypeError,
    OptionError,
    ShapeError,
    StatisticsError,
)
from batchnorm.nn.names import label, qualified_name

from .cases import assert_same_state, known, random, state


class Block(nn.Module):
    def __init__(self, channels=3, **options):
        super().__init__()
        self.lin = nn.Linear(3, channels)
        self.bn = known(3, **options)

    def forward(self, x, **arguments):
        return self.bn(self.lin(x), **arguments)


class Wrapper(nn.Module):
    """As DataParallel, DistributedDataParallel and many others."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.ModuleDict({"norm": known(3)}) for _ in range(3)])

    def forward(self, x):
        return self.stages[2]["norm"](x)


def shared():
    layer = known(3)
    return nn.Sequential(nn.Sequential(nn.Identity(), layer), layer)


WRONG = torch.zeros(4, 5)
NAMED = {
    "sequential": (lambda: nn.Sequential(nn.Identity(), known(3)), "1"),
    "custom": (lambda: Block(5), "bn"),
    "nested": (lambda: nn.Sequential(nn.Identity(), nn.Sequential(Block(5))), "1.0.bn"),
    "listed": (Listed, "stages.2.norm"),
    "wrapped": (lambda: Wrapper(Block(5)), "module.bn"),
    "data parallel": (lambda: nn.DataParallel(Block(5)), "module.bn"),
    "wrapped twice": (lambda: Wrapper(nn.Sequential(Wrapper(known(3)))), "module.0.module"),
    "shared": (shared, "0.1"),
}


def right(model, x):
    """The same input, of the right number of features for what comes before the layer."""
    takes_three = any(isinstance(module, nn.Linear) for module in model.modules())
    return x[:, :3] if takes_three else x


@pytest.mark.parametrize("case", NAMED)
def test_error_names_the_layer_as_the_model_does(case):
    make, name = NAMED[case]
    model = make()
    with pytest.raises(ShapeError, match=rf"^BatchNorm1d\(3\) at '{re.escape(name)}': expected 3 "):
        model(right(model, WRONG))
    found = dict(model.named_modules(remove_duplicate=False))
    assert isinstance(found[name], BatchNorm1d)


def test_layer_alone_has_no_name():
    layer = known(3)
    assert label(layer) == "BatchNorm1d(3)"
    with pytest.raises(ShapeError, match=r"^BatchNorm1d\(3\): expected 3 channels at axis 1"):
        layer(WRONG)


def test_layer_called_by_a_function_has_the_name_of_no_other_model():
    model = nn.Sequential(nn.Linear(3, 3), known(3))

    def step(module, x):
        return module(x)

    with pytest.raises(ShapeError, match=r"^BatchNorm1d\(3\): "):
        step(model[1], WRONG)


def test_functional_call_names_the_layer_too():
    model = nn.Sequential(nn.Identity(), Block(5))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with pytest.raises(ShapeError, match=r"BatchNorm1d\(3\) at '1\.bn'"):
        torch.func.functional_call(model, tensors, (WRONG[:, :3],))
    layer = model[1].bn
    with pytest.raises(ShapeError, match=r"^BatchNorm1d\(3\): "):
        torch.func.functional_call(layer, dict(layer.named_buffers()), (WRONG,))


def test_checkpointed_and_hooked_models_name_the_layer():
    model = nn.Sequential(nn.Identity(), nn.Sequential(known(3)))
    model.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(ShapeError, match=r"at '1\.0'"):
        model(WRONG)
    with pytest.raises(ShapeError, match=r"at '0'"):
        torch.utils.checkpoint.checkpoint(model[1], WRONG, use_reentrant=False)


def test_self_of_other_things_is_not_a_model():
    class Trainer:
        def __init__(self, layer):
            self.layer = layer

        def step(self):
            return qualified_name(self.layer)

    assert Trainer(known(3)).step() == ""


def test_function_that_goes_on_after_an_error_keeps_nothing_alive():
    """Before Python 3.13 a look at the variables of a caller leaves a copy of them there."""
    layer, mine = known(3), torch.zeros(3)
    gone = weakref.ref(mine)
    with pytest.raises(ShapeError):
        layer(WRONG)
    del mine
    gc.collect()
    assert gone() is None


X = random((4, 3))
NAN, ONES = torch.full((4,), torch.nan), torch.ones(4)
BAD_CALLS = {
    "channels": ((torch.zeros(4, 5),), {}, ShapeError, "expected 3 channels at axis 1, found 5"),
    "channels last": ((torch.zeros(4, 2, 3),), {}, ShapeError, "found 2 .* move the channels"),
    "axes": ((torch.zeros(4, 3, 2, 2),), {}, ShapeError, "with 2 or 3 axes .* found 4"),
    "no batch": ((torch.zeros(3),), {}, ShapeError, "found 1 "),
    "scalar": ((torch.zeros(()),), {}, ShapeError, r"found 0 \(input \(\) \(a scalar\)\)"),
    "integers": ((torch.ones(4, 3, dtype=torch.int64),), {}, DtypeError, "found torch.int64"),
    "booleans": ((torch.ones(4, 3) > 0,), {}, DtypeError, "found torch.bool"),
    "complex": ((torch.ones(4, 3) + 1j,), {}, DtypeError, "found torch.complex64"),
    "single value": ((X[:1],), {}, StatisticsError, "more than 1 value per channel .* found 1"),
    "residual of another shape": ((X, X[:, :1]), {}, ShapeError, "4×3, found 4×1"),
    "integer residual": (
        (X, torch.ones(4, 3).int()),
        {},
        DtypeError,
        "residual, found torch.int32",
    ),
    "mask of another shape": ((X,), {"mask": torch.ones(4, 3).bool()}, ShapeError, "mask .* 4×3"),
    "mask of another size": ((X,), {"mask": torch.ones(3).bool()}, ShapeError, "shape 4 for .*3\n"),
    "floating mask": ((X,), {"mask": ONES}, DtypeError, "boolean mask .* found torch.float32"),
    "mask of one value": (
        (X,),
        {"mask": torch.arange(4) < 1},
        StatisticsError,
        "more than 1 value",
    ),
    "weights of another shape": ((X,), {"sample_weight": ONES[:3]}, ShapeError, "sample_weight"),
    "integer weights": ((X,), {"sample_weight": ONES.int()}, DtypeError, "floating .* torch.int32"),
    "negative weights": ((X,), {"sample_weight": -ONES}, StatisticsError, "from -1 to -1"),
    "one negative": (
        (X,),
        {"sample_weight": torch.tensor([1.0, -0.5, 2.0, 0.0])},
        StatisticsError,
        "not negative, found values from -0.5 to 2",
    ),
    "infinite weights": ((X,), {"sample_weight": ONES / 0}, StatisticsError, "found .* inf"),
    "weights of NaN": ((X,), {"sample_weight": NAN}, StatisticsError, "found .* nan"),
    "weights of zero": ((X,), {"sample_weight": 0 * ONES}, StatisticsError, "found 0 everywhere"),
    "one positive weight": (
        (X,),
        {"sample_weight": torch.tensor([0.0, 0.0, 3.0, 0.0])},
        StatisticsError,
        "more than 1 value",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 2, "activation": "relu"}], ids=str)
def test_bad_call_is_refused_by_name_and_changes_nothing(case, options):
    args, arguments, kind, match = BAD_CALLS[case]
    model = nn.Sequential(nn.Identity(), Wrapper(known(3, **options)))
    layer, fine = model[1].module, known(3, **options)
    before = state(model)
    model[1].forward = lambda x: layer(x, *args[1:], **arguments)
    with pytest.raises(kind, match=match) as caught:
        model(args[0])
    assert str(caught.value).startswith("BatchNorm1d(3) at '1.module': ")
    assert isinstance(caught.value, BatchNormError)
    assert isinstance(caught.value, TypeError if kind is DtypeError else ValueError)
    assert_same_state(model, before)
    assert torch.equal(layer(X), fine(X))
    assert_same_state(layer, state(fine))


SET_LATER = {
    "momentum": ([-0.1, 1.5, math.nan], "expected momentum"),
    "eps": ([0.0, -1e-5, math.nan], "eps must be positive"),
    "activation": (["swish", 3], "expected activation to be"),
    "virtual_batch_size": ([0, -1, 2.0, True], "expected virtual_batch_size"),
    "degenerate": (["ignore", None], "expected degenerate to be one of 'raise', 'running'"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, (values, _) in SET_LATER.items() for value in values],
)
def test_option_set_to_a_wrong_value_is_refused_by_name(name, value):
    model = nn.Sequential(known(3))
    before, was = state(model), getattr(model[0], name)
    setattr(model[0], name, value)
    with pytest.raises(OptionError, match=SET_LATER[name][1]) as caught:
        model(X)
    assert str(caught.value).startswith("BatchNorm1d(3) at '0': ")
    assert_same_state(model, before)
    setattr(model[0], name, was)
    assert torch.equal(model(X), known(3)(X))


def test_error_of_the_function_has_no_layer():
    with pytest.raises(StatisticsError, match=r"^expected more than 1 value"):
        functional.batch_norm(torch.zeros(1, 3), None, None, training=True)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_vector_of_the_wrong_length_is_named(name, training):
    model = nn.Sequential(known(3)).train(training)
    vector = torch.ones(2)
    setattr(model[0], name, vector if name.startswith("running") else nn.Parameter(vector))
    before = state(model)
    with pytest.raises(ShapeError, match=rf"at '0': expected {name} to have one value for each"):
        model(X)
    assert_same_state(model, before)


def test_evaluation_names_the_layer():
    model = nn.Sequential(known(3)).eval()
    with pytest.raises(ShapeError, match=r"BatchNorm1d\(3\) at '0': expected 3 channels"):
        model(WRONG)
    with pytest.raises(DtypeError, match=r"at '0': expected a floating point input"):
        model(X.int())
