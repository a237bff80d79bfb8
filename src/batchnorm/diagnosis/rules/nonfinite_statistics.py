"""NaN or infinity in the running statistics, or a variance below 0."""

from collections.abc import Iterator

from torch import Tensor

from ...records import Finding
from ..evidence import Evidence, LayerEvidence
from ..readings import is_exchanged


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose statistics inference cannot use, or that have missed updates."""
    for layer in evidence.layers.values():
        bad = bad_channels(layer)
        if bad is not None and bool(bad.any()):
            if is_exchanged(layer):
                continue  # means in place of variances may be negative
            yield _unusable(layer, int(bad.sum()))
        elif layer.num_nonfinite:
            yield _missed(layer)


def bad_channels(layer: LayerEvidence) -> Tensor | None:
    """Say which channels have statistics that are no numbers, (C,); None where there are none."""
    if layer.running_mean is None or layer.running_var is None:
        return None
    var = layer.running_var
    return ~(layer.running_mean.isfinite() & var.isfinite() & (var >= 0))


def _unusable(layer: LayerEvidence, bad: int) -> Finding:
    return Finding(
        rule="nonfinite_statistics",
        layer=layer.name,
        severity="error",
        what=f"its running statistics are NaN, infinite or negative in {bad} of "
        f"{layer.num_features} channels",
        why="One batch with NaN or infinity is enough, also in a step that a gradient scaler "
        "skipped. An average never gets rid of it, and in inference all outputs are NaN.",
        remedy="bn.recalibrate(model, batches)  # and against the next one, layers that skip it:\n"
        "bn.convert(model, to='batchnorm')",
        source="Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 2; PyTorch updates the buffers "
        "in the forward pass, before anything can be skipped",
        numbers={"channels": float(bad), "of": float(layer.num_features)},
    )


def _missed(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="nonfinite_statistics",
        layer=layer.name,
        severity="information",
        what=f"a channel has missed {layer.num_nonfinite} updates: NaN or infinity in the batches",
        why="The running statistics are sound; the batches were not.",
        remedy="look for NaN and infinity in the data, and for a loss that overflows",
        source="batchnorm: nonfinite='skip'",
        numbers={"missed": float(layer.num_nonfinite)},
    )
