"""What only a GPU can show: graphs, compilation, and that nothing waits. The values are compared by
`test_triton` and `test_parity`, on a GPU as elsewhere."""

import pytest
import torch

from batchnorm import ops
from batchnorm.nn import BatchNorm2d

pytestmark = pytest.mark.gpu
SHAPE = (16, 32, 28, 28)


@pytest.fixture(autouse=True)
def kernels():
    found = ops.triton.kernels(torch.empty(1, 1, device="cuda"))
    assert found is not None, ops.triton.reason()


def layer(**options):
    made = BatchNorm2d(32, activation="relu", device="cuda", **options)
    with torch.no_grad():
        made.weight.uniform_(0.5, 1.5), made.bias.uniform_(-0.5, 0.5)
    return made


def inputs(dtype=torch.float32):
    generator = torch.Generator("cuda").manual_seed(0)
    x, residual = (
        (3 + torch.randn(SHAPE, device="cuda", generator=generator)).to(dtype) for _ in range(2)
    )
    return x.requires_grad_(), residual.requires_grad_()


def step(norm, x, residual):
    y = norm(x, residual)
    return [y, *torch.autograd.grad(y.square().sum(), [x, residual, *norm.parameters()])]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_step_is_done_by_the_kernels_and_waits_for_nothing(dtype, memory_format, monkeypatch):
    norm, (x, residual) = layer(), inputs(dtype)
    x, residual = (
        t.detach().to(memory_format=memory_format).requires_grad_() for t in (x, residual)
    )
    step(norm, x, residual)  # compiles
    monkeypatch.setattr(ops.aten, "standardize", None)
    monkeypatch.setattr(ops.composite, "standardize", None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step(norm, x, residual)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found[0].is_contiguous(memory_format=memory_format)
    assert norm.num_batches_tracked == 2


def test_masks_virtual_batches_and_renormalization_wait_for_nothing():
    norm = layer(virtual_batch_size=4)
    x, residual = inputs()
    mask = torch.rand(16, 28, 28, device="cuda") > 0.2
    norm(x, residual, mask=mask).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm(x, residual, mask=mask).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cuda_graph_replays_a_step():
    norm, (x, residual) = layer(), inputs()
    expected = layer()
    expected.load_state_dict(norm.state_dict())
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        for _ in range(3):
            step(norm, x, residual)
    torch.cuda.synchronize()
    norm.load_state_dict(expected.state_dict())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(norm, x, residual)
    for number in range(2):
        with torch.no_grad():
            x.add_(number), residual.mul_(0.5)
        graph.replay()
        found = step(expected, x, residual)
        assert all(map(torch.equal, captured, found))
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, expected.get_buffer(name)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_layer_does_what_the_eager_one_does(dtype):
    norm, (x, residual) = layer(), inputs(dtype)
    expected = step(norm, x, residual)
    torch._dynamo.reset()
    compiled = torch.compile(norm, fullgraph=True)
    y = compiled(x, residual)
    found = [y, *torch.autograd.grad(y.square().sum(), [x, residual, *norm.parameters()])]
    for ours, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, eager)
    assert norm.num_batches_tracked == 2


def test_the_least_is_kept_for_the_backward_pass():
    norm, (x, residual) = layer(), inputs()
    step(norm, x, residual)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    y = norm(x, residual)
    kept = torch.cuda.memory_allocated() - before - y.nbytes
    assert kept <= x.numel() / 8 + 2**14


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_tensor_on_another_than_the_current_device():
    norm, (x, residual) = layer(), inputs()
    expected = step(norm, x, residual)
    norm.reset_running_stats()
    norm = norm.to("cuda:1")
    x, residual = (t.detach().to("cuda:1").requires_grad_() for t in (x, residual))
    for ours, other in zip(step(norm, x, residual), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), other.cpu())
