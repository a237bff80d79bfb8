"""Weight and bias that hold each other: found by a trial, as nothing else can tell."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, Trial
from ..trials import EXCHANGED, NATS, WORSE


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers with which the network does much better when the two are exchanged."""
    trial = evidence.trials.get(EXCHANGED)
    if trial is not None and trial.is_better:
        for name in trial.layers:
            yield _finding(name, trial)


def _finding(name: str, trial: Trial) -> Finding:
    return Finding(
        rule="exchanged_affine",
        layer=name,
        severity="error",
        what=f"its weight and bias seem to be exchanged: the loss is {trial.found:.3g}, and "
        f"{trial.tried:.3g} with the two in each other's place",
        why="Both are vectors of one shape, often neighbors in a list. A scale near 0 and a shift "
        "near 1 make the output of the layer nearly constant.",
        remedy=f"layer = model.get_submodule({name!r})\n"
        "weight = layer.weight.detach().clone()\n"
        "with torch.no_grad():\n"
        "    layer.weight.copy_(layer.bias)\n"
        "    layer.bias.copy_(weight)",
        source="Keras's get_weights(): gamma, beta; Haiku's parameters by name: offset, scale",
        numbers={
            "loss": trial.found,
            "loss_exchanged": trial.tried,
            "times": WORSE,
            "nats": NATS,
        },
    )
