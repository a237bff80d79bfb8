"""The kernels as operations of torch: what a compiler may rely on, and what it makes of them."""

import pytest
import torch
from torch._functorch.aot_autograd import aot_module_simplified

from batchnorm import ops
from batchnorm.functional import batch_norm
from batchnorm.nn.batch_norm import BatchNorm2d

pytestmark = pytest.mark.native

X = {
    "rows": torch.randn(6, 3),
    "planes": torch.randn(2, 3, 4, 5),
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "strided": torch.randn(2, 3, 4, 10)[..., ::2],
    "half": torch.randn(2, 3, 4, 5).bfloat16(),
}
each_x = pytest.mark.parametrize("x", X.values(), ids=X)


def after(x, residual):
    weight, bias = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    return weight, bias, torch.randn_like(x).requires_grad_() if residual else None


@each_x
@pytest.mark.parametrize(("residual", "name"), [(False, None), (True, "gelu")])
def test_torch_finds_no_fault_with_the_operations(name, residual, x):
    x = x.detach().requires_grad_()
    given = (*after(x, residual), name)
    running = torch.zeros(3), torch.ones(3)
    torch.library.opcheck(ops.library.ops.train, (x, 1e-3, *given))
    torch.library.opcheck(ops.library.ops.evaluate, (x, *running, 1e-3, *given))


def targets(function, *inputs):
    """Names of the operations in the compiled graphs, forward and backward."""
    graphs = []

    def backend(graph, inputs):
        def keep(graph, _):
            graphs.append(graph)
            return graph

        return aot_module_simplified(graph, inputs, fw_compiler=keep)

    torch._dynamo.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*inputs).sum().backward()
    return {str(node.target) for graph in graphs for node in graph.graph.nodes}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_compiled_layer_is_one_operation_each_way(training):
    layer = BatchNorm2d(3, activation="relu").train(training)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = targets(layer, x, torch.randn(2, 3, 4, 5))
    assert f"batchnorm.{'train' if training else 'evaluate'}.default" in found
    assert "batchnorm.backward.default" in found
    assert not any("batch_norm" in name for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "relu", "gelu"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_compiled_layer_has_the_gradients_of_the_eager_one(training, name):
    layer = BatchNorm2d(3, activation=name).train(training)
    results = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)
        x, residual = (torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(2))
        y = call(x, residual)
        leaves = x, residual, layer.weight, layer.bias
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for ours, eager in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager, rtol=2**-20, atol=2**-20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_function_transforms_in_a_compiled_graph_are_right(transform):
    """They have no rules for the operations, so these must not be there."""

    def norm(x):
        return batch_norm(x, None, None, training=True, activation="silu")

    functions = {
        "vmap": torch.func.vmap(norm),
        "grad": torch.func.grad(lambda x: norm(x).square().sum()),
        "jvp": lambda x: torch.func.jvp(norm, (x,), (x.cos(),))[1],
    }
    x = torch.randn(5, 4, 3)
    torch._dynamo.reset()
    compiled = torch.compile(functions[transform], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), functions[transform](x))
