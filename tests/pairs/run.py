"""Run a layer with some features beside its twin, and compare all they compute and remember."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import batchnorm as bn
from batchnorm.errors import StatisticsError

from . import derivatives, ways
from .case import Case
from .derivatives import Given
from .steps import CHANNELS, Step
from .twin import Twin

TORCHS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
TORCHS_OPTIONS = ("eps", "momentum", "affine", "track_running_stats", "bias")


class Ours:
    """Layers of the library: one, or the members of an ensemble."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layers = [case.make() for _ in range(case.one("members", 1))]
        self.filled = False
        self.core = case.one("core", ways.one_by_one)
        self.call = ways.call_layer
        for name in case.order:
            for wrap in case.all(name):
                self.call = wrap(self.call)

    def take_up(self, steps: tuple[Step, ...]) -> list[Given]:
        """Make the leaves of a step, and put the layers into its mode."""
        self._fill()
        constant = [name for names in self.case.all("constant") for name in names]
        batch = []
        for layer, step in zip(self.layers, steps, strict=True):
            layer.train(step.training or step.frozen)
            if step.frozen:
                bn.freeze(layer, affine=False)
            given = Given(
                step.x.detach().requires_grad_(),
                None if step.residual is None else step.residual.detach().requires_grad_(),
                layer.weight,
                layer.bias,
                step.mask,
                step.sample_weight,
            )
            for name in constant:
                leaf = getattr(given, name)
                if leaf is not None and not nn.parameter.is_lazy(leaf):
                    leaf.requires_grad_(False)
            batch.append(given)
        return batch

    def _fill(self) -> None:
        """Give weight and bias values of their own, once they exist."""
        if self.filled or any(nn.parameter.is_lazy(p) for p in self.layers[0].parameters()):
            return
        for seed, layer in enumerate(self.layers):
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 1.5 + 0.5)
        self.filled = True

    def forward(self, batch: list[Given]) -> list[Tensor]:
        with contextlib.ExitStack() as stack:
            for context in self.case.all("context"):
                stack.enter_context(context())
            return self.core(self.call, self.layers, batch)

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        with bn.accumulate(nn.ModuleList(self.layers)):
            yield

    @contextlib.contextmanager
    def no_update(self) -> Iterator[None]:
        with bn.no_update(nn.ModuleList(self.layers)):
            yield

    def between(self) -> None:
        for change in self.case.all("between"):
            self.layers = [change(layer, self.case.make) for layer in self.layers]

    def states(self) -> list[dict[str, Tensor]]:
        return [dict(layer.named_buffers()) for layer in self.layers]


class Twins:
    """What `Ours` is compared with."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.twins = [Twin(CHANNELS, case.options) for _ in range(case.one("members", 1))]

    def forward(self, batch: list[Given]) -> list[Tensor]:
        return [
            twin.forward(g.x, g.weight, g.bias, g.residual, g.mask, g.sample_weight)
            for twin, g in zip(self.twins, batch, strict=True)
        ]

    def set(self, **values: Any) -> None:
        for twin in self.twins:
            for name, value in values.items():
                setattr(twin, name, value)

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        for twin in self.twins:
            twin.pool = []
        yield
        for twin in self.twins:
            twin.accumulated()

    def between(self) -> None:
        for change in self.case.all("twin_between"):
            for twin in self.twins:
                change(twin)

    def states(self) -> list[dict[str, Tensor]]:
        return [twin.state() for twin in self.twins]


def run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every step with both, and compare outputs, gradients and state after each."""
    for patch in case.all("patch"):
        patch(monkeypatch)
    members = range(case.one("members", 1))
    steps = list(zip(*[case.steps(member) for member in members], strict=True))
    pair = Pair(case)
    if case.one("pooled"):
        with pair.ours.accumulate(), pair.twins.accumulate():
            for step in steps[:-2]:
                pair.take(step)
        pair.settle()
        steps = steps[-2:]
    for step in steps:
        pair.take(step)
        pair.settle()
    pair.finish()
    if case.one("plain"):
        pair.compare_plain()


