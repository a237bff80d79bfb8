"""What was seen of a model: numbers and small float64 tensors, from which everything is judged.

C channels of a layer, K calls of it. Tensors are on the CPU. A number that was not measured is
None, one that could not be computed is NaN.
"""

import dataclasses
from collections.abc import Mapping

from torch import Tensor, dtype

from ..moments import Moments
from ..surgery.graph.graph import Graph

TRAINING = "training"
"""As in training: layers normalize by the batch, dropout drops. Nothing is updated."""
BATCH = "batch"
"""Layers normalize by the batch as in training; all else is in evaluation mode."""
REDRAWN = "redrawn"
"""As BATCH, with the same samples in other batches, drawn at random."""
INFERENCE = "inference"
"""Evaluation mode, with the running statistics as found."""
RECALIBRATED = "recalibrated"
"""Evaluation mode, with statistics measured anew (`batchnorm.recalibrate`)."""

LEARNING, FROZEN, EVALUATION = "learning", "frozen", "evaluation"
"""Modes of a layer. EVALUATION: it is in evaluation mode where others are in training mode."""


@dataclasses.dataclass(frozen=True, eq=False)
class Calls:
    """What a layer was given, and gave, in one run over the batches; one row for each call."""

    batch: tuple[int, ...]
    """Number of the batch of each call, from 0."""
    samples: Tensor
    """N, (K,)."""
    count: Tensor
    """Values per channel, without masked ones, or the sum of their weights, (K, C)."""
    mean: Tensor
    """(K, C)."""
    var: Tensor
    """Correction 0: what a layer that learns normalizes by, (K, C)."""
    minimum: Tensor
    """Of the input, (K, C)."""
    maximum: Tensor
    sample_mean: Tensor
    """Mean of the samples' means, (K, C). A sample is one index of the batch axis."""
    sample_var: Tensor
    """Variance, correction 1, of the samples' means, (K, C); NaN for less than 2 samples."""
    statistics: tuple[int, ...]
    """Parts of the batch that had statistics of their own: 1, or the number of virtual batches."""
    output_rms: Tensor
    """Root mean square of the output, (K,)."""
    output_largest: Tensor
    """Largest magnitude in the output, (K,)."""
    histogram: Tensor
    """Outputs in the bins of `LayerEvidence.edges`, over all calls, (bins,)."""
    degenerate: int = 0
    """Calls with one value per channel: training would have raised. They went by the running
    statistics instead."""

    def moments(self, call: int) -> Moments:
        """Give the moments of one call."""
        count = self.count[call]
        return Moments(count, self.mean[call], self.var[call] * count)

    def pooled(self) -> Moments:
        """Merge the moments of all calls; channels of a call that are not finite are left out."""
        merged = Moments.zeros(self.mean.shape[1], dtype=self.mean.dtype)
        for call in range(len(self.batch)):
            one = self.moments(call)
            lost = ~(one.mean.isfinite() & one.m2.isfinite())
            merged = merged.merge(Moments(*(t.masked_fill(lost, 0) for t in one[:3])))
        return merged


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """Something that feeds a layer, or reads it."""

    kind: str
    """"layer" (with weights), "norm", "activation", "dropout", "position" (pooling, padding),
    "add", "concatenation", "output" or "other"."""
    name: str | None
    """Qualified name of the module it is, or in which the operation happens."""
    what: str
    """Name of the class, or of the operator."""
    has_bias: bool | None
    """Whether it adds a vector of its own; None where that is not asked."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One batch normalization layer, as found, and what the runs have shown of it."""

    name: str
    """Qualified name, the first where it has several."""
    kind: str
    """Name of its class, such as "BatchNorm2d"."""
    is_ours: bool
    aliases: tuple[str, ...]
    """Other names of the same layer: it stands in several places."""
    num_features: int
    eps: float
    momentum: float | None
    track_running_stats: bool
    training: bool
    """As found."""
    mode: str
    """LEARNING, FROZEN or EVALUATION."""
    sync: bool
    options: Mapping[str, str]
    """Options of our layers that are not the default."""
    weight: Tensor | None
    """(C,) in float64; None where there is none, or it is computed by a parametrization."""
    bias: Tensor | None
    weight_requires_grad: bool
    bias_requires_grad: bool
    running_mean: Tensor | None
    """As found, (C,) in float64."""
    running_var: Tensor | None
    running_dtype: dtype | None
    num_batches_tracked: int | None
    num_nonfinite: int
    """Updates that a channel missed for NaN or infinity; of the channel that missed most."""
    population_mean: Tensor | None = None
    """What `recalibrate` sets, (C,) in float64; None where it left the layer."""
    population_var: Tensor | None = None
    """Correction 1."""
    not_recalibrated: str | None = None
    """Why it left the layer."""
    input_dtype: dtype | None = None
    output_dtype: dtype | None = None
    calls: float = 0.0
    """Calls in one forward of the model, on average."""
    updates: int | None = None
    """By how much `num_batches_tracked` grows in one training step (forward, and backward where
    there is a loss): 2 where a layer is shared, or runs again under checkpointing."""
    error_rms: float | None = None
    """Root mean square of the gradient of the loss with respect to the output."""
    fed_by: tuple[Neighbor, ...] = ()
    """What its input has gone through, the nearest first, up to the layer with weights, the
    normalization or the addition it comes from; empty without a graph."""
    read_by: tuple[Neighbor, ...] = ()
    """What reads its output directly, past views."""
    edges: tuple[float, float] | None = None
    """Ends of the bins of histograms."""
    runs: Mapping[str, Calls] = dataclasses.field(default_factory=dict)
    """By TRAINING, BATCH, REDRAWN, INFERENCE, RECALIBRATED; runs that were not possible lack."""
    replicas: tuple[tuple[Tensor, Tensor], ...] = ()
    """Running mean and variance of the same layer in the other replicas."""

    @property
    def is_learning(self) -> bool:
        """Whether it normalizes by the batch in training, and keeps statistics for inference."""
        return self.mode == LEARNING and self.running_mean is not None


