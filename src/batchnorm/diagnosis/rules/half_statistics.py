"""Running statistics in half precision."""

from collections.abc import Iterator

import torch

from ...records import Finding
from ..evidence import Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose buffers went to half precision with the model."""
    for layer in evidence.layers.values():
        dtype = layer.running_dtype
        if dtype is not None and dtype.is_floating_point and dtype.itemsize < 4:
            yield _finding(layer, dtype)


def _finding(layer: LayerEvidence, dtype: torch.dtype) -> Finding:
    spacing = torch.finfo(dtype).eps
    momentum = layer.momentum or 0.0
    stall = ""
    if momentum:
        short = spacing / 2 / momentum
        stall = f"; with momentum {momentum:g} they stop {short:.2g} of their size short"
    return Finding(
        rule="half_statistics",
        layer=layer.name,
        severity="warning",
        what=f"its running statistics are {str(dtype).removeprefix('torch.')}, whose spacing is "
        f"{spacing:.1g}{stall}",
        why="An update smaller than half the spacing changes nothing, so the averages stop before "
        "they are where they should be; in float16 a variance above 65504 is infinite.",
        remedy="for m in model.modules():\n"
        "    if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):\n"
        "        m.float()\n"
        "bn.recalibrate(model, batches)  # or torch.autocast instead of model.half()",
        source="Micikevicius et al. 2018 (arXiv:1710.03740), section 3.3: statistics in float32",
        numbers={"spacing": spacing, "momentum": layer.momentum},
    )
