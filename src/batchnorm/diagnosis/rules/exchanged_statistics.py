"""Running mean and running variance that hold each other."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..readings import BETTER, exchanged, is_exchanged


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose running mean is the data's variance, and the other way round."""
    for layer in evidence.layers.values():
        if is_exchanged(layer):
            yield _finding(layer)


def _finding(layer: LayerEvidence) -> Finding:
    times, var = exchanged(layer) or 0.0, layer.running_var
    negative = 0 if var is None else int((var < 0).sum())
    nan = f"; {negative} of its variances are negative" if negative else ""
    return Finding(
        rule="exchanged_statistics",
        layer=layer.name,
        severity="error",
        what=f"its running_mean holds the variances of the data and its running_var the means{nan}",
        why="Both are vectors of one shape, often neighbors in a list, and only the data tell "
        "them apart. In inference the output is wrong, or NaN where a mean is negative.",
        remedy="port the arrays in their order, or\n"
        "bn.recalibrate(model, batches)  # batches of the data it is to be used on",
        source="torch.nn.BatchNorm2d.state_dict; Keras's get_weights()",
        numbers={"times": times, "threshold": BETTER, "negative": float(negative)},
    )
