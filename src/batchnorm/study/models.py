"""The networks of a trial: the default perceptron or the user's own, without and with BN.

The arms of one seed share their initial weights: the network without BN is built first, and the
other takes over its weights.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BatchNormError, UsageError
from ..loading import load
from ..nn import BatchNorm
from ..surgery import insert
from .data import Data
from .design import BATCH_NORM, DEFAULT_INIT, Problem, TrialConfig

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}

INITIALIZATION = {
    "relu": "He normal (He et al. 2015)",
    "sigmoid": "Glorot normal with gain 4, as sigmoid'(0) = 1/4 (Glorot & Bengio 2010)",
    "tanh": "Glorot normal (Glorot & Bengio 2010)",
}
"""The initialization meant for each activation, which the arm without BN gets."""

_GLOROT_GAIN = {"sigmoid": 4.0, "tanh": 1.0}


def build(config: TrialConfig, data: Data) -> nn.Module:
    """Build the network of one trial; the same seed gives the arms the same shared weights.

    Raises:
        UsageError: The user's factory raises, or what it returns cannot be trained on the data.
    """
    problem = config.problem
    torch.manual_seed(config.seed)
    plain = _make(problem, _identity) if problem.model else _perceptron(config, data)
    if config.arm != BATCH_NORM:
        return plain
    options: dict[str, Any] = {}
    if config.virtual_batch_size:
        options["virtual_batch_size"] = config.virtual_batch_size
    if problem.model and _takes_norm(load(problem.model, "--model")):
        torch.manual_seed(config.seed)
        with_norm = _make(problem, lambda num_features: BatchNorm(num_features, **options))
        return _share_weights(plain, with_norm)
    try:
        with_bn: nn.Module = insert(plain, data.train.x[:2], dry_run=False, **options)
        return with_bn
    except BatchNormError as error:
        raise UsageError(
            f"--model {problem.model!r}: batch normalization cannot be inserted: {error} "
            "Or let the factory put it in: make(norm) calls norm(num_features)."
        ) from error


def check(problem: Problem, data: Data, config: TrialConfig) -> None:
    """Refuse, before any trial starts, a network that cannot be trained on the data.

    Raises:
        UsageError: Its output is not one row of class scores per sample, or has too few classes,
            or the batch size is larger than the training part.
    """
    if problem.batch_size > len(data.train.y):
        raise UsageError(
            f"--batch-size {problem.batch_size}: the training part has only "
            f"{len(data.train.y)} samples; choose a smaller batch"
        )
    model = build(config, data)
    where = f"--model {problem.model!r}"
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"{where}: the network has no parameter to train")
    try:
        with torch.no_grad():
            output = model(data.train.x[: problem.batch_size])
    except Exception as error:
        raise UsageError(
            f"{where}: a batch of shape {tuple(data.train.x[: problem.batch_size].shape)} "
            f"raised {type(error).__name__}: {error}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != problem.batch_size:
        raise UsageError(
            f"{where}: expected scores of shape ({problem.batch_size}, classes), found {shape}"
        )
    if output.shape[1] < data.classes:
        raise UsageError(
            f"--data {problem.data!r}: label {data.classes - 1} is out of range: "
            f"the network has {output.shape[1]} outputs, expected at least {data.classes}"
        )


def _perceptron(config: TrialConfig, data: Data) -> nn.Sequential:
    layers: list[nn.Module] = []
    features = data.train.x[0].numel()
    if data.train.x.dim() > 2:
        layers.append(nn.Flatten())
    for _ in range(config.problem.depth):
        layer = nn.Linear(features, config.problem.width)
        layers += [layer, _ACTIVATIONS[config.activation]()]
        features = config.problem.width
    model = nn.Sequential(*layers, nn.Linear(features, data.classes))
    if config.arm != DEFAULT_INIT:
        _initialize(model, config.activation)
    return model


def _initialize(model: nn.Sequential, activation: str) -> None:
    for layer in model:
        if isinstance(layer, nn.Linear):
            if activation == "relu":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(layer.weight, gain=_GLOROT_GAIN[activation])
            nn.init.zeros_(layer.bias)


def _make(problem: Problem, norm: Callable[[int], nn.Module]) -> nn.Module:
    assert problem.model is not None
    factory = load(problem.model, "--model")
    try:
        model = factory(norm) if _takes_norm(factory) else factory()
    except Exception as error:
        raise UsageError(
            f"--model {problem.model!r} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {problem.model!r}: expected a torch.nn.Module, "
            f"found {type(model).__name__} ({model!r:.60})"
        )
    return model


def _takes_norm(factory: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a callable without a signature
        return False
    return any(
        p.name == "norm" or p.default is p.empty for p in parameters if p.kind < p.VAR_POSITIONAL
    )


def _identity(num_features: int) -> nn.Module:
    return nn.Identity()


def _share_weights(plain: nn.Module, with_norm: nn.Module) -> nn.Module:
    """Copy every parameter that both have under one name and shape."""
    source = dict(plain.named_parameters())
    with torch.no_grad():
        for name, parameter in with_norm.named_parameters():
            if name in source and source[name].shape == parameter.shape:
                parameter.copy_(source[name])
    return with_norm
