"""What a watched run says of who feeds whom, for each way in which a tensor can be read."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.errors import SurgeryError
from batchnorm.surgery.example import Example
from batchnorm.surgery.graph.graph import values_in
from batchnorm.surgery.graph.watch import watch

from .nets import Net
from .test_fold import images

X = images(2, 3)


def seen(forward, *args, model=None, **kwargs):
    model = Net(forward, fc=nn.Linear(3, 3)) if model is None else model
    return watch(model, Example(args or (X,), kwargs))


def readers(graph, name="fc"):
    """The names of the operators that read what a layer gives."""
    call = graph.calls_of(name)[0]
    return [step.op.overloadpacket.__name__ for step in call.outputs.readers]


def test_calls_with_what_they_take_and_give():
    graph = seen(lambda m, x: F.relu(m.fc(x)) + m.fc(x))
    assert [str(call) for call in graph.calls] == [
        "Net 'the model itself'",
        "Linear 'fc'",
        "linear in Linear 'fc'",
        "relu in Net 'the model itself'",
        "Linear 'fc', call 2",
        "linear in Linear 'fc', call 2",
        "add in Net 'the model itself'",
    ]
    model, first, inside, relu, second, _, add = graph.calls
    assert first.args[0] is second.args[0] is model.args[0] is inside.args[0]
    assert relu.args == (first.outputs,) and add.args == (relu.outputs, second.outputs)
    assert model.outputs is add.outputs and model.outputs.is_output
    assert [value.names for value in inside.args[1:]] == [("fc.weight",), ("fc.bias",)]
    assert inside.module is first and add.module is model


def test_tuples_dicts_and_keywords():
    def forward(m, pair, *, options):
        return {"y": (m.fc(pair[0]), pair[1] * options["scale"])}

    graph = seen(forward, (X, X + 1), options={"scale": 2.0})
    model = graph.calls[0]
    assert len(list(values_in(model.args))) == 2 and model.kwargs == {"options": {"scale": 2.0}}
    fed, scaled = model.outputs["y"]
    assert fed is graph.calls_of("fc")[0].outputs and fed.is_output
    assert scaled.made_by.reads == [model.args[0][1]]


def test_an_operation_in_place_ends_a_value():
    graph = seen(lambda m, x: (lambda y: y.relu_() + y)(m.fc(x)))
    value = graph.calls_of("fc")[0].outputs
    assert readers(graph) == ["relu_"]
    after = value.readers[0].outputs[-1]
    assert [step.op.overloadpacket.__name__ for step in after.readers] == ["add"]
    assert after.readers[0].reads == [after, after]


def test_a_write_through_a_view_ends_the_value_under_it():
    def forward(m, x):
        y = m.fc(x)
        y[:, 0] = 1.0
        return y

    graph = seen(forward)
    value = graph.calls_of("fc")[0].outputs
    assert not value.is_output
    assert graph.calls[0].outputs.made_by.op.overloadpacket.__name__ in ("fill_", "copy_")


def test_augmented_assignment():
    def forward(m, x):
        y = m.fc(x)
        y += x
        return y

    graph = seen(forward)
    assert readers(graph) == ["add_"]
    assert graph.calls[0].outputs.made_by.reads == [
        graph.calls_of("fc")[0].outputs,
        graph.calls[0].args[0],
    ]


def test_what_is_kept_is_noticed():
    def forward(m, x):
        m.last = m.fc(x)
        return m.last + 1

    assert seen(forward).calls_of("fc")[0].outputs.is_kept
    assert not seen(lambda m, x: m.fc(x) + 1).calls_of("fc")[0].outputs.is_kept


def test_a_cycle_keeps_nothing():
    def forward(m, x):
        held = [m.fc(x)]
        held.append(held)
        return held[0] + 1

    assert not seen(forward).calls_of("fc")[0].outputs.is_kept


def test_what_hides_is_named():
    graph = seen(lambda m, x: m.fc(x) * float(m.fc(x).numpy().sum() > 0))
    assert graph.calls_of("fc")[1].outputs.unseen == ["numpy in Net 'the model itself'"]


def test_another_name_for_the_memory_reads_it():
    graph = seen(lambda m, x: (lambda y: (y.data * 2, y * 3)[1])(m.fc(x)))
    assert len(graph.calls_of("fc")[0].outputs.readers) == 2


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.fc(x) if x.sum() > 0 else x,
        lambda m, x: m.fc(x) * x.max().item(),
        lambda m, x: m.fc(x) if torch.equal(x, x + 1) else x,
        lambda m, x: m.fc(x) if torch.tensor(x.tolist()).sum() > 0 else x,
        lambda m, x: m.fc(x) if torch.tensor(x.numpy()).sum() > 0 else x,
        lambda m, x: m.fc(x) if torch.from_numpy(x.numpy()).sum() > 0 else x,
    ],
    ids=["bool", "item", "equal", "list", "array", "memory"],
)
def test_decisions_by_values_are_noticed(forward):
    assert len(seen(forward).decisions) == 1


@pytest.mark.parametrize(
    "constant",
    [lambda x: torch.ones(2), lambda x: torch.tensor([2.0, 3.0]), lambda x: torch.tensor(x.shape)],
    ids=["made", "numbers", "shape"],
)
def test_decisions_by_constants_are_none(constant):
    graph = seen(lambda m, x: m.fc(x) if constant(x).sum() > 1 else x)
    assert graph.decisions == []


def test_layers_whose_kernels_are_no_operators():
    model = nn.Sequential(nn.Linear(3, 3), bn.BatchNorm1d(3, activation="relu"), nn.Tanh())
    graph = seen(None, images(8, 3), model=model)
    norm, tanh = graph.calls_of("1")[0], graph.calls_of("2")[0]
    assert norm.args == (graph.calls_of("0")[0].outputs,) and tanh.args == (norm.outputs,)
    assert norm.outputs.made_by.op is None and norm.outputs.made_by.reads == [norm.args[0]]


def test_shared_modules_have_the_first_of_their_names_and_numbers():
    layer = nn.Linear(3, 3)
    graph = seen(None, X, model=nn.Sequential(layer, nn.ReLU(), layer))
    assert [str(call) for call in graph.calls_of("0")] == ["Linear '0'", "Linear '0', call 2"]
    assert graph.calls_of("2") == []


def test_an_exception_inside_a_model_does_not_confuse():
    def failing(m, x):
        raise ValueError("on purpose")

    def forward(m, x):
        with contextlib.suppress(ValueError):
            m.inner(x)
        return m.fc(x)

    model = Net(forward, inner=Net(failing), fc=nn.Linear(3, 3))
    graph = seen(None, X, model=model)
    assert graph.calls_of("fc")[0].outer == (graph.calls[0],)
    assert graph.calls_of("inner")[0].outputs is None


def test_a_model_that_does_not_run_is_refused_with_the_place():
    with pytest.raises(SurgeryError, match=r"\(2, 5\) torch.float32.*linear in Linear 'fc'"):
        seen(lambda m, x: m.fc(x), images(2, 5))


def test_nothing_stays_on_the_model():
    model = Net(lambda m, x: m.fc(x), fc=nn.Linear(3, 3))
    calls = []
    model.fc.register_forward_hook(lambda module, args, output: calls.append(output))
    watch(model, Example((X,), {}))
    assert len(calls) == 1 and len(model.fc._forward_hooks) == 1
    assert not model._forward_hooks and model.training


def test_precision_is_that_of_the_coarsest_numbers():
    assert seen(lambda m, x: m.fc(x)).eps == 2**-23
    assert seen(lambda m, x: m.fc(x).bfloat16().float()).eps == 2**-7
    assert seen(lambda m, x: x, X.double()).eps == 2**-52
