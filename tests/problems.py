"""Problems of every kind, and what the specification, PyTorch and we make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from batchnorm import reference
from batchnorm.functional import batch_norm
from cases import TORCH_ACTIVATIONS, assert_derived, largest
from kinds import AFFINES, LIMITS, MODES, Kind

EPS, MOMENTUM = 1e-3, 0.3


class Problem(NamedTuple):
    """Tensors a call is made with; the options are those of `batch_norm` and the specification."""

    x: Tensor
    grad_y: Tensor
    running: tuple[Tensor, Tensor]
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mask: Tensor | None
    sample_weight: Tensor | None


def make_problem(kind: Kind, dtype: torch.dtype, mean: float = 3, std: float = 2) -> Problem:
    """Draw a problem; the running statistics lie now near those of the batch, now far from them."""
    generator = torch.Generator().manual_seed(0)
    channels, wide = kind.shape[1], torch.promote_types(dtype, torch.float32)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, grad_y, residual = (
        kind.layout.arrange(t.to(dtype))
        for t in (mean + std * randn(*kind.shape), randn(*kind.shape), randn(*kind.shape))
    )
    weight, bias = (randn(channels) + 1).to(wide), randn(channels).to(wide)
    running_mean = (mean + std * randn(channels)).to(wide)
    running_var = (std**2 * randn(channels).exp()).to(wide)
    mask = kind.make_mask()
    if mask is not None and kind.mask in ("nan", "inf"):
        for t in (x, grad_y, residual):
            t.movedim(1, -1)[~mask] = float(kind.mask)
    has_weight, has_bias = AFFINES[kind.affine]
    residuals = {None: None, "same": residual, "wide": residual.to(wide).contiguous()}
    return Problem(
        x,
        grad_y,
        (running_mean, running_var),
        weight if has_weight else None,
        bias if has_bias else None,
        residuals[kind.residual],
        mask,
        kind.make_weights(wide),
    )


def solve_exactly(kind: Kind, problem: Problem, **changes: Any) -> reference.Result:
    x, grad_y, running, weight, bias, residual, mask, sample_weight = problem
    options = {"eps": EPS, "activation": kind.activation, "residual": residual, "mask": mask}
    if kind.training:
        options |= {
            "momentum": MOMENTUM,
            "sample_weight": sample_weight,
            "virtual_batch_size": MODES[kind.mode][1],
            "limits": LIMITS[kind.renorm],
            "degenerate": kind.degenerate,
        }
    do = reference.step if kind.training else reference.evaluate
    return do(x, grad_y, running, weight, bias, **(options | changes))


Solution = dict[str, Tensor | None]
Normalize = Callable[..., Tensor]


def solve(normalize: Normalize, problem: Problem, device: str = "cpu") -> Solution:
    """Output, gradients and new running statistics by a function of the tensors of a problem."""
    if problem.x.device.type != device:
        solution = solve(normalize, on_device(problem, device), device)
        return {name: None if t is None else t.cpu() for name, t in solution.items()}
    leaves = [
        None if t is None else t.detach().requires_grad_()  # a clone would lie otherwise
        for t in (problem.x, problem.weight, problem.bias, problem.residual)
    ]
    running = [t.clone() for t in problem.running]
    x, weight, bias, residual = leaves
    y = normalize(x, *running, weight, bias, residual, problem.mask, problem.sample_weight)
    assert not any(t.requires_grad for t in running)
    y.backward(problem.grad_y)
    grads = [None if t is None else t.grad for t in leaves]
    return dict(zip(reference.Result._fields, (y.detach(), *grads, *running), strict=True))


def on_device(problem: Problem, device: str) -> Problem:
    """Bring its tensors to a device; they lie there as they did."""

    def moved(t: Any) -> Any:
        if isinstance(t, tuple):
            return tuple(map(moved, t))
        if t is None:
            return None
        flat = t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
        return flat.to(device).as_strided(t.shape, t.stride(), t.storage_offset())

    return Problem(*map(moved, problem))


def our_way(kind: Kind, **more: Any) -> Normalize:
    training, size = MODES[kind.mode]

    def normalize(*tensors: Tensor | None) -> Tensor:
        *positional, residual, mask, sample_weight = tensors
        return batch_norm(
            *positional,
            training,
            MOMENTUM,
            EPS,
            activation=kind.activation,
            residual=residual,
            mask=mask,
            sample_weight=sample_weight,
            virtual_batch_size=size,
            renorm=LIMITS[kind.renorm],
            degenerate=kind.degenerate,
            **more,
        )

    return normalize


def torch_way(kind: Kind) -> Normalize:
    """For a kind that torch knows, or whose chunks it does."""
    training, _ = MODES[kind.mode]
    sizes = kind.chunk_sizes

    def normalize(x: Tensor, *others: Tensor | None) -> Tensor:
        mean, var, weight, bias, residual, *_ = others
        function = torch.nn.functional.batch_norm
        if len(sizes) > 1:
            with torch.no_grad():  # one update, by the whole batch
                function(x, mean, var, training=True, momentum=MOMENTUM)
            mean = var = None
        chunks = [
            function(chunk, mean, var, weight, bias, training, MOMENTUM, EPS)
            for chunk in x.split(sizes)
        ]
        y = torch.cat(chunks)
        y = y if residual is None else y + residual
        return TORCH_ACTIVATIONS[kind.activation](y).to(x.dtype)

    return normalize


def conditions(kind: Kind, problem: Problem) -> dict[str, Tensor]:
    """What an ulp of the statistics can grow to in each result, in every channel."""
    x, grad_y, running, weight, _, _, mask, sample_weight = problem
    w = reference.weights(x, mask, sample_weight if kind.training else None)
    plain = problem._replace(weight=None, bias=None, residual=None)
    x_hat = largest(solve_exactly(kind, plain, activation=None, residual=None).output)
    var, uneven = running[1].double(), 1.0
    if kind.training:
        for chunk, part in zip(x.split(kind.chunk_sizes), w.split(kind.chunk_sizes), strict=True):
            if (part > 0).sum() > 1:
                var = torch.minimum(var, reference.statistics(chunk, part)[1])
                uneven = max(uneven, float(part.max() / part.sum() * part.numel()))
    invstd = (var + EPS) ** -0.5
    limits = LIMITS[kind.renorm] if kind.training else None
    invstd = invstd if limits is None else invstd * (x_hat + 1).clamp(max=limits[0])
    there = reference.weights(x, mask).unsqueeze(1) > 0
    x_max = largest(x.masked_fill(~there, 0)) + largest(running[0])
    scale = torch.ones(()) if weight is None else largest(weight)
    dy = largest(grad_y.masked_fill(~there, 0))
    count = x.numel() // x.shape[1]
    n = reference.moments(x, w)[3].clamp(min=1)
    shift = x_max * invstd  # one ulp of the mean, in standard deviations
    grad = scale * invstd * dy * uneven
    rounded, bent = 0.0, torch.ones(())
    if kind.activation is not None:  # its slope is taken elsewhere, its gradient rounded
        wide = torch.promote_types(x.dtype, torch.float32)
        rounded, bent = torch.finfo(x.dtype).eps / torch.finfo(wide).eps, 1 + scale * shift
    return {
        "output": scale * shift,
        "grad_input": grad * ((1 + x_hat) * (1 + shift) * bent + rounded),
        "grad_weight": dy * count * ((x_hat + shift) * bent + rounded),
        "grad_bias": dy * count * (bent + rounded),
        "grad_residual": dy * (bent + rounded),
        "running_mean": x_max,
        "running_var": x_max**2 * (n / (n - 1)).clamp(max=1e9) ** 2,
    }


def assert_parity(kind: Kind, problem: Problem, device: str = "cpu") -> None:
    """Hold the implementation to the specification, at the tolerance that is derived."""
    assert_close_to_exact(kind, problem, solve(our_way(kind), problem, device))


def assert_close_to_exact(kind: Kind, problem: Problem, ours: Solution) -> None:
    """Hold a solution to the specification, at the tolerance that is derived."""
    exact = solve_exactly(kind, problem)._asdict()
    theirs = solve(torch_way(kind), problem) if kind.is_torchs else exact
    grown = conditions(kind, problem)
    for name, our in ours.items():
        if our is not None:
            its = theirs[name].to(our.dtype)
            assert theirs is exact or our.dtype is theirs[name].dtype
            assert_derived(name, our, its, exact[name], our.dtype, condition=grown[name])