@dataclasses.dataclass(frozen=True)
class ActivationEvidence:
    """One activation, as seen in the run TRAINING."""

    name: str
    """Of the module that it is, or in which it is called, then with the function in brackets; of
    the layer where it is part of one of ours."""
    what: str
    """"relu", "sigmoid", ..."""
    layer: str | None
    """The normalization whose output it reads directly; itself, where it is part of it."""
    units: int
    """Channels."""
    dead: int | None
    """Units whose output was 0 for every sample at every position; None where they cannot die, or
    a value was not finite."""
    saturated: float | None
    """Share of values where the slope is below 1 % of the steepest; None where there is none."""
    input_rms: float | None
    """Root mean square of its input; None inside a layer."""
    error_rms: float | None
    """Of the gradient of the loss with respect to its input (inside a layer, to its output)."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far the outputs of two runs on the same samples lie apart."""

    rms: float
    """Root mean square of the difference, over the standard deviation of the outputs (around the
    mean of each output channel) in the first run."""
    flips: float | None
    """Share of decisions (the largest along the class axis) that differ; None for outputs of one
    channel."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """The batches."""

    seen: int
    """How many were run."""
    sizes: tuple[int, ...]
    """Samples of each."""
    total: int | None
    """How many there are; None where that is not known."""
    last_size: int | None
    """Samples of the last batch of an epoch, of a DataLoader with a batch size that keeps it."""
    redrawn: str | None
    """Why samples could not be put into other batches; None where they were."""


@dataclasses.dataclass(frozen=True)
class ParameterEvidence:
    """One parameter."""

    requires_grad: bool
    norm: float
    grad_norm: float | None
    """Mean over the batches of the norm of the gradient of the loss; None without."""
    weight_decay: float | None
    """Of its group in the optimizer; None where it is in none."""
    has_grad: bool
    """Whether there was a gradient (`.grad`) as found."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """The loss with something else in some layers."""

    layers: tuple[str, ...]
    found: float
    """Mean loss of the run BATCH."""
    tried: float
    """The same with the change."""
    is_better: bool
    """Whether that is so much smaller that it is no accident."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that rules judge."""

    model: str
    """Name of the class."""
    training: bool
    """Mode of the model as found."""
    layers: Mapping[str, LayerEvidence]
    """In call order; those that were not called come last."""
    activations: Mapping[str, ActivationEvidence]
    """In call order."""
    graph: Graph | None
    """What feeds what, on a run of a copy in evaluation mode on the first batch."""
    no_graph: str | None
    """Why there is none."""
    gaps: Mapping[tuple[str, str], Gap]
    """By the names of the two runs: (BATCH, INFERENCE), (BATCH, RECALIBRATED), (REDRAWN,
    RECALIBRATED), (BATCH, REDRAWN), (INFERENCE, RECALIBRATED)."""
    losses: Mapping[str, tuple[float, ...]]
    """Of each batch, by run; empty without a loss."""
    loader: Loader
    parameters: Mapping[str, ParameterEvidence]
    optimizer: str | None
    """Name of its class."""
    optimizer_steps: int | None
    """Steps it has made, where it counts them (Adam does, plain SGD does not)."""
    world_size: int
    """Processes that train together; 1 where torch.distributed is not initialized."""
    replicas: int
    """State dicts of other replicas that were given."""
    leakage: Mapping[str, float]
    """By run (BATCH, INFERENCE): how far outputs move when the other samples of the batch are
    replaced, in standard deviations of the outputs."""
    seconds: Mapping[str, float]
    """What each run cost; "recalibrate" is one more."""
    notes: tuple[str, ...]
    """What could not be measured, and why."""
    trials: Mapping[str, Trial] = dataclasses.field(default_factory=dict)
    """What was tried where numbers raised a suspicion, and how the loss was; see `trials`."""
