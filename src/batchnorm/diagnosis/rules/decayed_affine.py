"""Weight decay on the parameters of batch normalization."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find layers whose weight or bias is in a group with weight decay."""
    for layer in evidence.layers.values():
        every = {key: _decay(evidence, layer, key) for key in ("weight", "bias")}
        decays = {key: decay for key, decay in every.items() if decay}
        if decays:
            yield _finding(layer, decays)


def _decay(evidence: Evidence, layer: LayerEvidence, key: str) -> float | None:
    name = f"{layer.name}.{key}" if layer.name else key
    parameter = evidence.parameters.get(name)
    return parameter.weight_decay if parameter is not None and parameter.requires_grad else None


def _finding(layer: LayerEvidence, decays: dict[str, float]) -> Finding:
    return Finding(
        rule="decayed_affine",
        layer=layer.name,
        severity="information",
        what=" and ".join(f"its {key} has weight decay {decay:g}" for key, decay in decays.items()),
        why="Decay of the weights in front of a normalization only sets their learning rate; decay "
        "of its own parameters pulls scales to 0, so channels off, and shifts to 0. Most recipes "
        "that were tuned leave them out; some that were not keep them in.",
        remedy="small = [p for p in model.parameters() if p.dim() < 2]\n"
        "rest = [p for p in model.parameters() if p.dim() >= 2]\n"
        "torch.optim.SGD([{'params': rest, 'weight_decay': 5e-4},\n"
        "                 {'params': small, 'weight_decay': 0.0}], lr=0.1)",
        source="He et al. 2019 (arXiv:1812.01187), section 3.1; van Laarhoven 2017 "
        "(arXiv:1706.05350)",
        numbers=dict(decays),
    )
