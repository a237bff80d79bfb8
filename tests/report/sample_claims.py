"""Claims of a made-up study, with effects and verdicts that fit each other."""

import math
import random

from batchnorm.records import Claim, Effect, Test

SEEDS = tuple(range(6))
ACTIVATIONS = ("sigmoid", "relu")

REASONS = {
    "supported": "The whole interval lies beyond the threshold.",
    "contradicted": "The whole interval lies beyond the threshold on the other side.",
    "no practical effect": "The whole interval lies inside the threshold.",
    "inconclusive": "The interval crosses the threshold.",
    "not measurable": "In one arm no run reached a value.",
    "exploratory": "Three seeds are too few for a verdict.",
}


def judge(low, high, threshold=0.005):
    """Find the verdict of an interval."""
    if low > threshold:
        return "supported"
    if high < -threshold:
        return "contradicted"
    is_inside = low > -threshold and high < threshold
    return "no practical effect" if is_inside else "inconclusive"


def effect(label="headline", values=(1.6, 1.8, 1.7, 1.9, 1.65, 1.75), verdict=None, **other):
    """Summarize differences the way the study does, with the t quantile of six seeds."""
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else None
    spread = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1)) if known else None
    half = 2.571 * spread / math.sqrt(len(known)) if known else None
    if verdict is None:
        verdict = judge(mean - half, mean + half)
    fields = {
        "label": label,
        "seeds": SEEDS[: len(values)],
        "differences": tuple(values),
        "mean": mean,
        "low": mean - half if known else None,
        "high": mean + half if known else None,
        "p_sign_flip": 0.03125 if known else None,
        "p_holm": 0.21875 if known and label == "headline" else None,
        "effect_size": mean / spread if known and spread else None,
        "wins": sum(v > 0 for v in known),
        "verdict": verdict,
        "reason": REASONS[verdict],
    }
    return Effect(**{**fields, **other})


def around(center, spread, seed):
    """Draw six differences around a center."""
    draw = random.Random(seed)
    return tuple(round(center + draw.gauss(0, spread), 4) for _ in SEEDS)


def cells(center, spread, where, seed=0):
    """Judge one effect in each activation, and in each of the given conditions."""
    labels = [f"{a}, {w}" if w else a for a in ACTIVATIONS for w in where]
    return tuple(
        effect(label, around(center * (1 - 0.3 * i), spread, seed + i))
        for i, label in enumerate(labels)
    )


def claims():
    """Judge all five claims, with one verdict of nearly every kind."""
    return (
        Claim(
            1,
            "Reduces internal covariate shift",
            "While a network learns, what each layer receives keeps changing; batch normalization "
            "is said to hold it still.",
            "We probed the inputs of every activation during training, and how much each "
            "layer's gradient changes when the layers below it are updated.",
            "Pinning mean and variance makes the first test nearly true by construction; the "
            "gradients can move more with it than without.",
            (
                Test(
                    "1a",
                    "Drift of the inputs",
                    "ln(drift without BN / drift with BN), averaged over probes",
                    "ratio",
                    math.log(1.25),
                    "Ioffe & Szegedy 2015, Fig. 1",
                    effect(values=around(2.1, 0.3, 1)),
                    cells(2.1, 0.3, ("best", "matched"), 1),
                    None,
                ),
                Test(
                    "1b",
                    "Gradient shift",
                    "ln(relative gradient change without BN / with BN)",
                    "ratio",
                    math.log(1.25),
                    "Santurkar et al. 2018, Definition 2.1",
                    effect(values=around(-0.7, 0.25, 2)),
                    cells(-0.7, 0.25, ("best", "matched"), 2),
                    "the activation: with sigmoid it rises, with relu it falls.",
                ),
            ),
        ),
        Claim(
            2,
            "Cures vanishing and exploding gradients",
            "In a deep network the error signal can shrink or grow at every layer; batch "
            "normalization is said to keep its size.",
            "We compared the size of the error signal at the first and last layer, at "
            "initialization and after 100 steps.",
            "A plain deep ReLU network with a good initialization has no such problem, and there "
            "batch normalization makes gradients explode at initialization.",
            (
                Test(
                    "2",
                    "Growth over depth",
                    "|ln(first layer / last layer)| without BN, minus the same with BN",
                    "ratio",
                    math.log(1.25),
                    "Yang et al. 2019",
                    effect(values=around(9.2, 6.5, 3)),
                    cells(9.2, 2.5, ("at initialization", "after 100 steps"), 3),
                    "activation: sigmoid supports it, relu contradicts it.",
                ),
            ),
        ),
        Claim(
            3,
            "Allows higher learning rates and faster training",
            "With batch normalization one can take larger steps without diverging, and reach the "
            "same accuracy sooner.",
            "We searched the largest stable learning rate by bisection, and counted steps "
            "to the accuracy the weaker arm reaches.",
            "A rate that is allowed need not be useful, and steps with batch normalization take "
            "longer: compare the seconds as well.",
            (
                Test(
                    "3a",
                    "Largest stable learning rate",
                    "ln(largest stable rate with BN / without BN)",
                    "ratio",
                    math.log(1.25),
                    "Bjorck et al. 2018",
                    effect(),
                    cells(1.7, 0.2, ("",), 4),
                    None,
                ),
                Test(
                    "3b",
                    "Steps to the same accuracy",
                    "ln(steps without BN / steps with BN); runs that never got there count as the "
                    "whole budget",
                    "ratio",
                    math.log(1.25),
                    "Ioffe & Szegedy 2015, section 4.2",
                    effect(values=around(0.9, 0.2, 5)),
                    cells(0.9, 0.2, ("",), 5),
                    None,
                ),
            ),
        ),
        Claim(
            4,
            "Prevents dying ReLUs",
            "A ReLU unit that is off for every input stops learning; batch normalization is said "
            "to prevent it.",
            "We counted the units that no sample of the probe set switches on, before and "
            "after training.",
            "At a moderate learning rate few units die anyway, and a few dead units do not hurt "
            "accuracy.",
            (
                Test(
                    "4",
                    "Share of dead units",
                    "share of dead units without BN minus with BN",
                    "points",
                    0.005,
                    "Lu et al. 2020",
                    effect(values=around(0.032, 0.012, 6)),
                    cells(0.03, 0.01, ("best", "matched"), 6),
                    None,
                ),
            ),
        ),
        Claim(
            5,
            "Regularizes",
            "The noise in the batch statistics is said to keep the network from memorizing its "
            "training data.",
            "We compared training and test accuracy at the same training loss, and again "
            "with smaller virtual batches.",
            "On small data sets the gap is a matter of a few test samples, and a network that "
            "learns less also has a smaller gap.",
            (
                Test(
                    "5",
                    "Generalization gap",
                    "gap without BN minus gap with BN, at matched training loss",
                    "points",
                    0.005,
                    "Luo et al. 2019",
                    effect(values=(0.012, -0.004, None, 0.018, -0.009, 0.006)),
                    cells(0.004, 0.008, ("best", "matched"), 7),
                    None,
                ),
            ),
        ),
    )
