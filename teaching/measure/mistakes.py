"""Five usual mistakes on the network of the first page: accuracy with the mistake and without.

Every mistake and its absence start from the same weights and see the same batches.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

import batchnorm as bn

from ..data import Row
from .start import BATCH, SEEDS, TRAINING, accuracy, digits, network, train
from .start import SETTINGS as OF_START

SETTINGS = {**OF_START, "without the mistake": "the network of docs/start.md with insert"}
FEW = 3
"""Digits in a batch of the evaluation in training mode."""
WITH_TWO_LEFT = TRAINING - BATCH + 2
"""Training digits, of which two are left for the last batch of an epoch."""


def rows(seeds: int = SEEDS) -> Iterator[Row]:
    """Make every mistake with each seed."""
    torch.set_num_threads(1)
    for seed in range(seeds):
        for mistake, make in MISTAKES.items():
            found = []
            for wrong in (True, False):
                torch.manual_seed(seed)
                found.append(make(wrong))
            yield {"mistake": mistake, "seed": seed, "with": found[0], "without": found[1]}


def _trained(model: nn.Module, samples: int = TRAINING) -> float:
    x, y = digits()
    train(model, x[:samples], y[:samples])
    return accuracy(model, x[TRAINING:], y[TRAINING:])


def evaluated_in_training_mode(wrong: bool) -> float:
    """`model.eval()` forgotten: each batch of three is normalized by itself."""
    model = bn.insert(network())
    right = _trained(model)
    return _in_training_mode(model) if wrong else right


@torch.no_grad()
def _in_training_mode(model: nn.Module) -> float:
    x, y = (part[TRAINING:] for part in digits())
    scores = torch.cat([model.train()(part) for part in x.split(FEW)])
    return float((scores.argmax(1) == y).float().mean())


def trained_in_evaluation_mode(wrong: bool) -> float:
    """`model.train()` forgotten after a first evaluation: nothing is normalized by a batch."""
    return _trained(bn.insert(network()).train(not wrong))


def last_batch_of_two(wrong: bool) -> float:
    """A last batch of two in every epoch."""
    return _trained(bn.insert(network()), WITH_TWO_LEFT if wrong else TRAINING)


def momentum_of_keras(wrong: bool) -> float:
    """Keras's momentum of 0.99, which here is the weight of the new value."""
    return _trained(bn.insert(network(), momentum=0.99 if wrong else 0.1))


def parameters_saved(wrong: bool) -> float:
    """A checkpoint of the parameters alone."""
    model = bn.insert(network())
    _trained(model)
    loaded = bn.insert(network())
    saved = dict(model.named_parameters()) if wrong else model.state_dict()
    loaded.load_state_dict(saved, strict=False)
    x, y = digits()
    return accuracy(loaded, x[TRAINING:], y[TRAINING:])


MISTAKES: dict[str, Callable[[bool], float]] = {
    "evaluated in training mode, three at a time": evaluated_in_training_mode,
    "trained in evaluation mode": trained_in_evaluation_mode,
    "a last batch of two": last_batch_of_two,
    "Keras's momentum, 0.99": momentum_of_keras,
    "parameters saved, not buffers": parameters_saved,
}
