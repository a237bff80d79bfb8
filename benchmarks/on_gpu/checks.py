"""What has to hold before times mean anything: right results, and steps that can be captured."""

import copy
import itertools

import torch
from torch import Tensor, nn

import batchnorm as bn
from batchnorm.bench.case import EAGER, KERNEL, LAYOUTS, OPERATIONS, OURS, Case
from batchnorm.bench.cell import prepare
from batchnorm.bench.devices import Device

SHAPES = ((16, 64, 14, 14), (9, 65, 7, 7))
"""One that the kernels like, and a ragged one."""

DTYPES = ("bfloat16", "float32")
ULPS = 16


class Wrong(Exception):
    """A result is not what it should be."""


def parity(device: Device) -> str:
    """Compare layer and kernels with float64, beside what PyTorch's own layer deviates.

    Raises:
        Wrong: A deviation is more than twice that of PyTorch and some units in the last place.
    """
    compared, wrong = 0, []
    chosen = ("bn+relu", "bn+add+relu")
    for shape, layout, dtype, name in itertools.product(SHAPES, LAYOUTS, DTYPES, chosen):
        case = Case(shape, layout, dtype, OPERATIONS[name])
        found = prepare(case, device)
        if KERNEL in found.missing:
            raise Wrong(f"our kernels do not serve: {found.missing[KERNEL]}")
        errors = found.errors
        for who, phase in itertools.product((OURS, KERNEL), case.operation.passes):
            error = errors[who][phase]
            if not error <= allowed(errors[EAGER][phase], dtype):  # nor where it is not a number
                wrong.append(f"{case}, {who}, {phase}: {error:.1e} from float64")
            compared += 1
    if wrong:
        raise Wrong(f"{len(wrong)} of {compared} results: {'; '.join(wrong[:3])}")
    return f"{compared} results compared with float64, none is off"


def allowed(eager: float, dtype: str) -> float:
    """Say how far from float64 a result may be."""
    return 2 * eager + ULPS * torch.finfo(getattr(torch, dtype)).eps


def graph(device: Device) -> str:
    """Capture a training step in a CUDA graph, and replay it on other inputs.

    Raises:
        Wrong: It does not give the same bits as the step itself.
    """
    norm = bn.BatchNorm2d(64, activation="relu", device=device.place)
    twin = copy.deepcopy(norm)
    x = torch.randn(32, 64, 28, 28, device=device.place, requires_grad=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _step(norm, x)
    torch.cuda.current_stream().wait_stream(side)
    norm.load_state_dict(twin.state_dict())
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = _step(norm, x)
    for _ in range(2):
        with torch.no_grad():
            x.mul_(1.5).add_(1)
        captured.replay()
        expected = [*_step(twin, x), *twin.buffers()]
        if not all(map(torch.equal, [*results, *norm.buffers()], expected)):
            raise Wrong("a step replayed by a CUDA graph gives other bits than the step itself")
    return "a captured training step replays the same bits"


def _step(norm: nn.Module, x: Tensor) -> list[Tensor]:
    y = norm(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *norm.parameters()])]
