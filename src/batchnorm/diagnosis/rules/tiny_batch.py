"""Statistics of too few independent values."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import BATCH, Evidence, LayerEvidence
from ..quantities import effective_batch

SERIOUS = 4.0
FEW = 16.0


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers that normalize by a handful of values."""
    for layer in evidence.layers.values():
        calls = layer.runs.get(BATCH)
        if not layer.is_learning or calls is None:
            continue
        size = effective_batch.of(layer)
        pooled = evidence.world_size if layer.sync else 1
        if calls.degenerate:
            yield _single(layer, calls.degenerate, len(calls.batch))
        # Sixteen samples of one value each are 15.9999999999 here.
        elif size is not None and (size := round(size * pooled, 6)) < FEW:
            yield _finding(layer, size, float(calls.samples.mean()))


def _finding(layer: LayerEvidence, size: float, samples: float) -> Finding:
    renormalized = "renorm" in layer.options
    grave = "error" if size < SERIOUS else "warning"
    return Finding(
        rule="tiny_batch",
        layer=layer.name,
        severity="information" if renormalized else grave,
        what=f"its statistics are of {size:.3g} independent values (batches of {samples:.3g} "
        f"samples); the mean of a batch is off by {size**-0.5:.0%} of a standard deviation",
        why="The noise of the batch's mean and variance goes through the network in training and "
        "is missing in evaluation: the smaller the batch, the less eval() is what was trained.",
        remedy="larger batches; or sync=True over replicas, or renorm=bn.Renorm(...), or\n"
        "bn.freeze(model, affine=False)  # in fine-tuning: keep the statistics, or\n"
        "model = bn.convert(model, *inputs, to='group').model  # no statistics of the batch at all",
        source="Wu & He 2018 (arXiv:1803.08494), Figure 1; Ioffe 2017 (arXiv:1702.03275)",
        numbers={"effective_batch": size, "samples": samples, "few": FEW, "serious": SERIOUS},
    )


def _single(layer: LayerEvidence, calls: int, of: int) -> Finding:
    return Finding(
        rule="tiny_batch",
        layer=layer.name,
        severity="error",
        what=f"{calls} of {of} batches give it one value per channel",
        why='One value has no variance: in training PyTorch raises "Expected more than 1 value '
        'per channel when training".',
        remedy="DataLoader(..., drop_last=True) if it is the last batch of an epoch; else larger "
        "batches, or layers of this library with degenerate='running'",
        source="torch.nn.functional.batch_norm",
        numbers={"calls": float(calls), "of": float(of)},
    )
