"""How often one training step updates the running statistics of a layer.

By how much `num_batches_tracked` grows in one forward pass, and the backward pass where there is a
loss. More than 1: the layer stands in several places, or a checkpoint runs it again; its momentum
then is another than it says.

Source: the buffer `num_batches_tracked` of torch.nn.BatchNorm2d.
"""

from ...records import Measure
from ..evidence import LayerEvidence

MEASURE = Measure(
    name="updates",
    title="updates a step",
    meaning="By how much one training step moves num_batches_tracked.",
    source="torch.nn.BatchNorm2d",
    unit="",
    calm=1.0,
    alarm=3.0,
)


def of(layer: LayerEvidence) -> float | None:
    """Give it for a layer."""
    return None if layer.updates is None else float(layer.updates)
