"""Networks that were carried over from another framework, each with one mistake.

    python examples/ported.py

They join those of `examples/faults.py`; `bn.diagnose` finds them by the same table.
"""

import torch
from faults import BOTH, FAULTS, fault, norms, recalibrated
from healthy import Case, digits, fit, mlp, shuffled
from torch import nn

STEPS, DECAY = 30, 0.99
"""Updates of an average, and the weight of its old value: 1 − 0.99³⁰ = 0.26."""


def trained(seed: int, momentum: float | None = 0.1) -> Case:
    """Train two hidden layers, and measure their statistics."""
    train, test = digits(seed, flat=True)
    torch.manual_seed(seed)
    model = mlp(norm=lambda width: nn.BatchNorm1d(width, momentum=momentum))
    fit(model, shuffled(train, 64, 120, seed))
    return recalibrated(Case(model, shuffled(train, 64, 16, seed + 1), test))


@fault("misread_variance", *BOTH, remedy=recalibrated)
def deviations_of_renorm(mistake: bool, seed: int) -> Case:
    """Keras's moving_stddev, which it keeps with renorm=True, taken for moving_variance."""
    case = trained(seed)
    for layer in norms(case.model) if mistake else ():
        layer.running_var.add_(layer.eps).sqrt_()
    return case


@fault("misread_variance", *BOTH, remedy=recalibrated)
def precisions(mistake: bool, seed: int) -> Case:
    """Precisions, 1/variance, as some checkpoints have them."""
    case = trained(seed)
    for layer in norms(case.model) if mistake else ():
        layer.running_var.reciprocal_()
    return case


@fault("exchanged_statistics", *BOTH, remedy=recalibrated, cause="lag")
def variance_first(mistake: bool, seed: int) -> Case:
    """Two vectors of a list in the other order: the variance where the mean belongs."""
    case = trained(seed)
    for layer in norms(case.model) if mistake else ():
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        layer.running_mean.copy_(var)
        layer.running_var.copy_(mean)
    return case


@fault("undivided_statistics", *BOTH, remedy=recalibrated, cause="lag")
def hidden_of_haiku(mistake: bool, seed: int) -> Case:
    """Haiku's hidden in place of its average, after a fine-tuning of thirty steps."""
    case = trained(seed)
    share = 1 - DECAY**STEPS
    for layer in norms(case.model) if mistake else ():
        layer.num_batches_tracked.fill_(1000)
        layer.running_mean.mul_(share)
        layer.running_var.mul_(share)
    return case


@fault("undivided_statistics", *BOTH, remedy=recalibrated, cause="lag")
def variance_of_equinox(mistake: bool, seed: int) -> Case:
    """The variance as Equinox's mode "batch" uses it after thirty steps, divided once too often."""
    case = trained(seed)
    share = 1 - DECAY**STEPS
    for layer in norms(case.model) if mistake else ():
        layer.num_batches_tracked.fill_(1000)
        layer.running_var.add_((1 - share) / share)
    return case


def counted(case: Case) -> Case:
    """Say of how many batches the statistics are."""
    for layer in norms(case.model):
        layer.num_batches_tracked.fill_(1000)
    return case


@fault("uncounted_statistics", *BOTH, remedy=counted)
def counter_left_behind(mistake: bool, seed: int) -> Case:
    """The average of all batches, from a checkpoint that has no counter."""
    case = trained(seed, momentum=None)
    for layer in norms(case.model) if mistake else ():
        layer.num_batches_tracked.zero_()
    return case


def exchanged_back(case: Case) -> Case:
    """Put weight and bias into each other's place."""
    with torch.no_grad():
        for layer in norms(case.model):
            weight = layer.weight.clone()
            layer.weight.copy_(layer.bias)
            layer.bias.copy_(weight)
    return case


@fault("exchanged_affine", *BOTH, remedy=lambda case: recalibrated(exchanged_back(case)))
def beta_first(mistake: bool, seed: int) -> Case:
    """Two vectors of a list in the other order: beta where gamma belongs."""
    case = trained(seed)
    return exchanged_back(case) if mistake else case


if __name__ == "__main__":
    for one in FAULTS:
        if one.build.__module__ == "__main__":
            broken = one.plant(0)
            before = broken.accuracy
            print(
                f"{one.name:28} {one.rule:24} {before:.3f} with the mistake, "
                f"{one.heal(broken, 0).accuracy:.3f} healed, {one.twin(0).accuracy:.3f} without it"
            )
