"""The five promises of batch normalization; one file defines, measures and compares each."""

import dataclasses

from . import (
    backward_growth,
    dead_units,
    distribution_drift,
    generalization_gap,
    gradient_shift,
    stable_learning_rate,
    steps_to_accuracy,
)
from .cell import Definition


@dataclasses.dataclass(frozen=True)
class Promise:
    """One of the five claims in plain words, with the tests that judge it."""

    number: int
    title: str
    meaning: str
    method: str
    limits: str
    tests: tuple[Definition, ...]


PROMISES = (
    Promise(
        1,
        "It reduces internal covariate shift",
        "While a network trains, each layer's inputs keep changing because the layers before it "
        "change; batch normalization is said to make these inputs change less, so that a layer "
        "need not keep adapting to a moving target.",
        "Drift (1a) is how far the distribution of every activation's input moves between two "
        "looks at the same samples; gradient shift (1b) is how much a layer's gradient changes "
        "when the layers below it have just been updated.",
        "The two definitions often disagree. Batch normalization pins the mean and the variance of "
        "what it outputs, so that less drift is nearly built in; less gradient shift is not.",
        (distribution_drift.DEFINITION, gradient_shift.DEFINITION),
    ),
    Promise(
        2,
        "It cures vanishing and exploding gradients",
        "In a deep network the error signal can shrink to nothing or blow up on its way back to "
        "the first layers; batch normalization is said to keep its size about the same.",
        "The error signal is measured at every activation, and its growth over the whole depth is "
        "compared between the arms: at initialization, and after 100 training steps.",
        "It depends on the activation and on the initialization that the network without batch "
        "normalization gets. In deep ReLU networks batch normalization itself makes the signal "
        "grow, by about 1.2 times per layer.",
        (backward_growth.DEFINITION,),
    ),
    Promise(
        3,
        "It allows higher learning rates and faster training",
        "The learning rate is the size of a training step: too large, and training breaks down; "
        "batch normalization is said to tolerate larger steps, and so to reach a good accuracy in "
        "fewer of them.",
        "The largest stable rate (3a) is found by bisection over short real training runs; speed "
        "(3b) is the number of steps to the weaker arm's best validation accuracy, each arm at "
        "its own tuned learning rate.",
        "A higher rate being allowed does not make it useful, and a step with batch normalization "
        "costs more time. With small batches the advantage is small.",
        (stable_learning_rate.DEFINITION, steps_to_accuracy.DEFINITION),
    ),
    Promise(
        4,
        "It prevents dying ReLUs",
        "A ReLU that is off for every sample passes no gradient: its own weights learn nothing, "
        "and only changes below it can switch it on again. The unit is dead; batch normalization "
        "is said to prevent this by centering what the ReLU receives.",
        "After training, every unit that no sample of the whole training set switches on is "
        "counted as dead; those already dead at the start are told apart from those that died.",
        "At a learning rate small enough for the network without batch normalization, few of its "
        "units die either, and a few dead units need not cost any accuracy.",
        (dead_units.DEFINITION,),
    ),
    Promise(
        5,
        "It regularizes",
        "A network that memorizes its training data does worse on new data; the noise of batch "
        "statistics is said to make memorizing harder, and so to narrow the gap between training "
        "and test accuracy.",
        "The gap is compared where both arms have reached the same training loss; runs that only "
        "change the number of samples per statistic then show whether the noise narrows it.",
        "With large batches there is little noise. A network that has not learned has no gap "
        "either, which is no merit, and at an equally small learning rate test accuracy is "
        "usually equal.",
        (generalization_gap.DEFINITION,),
    ),
)
"""In the order of the article the project started from."""
