"""The runs, in their order, and the evidence they leave. The model is borrowed for all of them."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed import Meeting
from ..errors import OptionError, StatisticsError, SurgeryError
from ..nn import no_update
from ..surgery.graph.graph import Graph
from ..surgery.graph.watch import watch
from ..surgery.recalibration.recalibrate import eagerly
from ..surgery.recalibration.restore import borrowed
from .activations import ActivationMeter
from .anew import measured_anew
from .evidence import (
    BATCH,
    INFERENCE,
    RECALIBRATED,
    REDRAWN,
    TRAINING,
    Calls,
    Evidence,
    LayerEvidence,
    Trial,
)
from .gradients import set_aside
from .layers import State, describe
from .leakage import leakage
from .lending import lent
from .meter import Meter, layers_of
from .modes import Modes, modes_of
from .neighbors import fed_by, modules_of, read_by
from .outputs import Difference, difference
from .passes import Pass, Way, go
from .redraw import Redrawn
from .shown import Shown
from .surroundings import loader_of, parameters_of, size_of, steps_of, world_size
from .together import Share, check_alike, same_edges, talks, together
from .trials import EXCHANGED, exchanged, judged, simplest, suspicious
from .updates import updates_of_step

PAIRS = (
    (BATCH, INFERENCE),
    (BATCH, RECALIBRATED),
    (REDRAWN, RECALIBRATED),
    (BATCH, REDRAWN),
    (INFERENCE, RECALIBRATED),
)
"""Runs whose outputs are compared."""

RUNS = 5
"""How often the batches are gone through, at most; for progress."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for; see `batchnorm.diagnose`."""

    way: Way
    batches: Iterable[Any]
    max_batches: int
    optimizer: torch.optim.Optimizer | None
    example: tuple[Any, ...] | None
    replicas: Sequence[State]
    progress: Callable[[int, int | None], None]
    others: Meeting


