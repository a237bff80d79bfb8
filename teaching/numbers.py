"""Every number that the pages say, by name: what stands between two marks of a page.

A name is a path, such as `2 / relu, at initialization / effect`. The first part says from which
record; numbers are worded as the report words them.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable

from batchnorm.records import Effect, Test
from batchnorm.report import wording
from batchnorm.study.claims.cell import POINTS
from batchnorm.study.statistics import compare

from .data import load, study

SEPARATOR = " / "
HEADLINE = "headline"

Table = tuple[list[str], list[list[str]]]
"""The heads of the columns, and the cells of the rows."""

_EFFECT: dict[str, Callable[[Effect, Test], str]] = {
    "verdict": lambda effect, test: effect.verdict,
    "effect": lambda effect, test: wording.effect(effect, test.scale),
    "interval": lambda effect, test: wording.interval(effect, test.scale),
    "wins": lambda effect, test: wording.wins(effect),
    "holm": lambda effect, test: wording.p_value(effect.p_holm),
    "note": lambda effect, test: effect.reason.partition("; ")[2],
}


def value(name: str) -> str:
    """Word what a name stands for.

    Raises:
        KeyError: There is nothing of that name.
    """
    first, *rest = name.split(SEPARATOR)
    try:
        if first in _tests():
            return _of_test(_tests()[first], *rest)
        return _KINDS[first](*rest)
    except (KeyError, ValueError, TypeError) as error:
        raise KeyError(f"no number has the name {name!r}: {error!r}") from error


def _tests() -> dict[str, Test]:
    return {test.id: test for claim in study().claims for test in claim.tests}


def _of_test(test: Test, *path: str) -> str:
    label, attribute = path if len(path) == 2 else (HEADLINE, *path)
    cells = {effect.label: effect for effect in (test.headline, *test.cells)}
    return _EFFECT[attribute](cells[label], test)


def _trials(which: str) -> str:
    return wording.integer(getattr(study().counts, which))


def _rate(activation: str, arm: str) -> str:
    """The learning rates that validation data chose."""
    return study().chosen_lr[f"{activation}, {arm}"]


def _stable(activation: str, arm: str) -> str:
    """The median over seeds of the largest stable rate."""
    rates = [s.lr for s in study().stability if (s.activation, s.arm) == (activation, arm)]
    middle = statistics.median(rate for rate in rates if rate is not None)
    return wording.rate(float(f"{middle:.2g}"))


def _dead(arm: str, which: str) -> str:
    """The mean share of ReLUs that are born dead, or die, at each arm's own rate."""
    counted = [
        d
        for d in study().dead_units
        if (d.activation, d.arm, d.condition) == ("relu", arm, "best") and d.units
    ]
    return wording.percent(statistics.fmean(getattr(d, which) / d.units for d in counted))


def _accuracy(activation: str, arm: str) -> str:
    """The mean test accuracy at the end of the runs at each arm's own rate."""
    own = [c for c in study().curves if (c.activation, c.arm) == (activation, arm)]
    last = max(c.step for c in own)
    ends = [c.test_accuracy for c in own if c.step == last]
    return wording.percent(statistics.fmean(share for share in ends if share is not None))


def _depth(activation: str, arm: str, layer: str) -> str:
    row = load("depth").one(activation=activation, arm=arm, layer=int(layer))
    return wording.number(row["error"], 2)


def _learning(arm: str, step: str, field: str = "error") -> str:
    row = load("depth").one(activation="relu, learning", arm=arm, step=int(step))
    return wording.number(row[field], 2)


def _variance(way: str, ratio: str) -> str:
    return wording.number(load("variance").one(way=way, ratio=float(ratio))["error"], 1)


def _noise(size: str, of: str) -> str:
    return wording.number(load("noise").one(size=int(size))[of], 2)


def _running(momentum: str, step: str, of: str) -> str:
    row = load("running").one(momentum=float(momentum), step=int(step))
    return wording.number(row[of], 2)


def _hidden(place: str, of: str) -> str:
    values = [row[place] for row in load("hidden").rows]
    take: dict[str, Callable[[Iterable[float]], float]] = {
        "mean": statistics.fmean,
        "std": statistics.pstdev,
    }
    # What is 0 up to rounding is said to be 0.
    return wording.number(round(take[of](values), 2), 2)


def _placed(inputs: str, hidden: str) -> str:
    """Mean test accuracy of one arm."""
    return wording.percent(statistics.fmean(_accuracies(inputs, hidden).values()))


