"""What `insert` refuses: by name, with advice, and with the given model as it was."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

import batchnorm as bn
from batchnorm.errors import SurgeryError


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return x + self.inner(x)


class Reversed(nn.Sequential):
    def forward(self, x):
        for module in reversed(self):
            x = module(x)
        return x


class HiddenReLU(nn.Module):
    def forward(self, x):
        return F.relu(x)


class HiddenGate(nn.Module):
    def forward(self, x):
        return x * (x > 0)


class HiddenSquare(nn.Module):
    def forward(self, x):
        return x * x


class HiddenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(3))

    def forward(self, x):
        return x @ self.matrix


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Patched(nn.Sequential):
    def __init__(self, *modules):
        super().__init__(*modules)
        self.forward = lambda x: x


class Permute(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 1)


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.net(x)


def after(module):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.register_module("2", module)
    return model


def twice(block):
    return nn.Sequential(nn.Linear(3, 3), block, block)


FLAT = torch.zeros(2, 3)
WITH_EXAMPLE = r"insert\(model, example\)"

BLIND = {
    "custom root": (Root(), r"\(the model itself\): Root .* holds Linear, ReLU", WITH_EXAMPLE),
    "custom block": (after(Residual()), "2: Residual .* holds Linear, ReLU", WITH_EXAMPLE),
    "own forward": (after(Reversed(nn.Linear(3, 3))), "2: Reversed .* holds Linear", WITH_EXAMPLE),
    "empty, own forward": (after(Reversed()), "2: Reversed is an nn.Sequential", WITH_EXAMPLE),
    "patched forward": (
        after(Patched(nn.Linear(3, 3))),
        "2: Patched .* holds Linear",
        WITH_EXAMPLE,
    ),
    "subclass": (after(ScaledLinear(3, 3)), "2: ScaledLinear", WITH_EXAMPLE),
    "unknown leaf": (
        after(HiddenReLU()),
        "2: HiddenReLU .* may hide",
        WITH_EXAMPLE,
    ),
    "attention": (after(nn.MultiheadAttention(3, 1)), "2: MultiheadAttention", WITH_EXAMPLE),
    "recurrent": (after(nn.LSTM(3, 3)), "2: LSTM", WITH_EXAMPLE),
    "transformer": (
        after(nn.TransformerEncoderLayer(3, 1, 4)),
        "2: TransformerEncoderLayer .* holds",
        WITH_EXAMPLE,
    ),
    "module list": (after(nn.ModuleList([nn.ReLU()])), "2: ModuleList .* holds ReLU", WITH_EXAMPLE),
    "deep": (after(nn.Sequential(nn.Sequential(Residual()))), "2.0.0: Residual", WITH_EXAMPLE),
    "empty place": (after(None), "2: NoneType is an empty place", WITH_EXAMPLE),
    "lazy": (after(nn.LazyLinear(4)), "2: lazy", "Run one batch"),
    "no activation": (nn.Sequential(nn.Linear(3, 3)), "no activation", "nn.ReLU"),
    "bare layer": (nn.Linear(3, 3), "no activation", "nn.ReLU"),
    "output only": (nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), "nothing to insert", "'1'"),
    "shared block": (
        twice(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
        "'1', '2' are one and the same nn.Sequential",
        "Give each call",
    ),
    "complex": (
        nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64), nn.ReLU()),
        "Linear '0' is torch.complex64",
        "real numbers",
    ),
}

SEEN = {
    "nothing but functions": (HiddenLinear(), FLAT, "nothing to insert", "neither a layer nor"),
    "unbatched features": (after(nn.Identity()), torch.zeros(3), "Linear '0'", "unsqueeze"),
    "unbatched image": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
        torch.zeros(3, 5, 5),
        r"Conv2d '0' runs on shape \(4, 5, 5\), without a batch axis",
        "unsqueeze",
    ),
    "shared block": (
        twice(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
        FLAT,
        "Sequential '1' is called 2 times",
        "share the statistics of one normalization",
    ),
    "complex": (
        nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64), nn.Tanh(), nn.Identity()),
        FLAT.to(torch.complex64),
        "it gives torch.complex64",
        "real numbers",
    ),
    "wrong example": (
        nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(5, 1)),
        FLAT,
        r"does not run on the example \(\(2, 3\) torch.float32\)",
        r"Linear '1'",
    ),
    "two examples": (after(nn.Identity()), (FLAT, FLAT), "does not run", "positional arguments"),
    "no tensor": (after(nn.Identity()), ([1.0],), "does not run", "no tensors"),
    "compiled": (
        after(torch.compile(nn.Linear(3, 3), backend="eager")),
        FLAT,
        "'2' is compiled",
        "before",
    ),
}

OTHER_PLACES = {
    "input without example": ("input", after(nn.Identity()), None, "insert(model, example"),
    "input of indices": (
        "input",
        nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 2)),
        torch.zeros(4, dtype=torch.long),
        "Indices of an embedding",
    ),
    "input of an unbatched image": (
        "input",
        nn.Sequential(nn.Conv2d(3, 2, 1)),
        torch.zeros(3, 4, 4),
        "unsqueeze(0)",
    ),
    "input of one axis": ("input", nn.Sequential(nn.Identity()), torch.zeros(3), "(N, C)"),
    "input of a function": ("input", HiddenLinear(), FLAT, "insert(nn.Sequential(model)"),
    "input of a recurrent layer": (
        "input",
        nn.Sequential(nn.RNN(3, 4)),
        FLAT[None],
        "RNN '0' reads it, whose features are the last axis",
    ),
    "input normalized": (
        "input",
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)),
        FLAT,
        "normalized by BatchNorm1d '0' already",
    ),
    "unknown number of channels": (
        "after_activation",
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.ReLU(), nn.Linear(8, 1)),
        None,
        "insert(model, example)",
    ),
    "pooled features": (
        "after_activation",
        nn.Sequential(nn.Linear(3, 4), nn.MaxPool1d(2), nn.ReLU(), nn.Linear(2, 1)),
        None,
        "MaxPool1d '1' changes the number of channels",
    ),
    "gated without example": (
        "after_activation",
        nn.Sequential(nn.Linear(3, 2), nn.GLU(), nn.Linear(1, 1)),
        None,
        "insert(model, example)",
    ),
    "permuted channels": (
        "after_activation",
        nn.Sequential(nn.Conv1d(3, 2, 1), Permute(), nn.ReLU(), nn.Linear(2, 1)),
        torch.zeros(2, 3, 4),
        "where='before_activation'",
    ),
}


def refusal(model, *examples, **options):
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    with pytest.raises(SurgeryError) as caught:
        bn.insert(model, *examples, **options)
    assert list(model.modules()) == modules
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert is_lazy(tensor) or torch.equal(tensor, before[name]), name
    return str(caught.value)


def assert_says(message, *patterns):
    for pattern in patterns:
        assert re.search(pattern, message), message


@pytest.mark.parametrize(("model", "name", "advice"), BLIND.values(), ids=BLIND.keys())
def test_insert_refuses_without_example(model, name, advice):
    assert_says(refusal(model), name, advice)


@pytest.mark.parametrize(("model", "example", "name", "advice"), SEEN.values(), ids=SEEN.keys())
def test_insert_refuses_what_the_example_shows(model, example, name, advice):
    examples = example if isinstance(example, tuple) else (example,)
    assert_says(refusal(model, *examples), name, advice)


@pytest.mark.parametrize(
    ("where", "model", "example", "advice"), OTHER_PLACES.values(), ids=OTHER_PLACES.keys()
)
def test_insert_refuses_at_other_places(where, model, example, advice):
    examples = [] if example is None else [example]
    assert advice in refusal(model, *examples, where=where)


def test_insert_names_everything_it_cannot_see_at_once():
    model = nn.Sequential(Residual(), nn.Linear(3, 3), nn.ReLU(), nn.Sequential(HiddenReLU()))
    assert_says(refusal(model), "0: Residual", "3.0: HiddenReLU")


def test_insert_refuses_what_is_no_module():
    with pytest.raises(SurgeryError, match=r"takes an nn\.Module, got dict"):
        bn.insert({})


def test_insert_refuses_a_model_that_cannot_be_copied():
    model = after(nn.Identity())
    model[0].extra = (i for i in range(3))
    assert_says(refusal(model), "cannot be copied", "generator")


def test_insert_names_the_layer_on_which_the_new_model_fails():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    message = refusal(model, torch.zeros(1, 3), track_running_stats=False)
    assert_says(message, "with batch normalization put in, the model does not run", "'0_norm'")
