"""ONNX files hold the same operators as those of torch's layer, and onnxruntime agrees."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import batchnorm as bn

from .cases import ACTIVATIONS, batch, call_arguments, layer, pair

EXPORTERS = {"dynamo": True, "TorchScript": False}
dynamo = pytest.param("dynamo", marks=pytest.mark.slow)
each_exporter = pytest.mark.parametrize("exporter", [dynamo, "TorchScript"])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


def export(model, path, exporter, *args):
    """Write a file; return its operators, and the session that runs it."""
    # The TorchScript exporter hands keyword-only arguments of the outermost module by position.
    model = nn.Sequential(model) if len(args) == 1 else model
    torch.onnx.export(model.eval(), args, path, dynamo=EXPORTERS[exporter], verbose=False)
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node if node.op_type != "Identity"]
    return kinds, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, *inputs):
    names = [each.name for each in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def networks(make):
    """The same network with our layers and with torch's, in evaluation."""
    models = []
    for which in (0, 1):
        torch.manual_seed(0)
        models.append(make(lambda *args, which=which, **kw: pair(*args, **kw)[which]).eval())
    return models


def every_activation(norm):
    layers = []
    for activation in ACTIVATIONS:
        layers += [nn.Conv2d(4, 4, 1), norm(bn.BatchNorm2d, activation=activation)]
    return nn.Sequential(*layers)


NETWORKS = {
    "after a convolution": lambda norm: nn.Sequential(nn.Conv2d(4, 4, 2), norm(bn.BatchNorm2d)),
    "before a convolution": lambda norm: nn.Sequential(norm(bn.BatchNorm2d), nn.Conv2d(4, 4, 2)),
    "alone": lambda norm: norm(bn.BatchNorm2d),
    "every activation": every_activation,
    "after a linear layer": lambda norm: nn.Sequential(
        nn.Flatten(), nn.Linear(24, 4), norm(bn.BatchNorm1d)
    ),
    "one axis": lambda norm: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(4, 4, 2), norm(bn.BatchNorm1d, activation="relu")
    ),
    "three axes": lambda norm: nn.Sequential(
        nn.Unflatten(3, (2, 1)), nn.Conv3d(4, 4, 1), norm(bn.BatchNorm3d)
    ),
}


@pytest.mark.parametrize(
    ("network", "exporter"),
    [(name, "TorchScript") for name in NETWORKS]
    + [pytest.param("every activation", "dynamo", marks=pytest.mark.slow)],
)
def test_file_is_as_with_torchs_layer(network, exporter, tmp_path):
    ours, its = networks(NETWORKS[network])
    found, session = export(ours, tmp_path / "ours.onnx", exporter, batch())
    expected, _ = export(its, tmp_path / "its.onnx", exporter, batch())
    assert found == expected
    x = batch(seed=1)
    torch.testing.assert_close(run(session, x), its(x), rtol=1e-4, atol=1e-5)


@each_exporter
def test_alone_it_is_a_batch_normalization(exporter, tmp_path):
    found, _ = export(layer(), tmp_path / "layer.onnx", exporter, batch())
    assert found == ["BatchNormalization"]


@each_exporter
def test_after_a_convolution_it_is_gone(exporter, tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 4, 2), layer(activation="relu"))
    found, session = export(model, tmp_path / "model.onnx", exporter, batch())
    assert found == ["Conv", "Relu"]
    x = batch(seed=1)
    torch.testing.assert_close(run(session, x), model(x), rtol=1e-4, atol=1e-5)


@each_exporter
def test_residual_is_an_input_of_the_file(exporter, tmp_path):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer(activation="relu")

        def forward(self, x, residual):
            return self.norm(x, residual)

    model, x = Block(), batch()
    residual = call_arguments("residual", x)["residual"]
    found, session = export(model, tmp_path / "block.onnx", exporter, x, residual)
    assert found == ["BatchNormalization", "Add", "Relu"]
    torch.testing.assert_close(run(session, x, residual), model(x, residual))


@pytest.mark.parametrize("options", ["virtual", "renorm", "average"])
def test_options_of_training_leave_no_trace(options, tmp_path):
    path = tmp_path / "layer.onnx"
    found, session = export(layer(options=options), path, "TorchScript", batch())
    assert found == ["BatchNormalization"]
    made = layer(options=options).eval()
    torch.testing.assert_close(run(session, batch(seed=1)), made(batch(seed=1)))


@pytest.mark.slow
def test_batch_size_of_the_file_can_vary(tmp_path):
    made, path = layer(activation="relu").eval(), tmp_path / "layer.onnx"
    samples = ({0: torch.export.Dim("samples", min=2)},)
    torch.onnx.export(made, (batch(),), path, dynamic_shapes=samples, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (3, 12):
        x = batch(seed=count)[:count]
        torch.testing.assert_close(run(session, x), made(x))