def _gain(inputs: str, one: str, other: str, attribute: str = "effect") -> str:
    """How much more accurate the one is than the other, paired by seed."""
    a, b = _accuracies(inputs, one), _accuracies(inputs, other)
    effect = compare("", {seed: a[seed] - b[seed] for seed in a}, POINTS)
    word = {"effect": wording.effect, "interval": wording.interval}[attribute]
    return word(effect, "points")


def _accuracies(inputs: str, hidden: str) -> dict[int, float]:
    rows = load("placement").where(inputs=inputs, hidden=hidden)
    return {row["seed"]: row["accuracy"] for row in rows}


def _table(name: str, *folder: str) -> str:
    """A table of a test, cell by cell; "verdicts" of all headlines; "processors" of both runs.

    The claims in "verdicts" are links, to pages in a folder seen from the page that has the table.
    """
    kinds = {"verdicts": _verdict_table, "processors": _processor_table}
    head, rows = kinds[name](*folder) if name in kinds else _cell_table(_tests()[name])
    lines = [head, ["---"] * len(head), *rows]
    return "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def _cell_table(test: Test) -> Table:
    head = ["where", "verdict", "effect", "95 % interval", "for BN"]
    effects = [test.headline, *test.cells]
    words = ["**all, the headline**", *(_short(effect.label) for effect in test.cells)]
    return head, [
        [label, *_judged(effect, test.scale), wording.wins(effect)]
        for label, effect in zip(words, effects, strict=True)
    ]


def _short(label: str) -> str:
    """Shorten the name of a cell to what a narrow table can hold."""
    for long, short in _SHORTER.items():
        label = label.replace(long, short)
    return label


def _verdict_table(folder: str = "") -> Table:
    return ["claim", "test", "verdict", "effect", "95 % interval"], [
        [
            f"[{claim.number} {claim.title}]({folder}{PAGES[claim.number]})" if i == 0 else "",
            f"{test.id if len(claim.tests) > 1 else ''} {test.name.lower()}".strip(),
            *_judged(test.headline, test.scale),
        ]
        for claim in study().claims
        for i, test in enumerate(claim.tests)
    ]


def _processor_table() -> Table:
    other = load("processor")
    names = study().versions["processor"], other.rows[0]["processor"]
    head = ["test", *(f"{name}: {what}" for name in names for what in ("verdict", "effect"))]
    rows = []
    for test in _tests().values():
        found = other.one(test=test.id)
        ends = {end: found[end] for end in ("mean", "low", "high", "verdict")}
        effects = test.headline, dataclasses.replace(test.headline, **ends)
        cells = [cell for effect in effects for cell in _judged(effect, test.scale)[:2]]
        rows.append([f"{test.id} {test.name.lower()}", *cells])
    return head, rows


def _judged(effect: Effect, scale: str) -> list[str]:
    interval = wording.interval(effect, scale) or wording.ABSENT
    return [effect.verdict, wording.effect(effect, scale), interval]


_SHORTER = {
    "each arm at its own learning rate": "own rate",
    "both arms at the same learning rate": "same rate",
    "at matched training loss, ": "",
    "slope over virtual batch sizes 4 to 64 (batch norm alone)": "64 to 4 samples per statistic",
}

PAGES = {
    1: "covariate_shift.md",
    2: "gradients.md",
    3: "learning_rates.md",
    4: "dying_relus.md",
    5: "regularization.md",
}


def _start(arm: str, epoch: str) -> str:
    """The mean test accuracy on the first page."""
    found = load("start").where(arm=arm, epoch=int(epoch))
    return f"{100 * statistics.fmean(row['accuracy'] for row in found):.0f} %"


def _mistake(mistake: str, which: str) -> str:
    found = load("mistakes").where(mistake=mistake)
    return f"{100 * statistics.fmean(row[which] for row in found):.0f} %"


_KINDS: dict[str, Callable[..., str]] = {
    "trials": _trials,
    "rate": _rate,
    "stable": _stable,
    "dead": _dead,
    "accuracy": _accuracy,
    "depth": _depth,
    "learning": _learning,
    "variance": _variance,
    "noise": _noise,
    "running": _running,
    "hidden": _hidden,
    "placed": _placed,
    "gain": _gain,
    "start": _start,
    "mistake": _mistake,
    "table": _table,
}
