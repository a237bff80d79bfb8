"""Nodes of ONNX against ONNX Runtime."""

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import port

from . import rules

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ATTRIBUTES = {"epsilon": 2e-3, "momentum": 0.75}


def run(arrays, attributes, x):
    """What ONNX Runtime computes for a graph of one node."""
    names = list(arrays)
    node = onnx.helper.make_node("BatchNormalization", ["x", *names], ["y"], **attributes)
    info = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name in "xy"
    ]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = onnx.helper.make_graph([node], "norm", info[:1], info[1:], weights)
    opset = onnx.helper.make_opsetid("", 15)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def trained(**options):
    layer = bn.BatchNorm2d(3, eps=2e-3, momentum=0.25, **options)
    with torch.no_grad():
        for x in rules.batches(3, (4, 3, 2), 1):
            layer(torch.from_numpy(x))
        if layer.weight is not None:
            layer.weight.copy_(torch.tensor([1.5, -0.5, 0.25]))
    return layer


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
def test_inference_is_the_same_both_ways(options):
    layer = trained(**options)
    arrays, attributes = port.to_onnx(layer)
    assert attributes == ATTRIBUTES
    (x,) = rules.batches(1, (4, 3, 2), 1, seed=1)
    theirs = run(arrays, attributes, x)
    assert port.check(layer, x, theirs, axis=1) < 1e-5
    back = port.from_onnx(list(arrays.values()), **attributes).layer(2)
    for key in ("running_mean", "running_var"):
        assert torch.equal(getattr(back, key), getattr(layer, key))
    assert port.check(back, x, theirs, axis=1) < 1e-5


def test_the_reference_of_onnx_moves_statistics_as_the_rule_says():
    """Momentum is the weight of the old value, and the variance is biased."""
    from onnx.reference import ReferenceEvaluator

    layer = trained()
    arrays, attributes = port.to_onnx(layer)
    (x,) = rules.batches(1, (4, 3, 2), 1, seed=1)
    start = layer.running_mean.numpy().copy(), layer.running_var.numpy().copy()
    node = onnx.helper.make_node(
        "BatchNormalization", ["x", *arrays], ["y", "m", "v"], training_mode=1, **attributes
    )
    outputs = ReferenceEvaluator(node).run(None, {"x": x, **arrays})
    expected = rules.moved(*start, [x], 1, 0.75, correction=0)
    for found, wanted in zip(outputs[1:], expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=rules.rounding([x], 1).max())
    with torch.no_grad():
        layer(torch.from_numpy(x))
    ours = rules.moved(*start, [x], 1, 0.75, correction=1)
    for found, wanted in zip((layer.running_mean, layer.running_var), ours, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=rules.rounding([x], 1).max())


def test_a_node_in_training_mode_is_refused():
    with pytest.raises(bn.errors.OptionError, match="training_mode=0, found 1"):
        port.from_onnx([[1.0]] * 4, **ATTRIBUTES, training_mode=1)
