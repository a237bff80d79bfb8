"""Which modules are in training mode in which run."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn import frozen
from .evidence import BATCH, EVALUATION, FROZEN, LEARNING, REDRAWN, TRAINING


def modes_of(layers: Mapping[str, _BatchNorm]) -> dict[str, str]:
    """Say what each layer does in training.

    A layer in evaluation mode where others are in training mode is taken to be frozen by hand; in
    a model that is in evaluation mode as a whole, all would learn.
    """
    held = {name for name, layer in layers.items() if frozen.is_frozen(layer)}
    some_train = any(layer.training for name, layer in layers.items() if name not in held)
    return {
        name: FROZEN
        if name in held
        else EVALUATION
        if some_train and not layer.training
        else LEARNING
        for name, layer in layers.items()
    }


class Modes:
    """Sets modes of modules, not by `train()`: a model's own may do more than that.

    Args:
        model: As found.
        modes: Of its layers, by name.
        layers: The layers, by name.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, _BatchNorm], modes: Mapping[str, str]
    ) -> None:
        self.learning = [layer for name, layer in layers.items() if modes[name] == LEARNING]
        norms = set(layers.values())
        others = [module for module in model.modules() if module not in norms]
        as_found = any(module.training for module in others)
        self.norms = norms
        # Nothing stops a script from updating its statistics in training.
        self.others = [
            (m, (m.training or not as_found) and not isinstance(m, torch.jit.ScriptModule))
            for m in others
        ]

    def set(self, run: str) -> None:
        """Set the modes of a run."""
        for module, mode in self.others:
            module.training = mode and run == TRAINING
        for layer in self.norms:
            layer.training = False
        for layer in self.learning:
            layer.training = run in (TRAINING, BATCH, REDRAWN)
