"""Exported graphs have the same nodes as those of torch's layer, and compute the same."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn

from .cases import (
    ACTIVATIONS,
    CLASSES,
    assert_close,
    batch,
    call_arguments,
    each_class,
    each_mode,
    each_option,
    layer,
    pair,
)

each_class_or_activation = pytest.mark.parametrize(
    ("cls", "activation"),
    [(cls, None) for cls in CLASSES] + [(bn.BatchNorm2d, name) for name in ACTIVATIONS],
)
tracing = pytest.mark.filterwarnings("ignore:.torch.jit.trace")


def operations(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@each_class_or_activation
def test_evaluation_graph_is_torchs(cls, activation):
    ours, its = (made.eval() for made in pair(cls, activation=activation))
    programs = [torch.export.export(made, (batch(cls),)) for made in (ours, its)]
    assert operations(programs[0]) == operations(programs[1])
    assert operations(programs[0])[0] == "aten.batch_norm.default"
    x = batch(cls, seed=1)
    torch.testing.assert_close(programs[0].module()(x), its(x))


@each_mode
def test_network_of_any_batch_size(training):
    torch.manual_seed(0)
    ours, its = (
        nn.Sequential(nn.Conv2d(4, 4, 2), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 1), norm(4))
        for norm in (bn.BatchNorm2d, nn.BatchNorm2d)
    )
    its.load_state_dict(ours.state_dict())
    ours.train(training), its.train(training)
    sizes = ({0: torch.export.Dim("samples", min=2)},)
    exported = torch.export.export(ours, (batch(),), dynamic_shapes=sizes).module()
    for samples in (3, 12):
        x = batch(seed=samples)[:samples]
        torch.testing.assert_close(exported(x), its(x))
    found = exported.state_dict()
    assert_close({name: found[name] for name in its.state_dict()}, dict(its.state_dict()))


@each_class
def test_exported_training_moves_the_statistics_as_torchs_does(cls):
    ours, its = pair(cls)
    exported = torch.export.export(ours, (batch(cls),)).module()
    for seed in range(3):
        torch.testing.assert_close(exported(batch(cls, seed=seed)), its(batch(cls, seed=seed)))
    found = exported.state_dict()
    assert_close({name: found[name] for name in its.state_dict()}, dict(its.state_dict()))


def test_exported_training_skips_non_finite_values():
    made = layer()
    exported = torch.export.export(copy.deepcopy(made), (batch(),)).module()
    x = batch()
    x[0, 2] = torch.inf
    made(x), exported(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(dict(exported.named_buffers())[name], getattr(made, name))
    assert made.running_mean.isfinite().all()


@pytest.mark.slow
@each_option
@each_mode
def test_every_option_can_be_exported(options, training):
    made = layer(options=options).train(training)
    exported = torch.export.export(copy.deepcopy(made), (batch(),)).module()
    for seed in range(2):
        torch.testing.assert_close(exported(batch(seed=seed)), made(batch(seed=seed)))
    found = dict(exported.named_buffers())
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(found[name], getattr(made, name))


@pytest.mark.parametrize("kind", ["residual", "mask", "sample_weight"])
@each_mode
def test_every_call_can_be_exported(kind, training):
    made = layer(activation="relu").train(training)
    x = batch()
    arguments = call_arguments(kind, x)
    exported = torch.export.export(copy.deepcopy(made), (x,), arguments).module()
    torch.testing.assert_close(exported(x, **arguments), made(x, **arguments))


def test_residual_is_added_before_the_activation_in_the_evaluation_graph():
    made = layer(activation="relu").eval()
    x = batch()
    program = torch.export.export(made, (x,), call_arguments("residual", x))
    assert operations(program) == [
        "aten.batch_norm.default",
        "aten.add.Tensor",
        "aten.relu.default",
    ]


def test_saved_program_is_loaded_without_this_library(tmp_path):
    made = layer(activation="silu").eval()
    path = tmp_path / "layer.pt2"
    torch.export.save(torch.export.export(made, (batch(),)), path)
    torch.testing.assert_close(torch.export.load(path).module()(batch(seed=1)), made(batch(seed=1)))


@each_class_or_activation
@tracing
def test_traced_evaluation_is_torchs(cls, activation):
    ours, its = (made.eval() for made in pair(cls, activation=activation))
    traced = [torch.jit.trace(made, batch(cls)) for made in (ours, its)]
    kinds = [[node.kind() for node in each.inlined_graph.nodes()] for each in traced]
    calls = [[kind for kind in each if kind.startswith("aten::")] for each in kinds]
    assert calls[0] == calls[1]
    assert calls[0][0] == "aten::batch_norm"
    x = batch(cls, seed=1)[:5]
    torch.testing.assert_close(traced[0](x), its(x))


@tracing
@each_option
def test_traced_evaluation_with_every_option(options):
    made = layer(options=options).eval()
    traced = torch.jit.trace(made, batch())
    torch.testing.assert_close(traced(batch(seed=1)), made(batch(seed=1)))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_frozen_trace_folds_the_layer_into_the_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 2)
    graphs, outputs = [], []
    for made in pair():
        frozen = torch.jit.freeze(torch.jit.trace(nn.Sequential(conv, made).eval(), batch()))
        graphs.append([node.kind() for node in frozen.inlined_graph.nodes()])
        outputs.append(frozen(batch(seed=1)))
    assert graphs[0] == graphs[1]
    assert "aten::batch_norm" not in graphs[0]
    torch.testing.assert_close(*outputs)
