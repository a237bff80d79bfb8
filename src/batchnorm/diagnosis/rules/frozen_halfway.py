"""Layers that are frozen in one respect and not in the other."""

from collections.abc import Iterator

from ...records import Finding
from ..evidence import EVALUATION, LEARNING, Evidence, LayerEvidence


def check(evidence: Evidence) -> Iterator[Finding]:
    """Find frozen parameters with learning statistics, and the other way round.

    Only in a model in training mode: in evaluation all statistics rest. What `batchnorm.freeze`
    has frozen was frozen on purpose.
    """
    if not evidence.training:
        return
    for layer in evidence.layers.values():
        learns = layer.weight_requires_grad or layer.bias_requires_grad
        if layer.mode == LEARNING and layer.weight is not None and not learns:
            yield _statistics_move(layer)
        elif layer.mode == EVALUATION and learns:
            yield _parameters_move(layer)


def _statistics_move(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="frozen_halfway",
        layer=layer.name,
        severity="warning",
        what="its weight and bias are frozen (requires_grad is False), its running statistics go "
        "on learning",
        why="In training it normalizes by the batch and moves its buffers: what looks frozen "
        "computes another function with every step.",
        remedy=f"bn.freeze(model.get_submodule({layer.name!r}))  # also after model.train()",
        source="torch.nn.Module.requires_grad_; Wu & Johnson 2021 (arXiv:2105.07576), section 4",
        numbers={"updates": layer.num_batches_tracked},
    )


def _parameters_move(layer: LayerEvidence) -> Finding:
    return Finding(
        rule="frozen_halfway",
        layer=layer.name,
        severity="warning",
        what="it is in evaluation mode in a model in training mode, and its weight and bias learn",
        why="Its statistics stay until the next model.train(), which sets it learning unnoticed; "
        "weight and bias learn all the time.",
        remedy=f"bn.freeze(model.get_submodule({layer.name!r}))  # both; affine=False: the first",
        source="torch.nn.Module.train",
        numbers={"updates": layer.num_batches_tracked},
    )
