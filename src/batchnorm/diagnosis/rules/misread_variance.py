"""A running variance that is a standard deviation, an inverse, or a mean square."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..readings import BETTER, Reading, misread


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose running variance follows something else, channel by channel."""
    for layer in evidence.layers.values():
        reading = misread(layer)
        if reading is not None:
            yield _finding(layer, reading)


def _finding(layer: LayerEvidence, reading: Reading) -> Finding:
    return Finding(
        rule="misread_variance",
        layer=layer.name,
        severity="error",
        what=f"its running_var holds {reading.what}: over the channels it is {reading.times:.2g} "
        "times nearer to those of the data than to its variances",
        why="Inference divides by √(running_var + eps). (a) Keras keeps moving_stddev beside "
        "moving_variance with renorm=True; (b) kernels save 1/√(variance + eps); (c) others store "
        "precisions, or mean squares. The running mean is right.",
        remedy="port the right array (moving_variance), or\n"
        "bn.recalibrate(model, batches)  # batches of the data it is to be used on",
        source="keras.layers.BatchNormalization(renorm=True); torch.native_batch_norm, save_invstd",
        numbers={
            "times": reading.times,
            "threshold": BETTER,
            "error": reading.error,
            "log_std_error": reading.found,
        },
    )