class Collector:
    """Runs a borrowed model and keeps what was seen."""

    def __init__(self, request: Request, layers: Mapping[str, _BatchNorm]) -> None:
        self.request = request
        self.model = request.way.model
        self.others = request.others
        self.layers = layers
        self.kinds = modes_of(layers)
        self.modes = Modes(self.model, layers, self.kinds)
        self.found = describe(self.model, layers, self.kinds, request.replicas)
        self.grads = {n: p.grad is not None for n, p in self.model.named_parameters()}
        self.as_found = [(module, module.training) for module in self.model.modules()]
        self.training = self.model.training
        self.parameters: dict[str, Tensor] = {
            n: p for n, p in self.model.named_parameters() if p.requires_grad
        }
        self.edges: dict[str, tuple[float, float]] = {}
        self.meters: dict[str, Meter] = {}
        self.units = ActivationMeter()
        self.passes: dict[str, Pass] = {}
        self.differences: dict[tuple[str, str], Difference] = {}
        self.left: dict[str, str] = {}
        self.population: dict[str, tuple[Tensor, Tensor]] = {}
        self.updates: dict[str, int] = {}
        self.leaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.trials: dict[str, Trial] = {}
        self.steps = 0
        self.shown = Shown(request.example)

    def collect(self) -> Evidence:
        """Do it all; the model is as it was afterwards, also after an exception."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(set_aside(self.model))
            self.before = stack.enter_context(borrowed(self.model, []))
            stack.enter_context(eagerly())
            stack.enter_context(lent(self.model))
            self.batches = self._batches()
            if self.others.size > 1:
                self._meet()
            self._run_all()
            graph, no_graph = self._graph()
            return together(self._share(self._evidence(graph, no_graph)), self.others)

    def _batches(self) -> list[Any]:
        batches = list(itertools.islice(iter(self.request.batches), self.request.max_batches))
        if not batches:
            raise StatisticsError(
                "expected at least one batch, found none; the model is as it was. If batches is a "
                "generator, it may have been used up before"
            )
        return batches

    def _meet(self) -> None:
        """See that replicas are alike, and agree on the bins of histograms."""
        check_alike(self.others, self.model, self.layers, len(self.batches))
        if talks(self.model):
            self.others.close()  # one that fails leaves others behind inside the model
        self._set(BATCH)
        meter = Meter(self.layers, self.edges)
        with no_update(self.model):
            go(self.request.way, self.batches[:1], meter, {}, lambda: None)
        found = same_edges(self.others, self.edges)
        self.edges.clear()
        self.edges.update(found)

    def _run_all(self) -> None:
        has_loss = self.request.way.loss is not None
        with self.shown.by(self.model):
            self._run(BATCH, self.batches, {})
        self._run(TRAINING, self.batches, self.parameters if has_loss else {})
        self._run(INFERENCE, self.batches, {})
        self.redrawn = self._redraw()
        self._count_updates()
        for run in (BATCH, INFERENCE):
            self._set(run)
            with no_update(self.model):
                found = leakage(self.request.way, max(self.batches, key=size_of))
            if found is not None:
                self.leaks[run] = found
        self._try()
        if self._recalibrate():
            self._run(RECALIBRATED, self.batches, {})

    def _run(self, run: str, batches: Iterable[Any], parameters: dict[str, Tensor]) -> None:
        self._set(run)
        units = self.units if run == TRAINING else None
        meter = self.meters[run] = Meter(self.layers, self.edges, units)
        with no_update(self.model):
            self.passes[run] = go(self.request.way, batches, meter, parameters, self._step)

    def _set(self, run: str) -> None:
        """Set modes, and let every run draw the same random numbers."""
        self.before.random.restore()
        self.modes.set(run)

    def _step(self) -> None:
        self.steps += 1
        self.request.progress(self.steps, RUNS * len(self.batches))

    def _redraw(self) -> str | None:
        """Run the same samples in other batches; say why if that was not possible."""
        redrawn, reason = self._can_redraw()
        if talks(self.model):  # all run it, or none
            told = self.others.gather(reason)
            reason = next((r for r in told if r is not None), None)
        if redrawn is None or reason is not None:
            return reason
        self._run(REDRAWN, map(redrawn.batch, range(len(self.batches))), {})
        done = self.passes[REDRAWN]
        done.outputs = redrawn.put_back(done.outputs)
        return None

    def _can_redraw(self) -> tuple[Redrawn | None, str | None]:
        try:
            redrawn = Redrawn(self.batches)
        except ValueError as error:
            return None, str(error)
        return redrawn, "there is one batch only" if len(self.batches) < 2 else None

    def _count_updates(self) -> None:
        self._set(TRAINING)
        batch = max(self.batches, key=size_of)
        parameters = self.parameters if self.request.way.loss is not None else {}
        try:
            self.updates = updates_of_step(self.request.way, batch, self.layers, parameters)
        except (ValueError, StatisticsError) as error:
            self.notes.append(f"updates of a training step were not counted: {error}")

    def _try(self) -> None:
        """Run what a suspicion asks for, and keep the trial that explains most."""
        if self.request.way.loss is None or self.others.size > 1:
            return  # replicas might not be of one mind about what is suspicious
        tried = [self._tried(names) for names in suspicious(self.found, self.layers)]
        if tried:
            self.trials[EXCHANGED] = simplest(tried)

    def _tried(self, names: Sequence[str]) -> Trial:
        self._set(BATCH)
        layers = [self.layers[name] for name in names]
        with no_update(self.model), torch.no_grad(), exchanged(layers):
            losses = [self.request.way.run(batch)[1] for batch in self.batches]
        found = self.passes[BATCH].losses
        tried = sum(float(loss) for loss in losses if loss is not None) / len(losses)
        return judged(names, sum(found) / len(found), tried)

    def _recalibrate(self) -> bool:
        for module, mode in self.as_found:
            module.training = mode
        self.before.random.restore()
        start = time.perf_counter()
        result, failed = measured_anew(self.request.way, self.batches, self.others)
        if result is None:
            self.notes.append(f"the statistics could not be measured anew: {failed}")
            return False
        self.seconds["recalibrate"] = time.perf_counter() - start
        self.left = {row.name: row.left for row in result.layers if row.left is not None}
        for name, layer in self.layers.items():
            mean, var = layer.running_mean, layer.running_var
            if name not in self.left and mean is not None and var is not None:
                pair = (mean.detach().cpu().double(), var.detach().cpu().double())
                self.population[name] = pair
        return bool(self.population)

    def _graph(self) -> tuple[Graph | None, str | None]:
        if self.shown.example is None:
            return None, "the model itself was not called; pass example="
        try:
            return watch(self.model, self.shown.example), None
        except SurgeryError as error:
            return None, str(error)

    def _evidence(self, graph: Graph | None, no_graph: str | None) -> Evidence:
        calls = {run: meter.calls() for run, meter in self.meters.items()}
        order = self.meters[BATCH].order
        order += [name for name in self.layers if name not in order]
        layers = {name: self._layer(name, calls, graph) for name in order}
        pairs = {pair: self._difference(*pair) for pair in PAIRS}
        self.differences = {pair: d for pair, d in pairs.items() if d is not None}
        optimizer = self.request.optimizer
        return Evidence(
            model=type(self.model).__name__,
            training=self.training,
            layers=layers,
            activations=self.units.evidence(),
            graph=graph,
            no_graph=no_graph,
            gaps={pair: found.gap() for pair, found in self.differences.items()},
            losses={run: tuple(done.losses) for run, done in self.passes.items() if done.losses},
            loader=loader_of(self.request.batches, self.batches, self.redrawn),
            parameters=parameters_of(
                self.model, optimizer, self.grads, self.passes[TRAINING].grad_norms
            ),
            optimizer=None if optimizer is None else type(optimizer).__name__,
            optimizer_steps=steps_of(optimizer),
            world_size=world_size(),
            replicas=len(self.request.replicas),
            leakage=self.leaks,
            seconds={**{run: done.seconds for run, done in self.passes.items()}, **self.seconds},
            notes=tuple(self.notes),
            trials=self.trials,
        )

    def _layer(
        self, name: str, calls: Mapping[str, Mapping[str, Calls]], graph: Graph | None
    ) -> LayerEvidence:
        runs = {run: by_name[name] for run, by_name in calls.items() if name in by_name}
        mean, var = self.population.get(name, (None, None))
        given, made = self.meters[BATCH].dtypes.get(name, (None, None))
        number = len(runs[BATCH].batch) if BATCH in runs else 0
        return dataclasses.replace(
            self.found[name],
            population_mean=mean,
            population_var=var,
            not_recalibrated=self.left.get(name),
            input_dtype=given,
            output_dtype=made,
            calls=number / len(self.batches),
            updates=self.updates.get(name),
            error_rms=self.meters[TRAINING].error_rms(name),
            fed_by=() if graph is None else fed_by(graph, name, modules_of(self.model)),
            read_by=() if graph is None else read_by(graph, name, modules_of(self.model)),
            edges=self.edges.get(name),
            runs=runs,
        )

    def _share(self, evidence: Evidence) -> Share:
        return Share(
            evidence,
            evidence.graph is not None,
            self.units.units,
            self.meters[TRAINING].errors,
            self.passes[TRAINING].grad_norms,
            self.differences,
        )

    def _difference(self, first: str, second: str) -> Difference | None:
        if first not in self.passes or second not in self.passes:
            return None
        return difference(self.passes[first].outputs, self.passes[second].outputs)


def check_request(request: Request) -> None:
    """Refuse options that have no valid value.

    Raises:
        OptionError: The message says which.
    """
    number = request.max_batches
    if type(number) is not int or number < 1:
        raise OptionError(f"expected max_batches to be a positive int, found {number!r}")


def collect(request: Request) -> Evidence:
    """Run the model and keep what was seen."""
    return Collector(request, layers_of(request.way.model)).collect()
