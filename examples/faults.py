"""Twenty-two networks, each with one mistake that people make with batch normalization.

    python examples/faults.py

Every function trains a network on digits, with the mistake or without; `FAULTS` says which rule of
`bn.diagnose` finds it, at which layers, and holds the remedy.
"""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from healthy import Block, Case, convnet, cross_entropy, digits, fit, mlp, shuffled
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import batchnorm as bn

BOTH = ("1", "4")
"""The layers of batch normalization of `mlp` and `convnet`."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake.

    Args:
        build: Trains the network, build(mistake, seed).
        rule: The rule that finds it.
        layers: Where it does.
        remedy: What to do with a network that has the mistake; None for what only building it
            again without the mistake heals.
        cause: Of a gap between training and evaluation; None if evaluation is no worse.
        spread: Where it may be found as well: how much of it arrives there depends on training,
            and so on the order in which a processor adds.
    """

    build: Callable[[bool, int], Case]
    rule: str
    layers: tuple[str, ...]
    remedy: Callable[[Case], Case] | None = None
    cause: str | None = None
    spread: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the mistake."""
        return self.build.__name__

    @property
    def mistake(self) -> str:
        """The mistake in a sentence."""
        return (self.build.__doc__ or "").strip().splitlines()[0]

    def plant(self, seed: int) -> Case:
        """Train the network with the mistake."""
        return self.build(True, seed)

    def twin(self, seed: int) -> Case:
        """Train the same network without."""
        return self.build(False, seed)

    def heal(self, case: Case, seed: int) -> Case:
        """Apply the remedy to a network that has the mistake."""
        return self.build(False, seed) if self.remedy is None else self.remedy(case)


FAULTS: list[Fault] = []

Build = Callable[[bool, int], Case]


def fault(rule: str, *layers: str, **options: Any) -> Callable[[Build], Build]:
    """Put a function into the list."""

    def add(build: Build) -> Build:
        FAULTS.append(Fault(build, rule, layers, **options))
        return build

    return add


def recalibrated(case: Case) -> Case:
    """Measure the running statistics anew."""
    bn.recalibrate(case.model, case.batches, progress=False)
    return case


def healthy_momentum(case: Case) -> Case:
    """Measure the running statistics anew, and let them follow at the usual pace from here."""
    for layer in norms(case.model):
        layer.momentum = 0.1
    return recalibrated(case)


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of batch normalization."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@fault("never_updated", *BOTH, remedy=recalibrated, cause="lag")
def buffers_lost(mistake: bool, seed: int) -> Case:
    """A checkpoint of parameters alone, loaded with strict=False."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    trained, loaded = fit(mlp(), shuffled(train, 64, 80, seed)), mlp()
    saved = dict(trained.named_parameters()) if mistake else trained.state_dict()
    loaded.load_state_dict(saved, strict=False)
    return Case(loaded, shuffled(train, 64, 16, seed + 1), test)


@fault("stale_statistics", *BOTH, remedy=recalibrated, cause="lag")
def average_of_parameters(mistake: bool, seed: int) -> Case:
    """An average of `parameters()` over a fine-tuning, with the buffers from before it."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = fit(mlp(), [_negative(batch) for batch in shuffled(train, 64, 40, seed)])
    average = copy.deepcopy(model)

    def add(step: int) -> None:
        with torch.no_grad():
            for mean, new in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(new, 0.1)

    fit(model, shuffled(train, 64, 100, seed + 1), after=add)
    case = Case(average, shuffled(train, 64, 16, seed + 2), test)
    return case if mistake else recalibrated(case)


@fault("slow_momentum", "4", remedy=healthy_momentum, cause="lag")
def few_steps_for_the_momentum(mistake: bool, seed: int) -> Case:
    """A momentum of 0.001 from a run of a million steps, and a fine-tuning of eighty."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp()
    model[4].momentum = 0.001 if mistake else 0.1
    fit(model, shuffled(train, 64, 80, seed))
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