class Pair:
    """A layer and its twin, side by side."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.ours, self.twins = Ours(case), Twins(case)
        self.derive = case.one("derive", derivatives.first)
        self.pending: list[Callable[[], None]] = []

    def take(self, step: tuple[Step, ...]) -> None:
        """Go forward with both, and backward unless that comes late."""
        first = step[0]
        grads = [each.grad_output for each in step]
        if self._hurries(first):
            self.finish()
        batch = self.ours.take_up(step)
        self.twins.set(training=first.training, quiet=first.quiet)
        with self.ours.no_update() if first.quiet else contextlib.nullcontext():
            if self.case.refuses(first):
                with pytest.raises(self.case.one("error", StatisticsError)):
                    self.derive(self.ours.forward, batch, grads)
                return
            outputs, later = self.derive(self.ours.forward, batch, grads)
        exact = [given.exactly() for given in self._as_used(batch)]
        expected, then = self.derive(self.twins.forward, exact, [g.double() for g in grads])
        self._compare(outputs, expected)
        if not self.case.one("members"):
            assert_channels_stay_innermost(outputs["output 0"], first.x)

        def backward() -> None:
            self._compare(later(), then())

        self.pending.append(backward) if self.case.one("late") else backward()

    def _hurries(self, step: Step) -> bool:
        """Whether what is left for later cannot wait for this step.

        A checkpoint recomputes in the mode that the layer has then, and a compiled evaluation
        keeps the running statistics themselves for its backward pass, as it does for torch's.
        """
        changes = step.training is not self.twins.twins[0].training
        wrapped = self.case.all("wrap") + self.case.all("outer")
        return not self.ours.filled or (changes and bool(wrapped))

    def _as_used(self, batch: list[Given]) -> list[Given]:
        """A lazy layer has its parameters now."""
        return [
            replace(given, weight=layer.weight, bias=layer.bias)
            for given, layer in zip(batch, self.ours.layers, strict=True)
        ]

    def settle(self) -> None:
        """Compare what both remember, then do what happens between steps."""
        for ours, twin in zip(self.ours.states(), self.twins.states(), strict=True):
            assert ours.keys() == twin.keys()
            wide = self.case.dtype is torch.float64
            for name, value in twin.items():
                if not value.is_floating_point():
                    assert ours[name].tolist() == value.tolist(), name
                    continue
                assert ours[name].dtype is (torch.float64 if wide else torch.float32), name
                assert_close(name, ours[name], value, ours[name].dtype)
        self.ours.between(), self.twins.between()

    def finish(self) -> None:
        """Go backward where that was left for later."""
        while self.pending:
            self.pending.pop(0)()

    def compare_plain(self) -> None:
        """Evaluate by torch's layers with the state_dict of ours."""
        theirs = {k: v for k, v in self.case.options.items() if k in TORCHS_OPTIONS}
        dtype = torch.promote_types(self.case.dtype, torch.float32)
        x = torch.randn(self.case.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        for ours, twin in zip(self.ours.layers, self.twins.twins, strict=True):
            plain = TORCHS[x.dim()](CHANNELS, **theirs, dtype=dtype).eval()
            plain.load_state_dict(ours.state_dict())
            twin.options["activation"] = None
            weight, bias = (None if p is None else p.double() for p in (plain.weight, plain.bias))
            exact = twin.forward(x.double(), weight, bias)
            assert_close("output of torch's layer", plain(x), exact, x.dtype)

    def _compare(self, ours: dict[str, Tensor], twins: dict[str, Tensor]) -> None:
        assert ours.keys() == twins.keys()
        for name, expected in twins.items():
            assert_close(name, ours[name], expected, self.case.dtype)


def assert_channels_stay_innermost(output: Tensor, x: Tensor) -> None:
    for ndim, memory_format in ways.CHANNELS_LAST.items():
        if x.dim() == ndim and x.numel() and x.is_contiguous(memory_format=memory_format):
            assert output.is_contiguous(memory_format=memory_format)


def assert_close(name: str, ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Hold an error to a few ulp of the dtype, and of the one that statistics are taken in."""
    assert ours.shape == exact.shape, f"{name}: {tuple(ours.shape)} is not {tuple(exact.shape)}"
    ours, exact = ours.detach().double(), exact.detach()
    assert torch.equal(ours.isnan(), exact.isnan()), f"{name}: {ours} has other NaN than {exact}"
    error = (ours - exact).nan_to_num().abs().max().item() if exact.numel() else 0.0
    size = 1 + (exact.nan_to_num().abs().max().item() if exact.numel() else 0.0)
    inner = torch.promote_types(dtype, torch.float32)
    bound = size * (4 * torch.finfo(dtype).eps + 64 * torch.finfo(inner).eps)
    assert error <= bound, f"{name}: error {error:.3g} above {bound:.3g}; {ours}, not {exact}"