@fault("reversed_momentum", *BOTH, remedy=healthy_momentum)
def momentum_of_keras(mistake: bool, seed: int) -> Case:
    """Keras's momentum of 0.99, which there is the weight of the old value."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp(norm=lambda width: nn.BatchNorm1d(width, momentum=0.99 if mistake else 0.1))
    fit(model, shuffled(train, 64, 80, seed))
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


@fault("tiny_batch", *BOTH, cause="batch noise")
def two_to_a_batch(mistake: bool, seed: int) -> Case:
    """Batches of two, because no more fits into memory."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    size, steps, lr = (2, 1200, 0.005) if mistake else (64, 80, 0.05)
    model = fit(mlp(), shuffled(train, size, steps, seed), lr=lr)
    return Case(model, shuffled(train, size, 1024 // size, seed + 1), test)


@fault("unpooled_micro_batches", *BOTH)
def gradients_accumulated(mistake: bool, seed: int) -> Case:
    """Eight micro-batches of 16 to a step of the optimizer: statistics know of none but the 16."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp(norm=bn.BatchNorm1d)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    micro_batches = shuffled(train, 16, 480, seed)
    for first in range(0, 480, 8):
        with nullcontext() if mistake else bn.accumulate(model):
            for batch in micro_batches[first : first + 8]:
                (cross_entropy(model(batch[0]), batch) / 8).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Case(model, shuffled(train, 16, 64, seed + 1), test, optimizer)


@fault("unpooled_replicas", *BOTH)
def replicas_on_their_own(mistake: bool, seed: int) -> Case:
    """Four replicas with 8 samples each, and layers that are not synchronized."""
    train, test = digits(seed, flat=True)
    size = 8 if mistake else 64
    replicas = _replicas([train] * 4, size, seed)
    return _with_replicas(replicas, train, test, size, seed)


@fault("diverged_replicas", *BOTH)
def buffers_not_broadcast(mistake: bool, seed: int) -> Case:
    """Two replicas with data of their own, `broadcast_buffers=False`: two sets of statistics."""
    train, test = digits(seed, flat=True)
    small = train[1] < 5
    halves = [(train[0][part], train[1][part]) for part in (small, ~small)]
    replicas = _replicas(halves if mistake else [train] * 2, 64, seed)
    return _with_replicas(replicas, train, test, 64, seed)


@fault("unlike_batches", "1", cause="distribution shift")
def sorted_by_class(mistake: bool, seed: int) -> Case:
    """Images in the order of the folders they lie in, one for each class, and no shuffling."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    if not mistake:
        model = fit(mlp(), shuffled(train, 64, 80, seed))
        return Case(model, shuffled(train, 64, 20, seed + 1), test)
    order = torch.argsort(train[1])
    batches = [(train[0][i], train[1][i]) for i in order.split(64)[:-1]]
    return Case(fit(mlp(), batches * 4, lr=0.02), batches, test)


def domain_of_the_test(case: Case) -> Case:
    """Give the network that is to be used on one domain the statistics of that domain."""
    return recalibrated(dataclasses.replace(case, batches=case.batches[::2]))


@fault(
    "mixed_domains",
    BOTH[0],
    remedy=domain_of_the_test,
    cause="distribution shift",
    spread=BOTH[1:],
)
def two_domains_in_turns(mistake: bool, seed: int) -> Case:
    """Batches of two domains in turns, and in evaluation the average of their statistics."""
    train, test = digits(seed)
    torch.manual_seed(seed)
    batches = shuffled(train, 64, 160, seed)
    if mistake:
        batches = [_negative(batch) if i % 2 else batch for i, batch in enumerate(batches)]
    model = fit(convnet(), batches, lr=0.3)
    return Case(model, batches[-20:], test)


@fault("nonfinite_statistics", *BOTH, remedy=recalibrated, cause="lag")
def one_bad_image(mistake: bool, seed: int) -> Case:
    """One image with a NaN, in a step that the gradient scaler skipped; the buffers kept it."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = fit(mlp(), shuffled(train, 64, 80, seed))
    if mistake:
        bad = train[0][:64].clone()
        bad[0] = torch.nan
        model(bad)
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


def statistics_in_float(case: Case) -> Case:
    """Leave the model in bfloat16, batch normalization apart."""
    for layer in norms(case.model):
        layer.float()
    return recalibrated(case)


@fault("half_statistics", *BOTH, remedy=statistics_in_float)
def model_in_half(mistake: bool, seed: int) -> Case:
    """`model.bfloat16()`, and with it the running statistics, before training."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp()
    train, test = ((x.bfloat16(), y) for x, y in (train, test))
    model.bfloat16()
    if not mistake:
        for layer in norms(model):
            layer.float()
    fit(model, shuffled(train, 64, 80, seed))
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


@fault("constant_channels", "0")
def pixels_without_ink(mistake: bool, seed: int) -> Case:
    """Raw pixels into batch normalization, the corners among them, which never have ink."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    varies = train[0].std(0) > (-1 if mistake else 0.01)
    train, test = ((x[:, varies], y) for x, y in (train, test))
    width = int(varies.sum())
    net = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 10))
    fit(net, shuffled(train, 64, 80, seed))
    return Case(net, shuffled(train, 64, 16, seed + 1), test)


@fault("dead_channels", "4")
def slimmed_to_death(mistake: bool, seed: int) -> Case:
    """Network slimming with a penalty on the scales that is too large."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp()
    strength = 0.2 if mistake else 0.0
    fit(
        model,
        shuffled(train, 64, 120, seed),
        penalty=lambda: strength * model[4].weight.abs().sum(),
    )
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


class Shared(nn.Module):
    """Two hidden layers, and one layer of batch normalization after both, or one after each."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(n, 32, bias=False) for n in (64, 32))
        self.norm = nn.BatchNorm1d(32)
        self.norm2 = self.norm if shared else nn.BatchNorm1d(32)
        self.last = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        y = self.norm(self.first(x)).relu()
        return self.last(self.norm2(4 * self.second(y) + 3).relu())


@fault("shared_layer", "norm", cause="distribution shift")
def one_layer_at_two_places(mistake: bool, seed: int) -> Case:
    """One layer called twice in a forward: its statistics are the average of two places."""
    return _flat(lambda: Shared(mistake), seed)


@fault("bias_before", *BOTH)
def bias_that_is_subtracted(mistake: bool, seed: int) -> Case:
    """Convolutions with a bias in front of batch normalization, which takes it out again."""
    torch.manual_seed(seed)
    model = convnet()
    if mistake:
        model[0] = nn.Conv2d(1, 8, 3, padding=1)
        model[3] = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    return _images(model, seed)


@fault("after_activation", "2", "5")
def activation_first(mistake: bool, seed: int) -> Case:
    """Activation, then batch normalization: the next layer is normalized, the activation not."""
    order = (0, 2, 1, 3, 5, 4, 6) if mistake else range(7)

    def make() -> nn.Module:
        layers = mlp()
        return nn.Sequential(*(layers[i] for i in order))

    return _flat(make, seed)


class NormalizedSum(Block):
    """A residual block with batch normalization behind the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the sum, as the article on ResNets tried and found worse."""
        y = self.norm1(self.conv1(x)).relu()
        return self.norm3(self.norm2(self.conv2(y)) + x).relu()


@fault("after_residual", "3.norm3")
def sum_normalized(mistake: bool, seed: int) -> Case:
    """Batch normalization behind the residual addition, in the way of the identity."""
    torch.manual_seed(seed)
    stem, head = convnet()[:3], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    block = NormalizedSum(8) if mistake else Block(8, 8)
    model = nn.Sequential(*stem, block, *head, nn.Linear(8, 10))
    return _images(model, seed)


@fault("dropout_before", "5")
def dropout_in_front(mistake: bool, seed: int) -> Case:
    """Dropout in front of a normalized layer: its variance in training is not that in use."""

    def make() -> nn.Module:
        layers = list(mlp())
        layers.insert(3 if mistake else 6, nn.Dropout(0.5))
        return nn.Sequential(*layers)

    return _flat(make, seed)


@fault("decayed_affine", *BOTH)
def decay_of_everything(mistake: bool, seed: int) -> Case:
    """Weight decay on all parameters, those of batch normalization included."""
    case = _flat(mlp, seed)
    decayed = [p for p in case.model.parameters() if mistake or p.dim() > 1]
    rest = [p for p in case.model.parameters() if not (mistake or p.dim() > 1)]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    case.optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=0.1)
    return case


def frozen_whole(case: Case) -> Case:
    """Freeze the statistics, too."""
    bn.freeze(case.model[:6])
    return case


@fault("frozen_halfway", *BOTH, remedy=frozen_whole)
def gradients_off_statistics_on(mistake: bool, seed: int) -> Case:
    """A backbone with `requires_grad_(False)`, whose statistics go on learning."""
    case = _flat(mlp, seed)
    case.model[:6].requires_grad_(False)
    return case if mistake else frozen_whole(case)


@fault("eps_too_large", "1")
def divided_by_255_twice(mistake: bool, seed: int) -> Case:
    """Inputs scaled to [0, 1] twice, whose variance then drowns in eps."""
    train, test = digits(seed, flat=True)
    scale = 1 / 255 if mistake else 1.0
    train, test = ((x * scale, y) for x, y in (train, test))
    torch.manual_seed(seed)
    model = fit(mlp(), shuffled(train, 64, 80, seed))
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


def _flat(make: Callable[[], nn.Module], seed: int) -> Case:
    """Train on images as vectors."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = fit(make(), shuffled(train, 64, 80, seed))
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


def _images(model: nn.Module, seed: int) -> Case:
    """Train on images."""
    train, test = digits(seed)
    fit(model, shuffled(train, 64, 100, seed), lr=0.3)
    return Case(model, shuffled(train, 64, 16, seed + 1), test)


def _negative(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Give the images in negative, half as strong, and darker."""
    return -0.5 * batch[0] - 1, batch[1]


def _replicas(data: list[tuple[Tensor, Tensor]], size: int, seed: int) -> list[nn.Module]:
    """Train as DistributedDataParallel does, without its broadcast of buffers: in one process."""
    torch.manual_seed(seed)
    first = mlp()
    models = [first, *(copy.deepcopy(first) for _ in data[1:])]
    parameters = [list(model.parameters()) for model in models]
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9)
    shards = [shuffled(part, size, 80, seed + rank) for rank, part in enumerate(data)]
    for step in range(80):
        for model, shard in zip(models, shards, strict=True):
            model.zero_grad()
            cross_entropy(model(shard[step][0]), shard[step]).backward()
        for same in zip(*parameters, strict=True):
            same[0].grad = torch.stack([p.grad for p in same]).mean(0)
        optimizer.step()
        with torch.no_grad():
            for same in zip(*parameters, strict=True):
                for other in same[1:]:
                    other.copy_(same[0])
    return models


def _with_replicas(
    replicas: list[nn.Module],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    size: int,
    seed: int,
) -> Case:
    batches = shuffled(train, size, 1024 // size, seed + len(replicas))
    states = [copy.deepcopy(model.state_dict()) for model in replicas[1:]]
    return Case(replicas[0], batches, test, replicas=states)


if __name__ == "__main__":
    for one in FAULTS:
        broken = one.plant(0)
        before = broken.accuracy
        print(
            f"{one.name:28} {one.rule:24} {before:.3f} with the mistake, "
            f"{one.heal(broken, 0).accuracy:.3f} healed, {one.twin(0).accuracy:.3f} without it"
        )
