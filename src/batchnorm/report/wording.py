"""How numbers and verdicts are worded: every number a reader sees passes through here."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..records import Effect, Test

ABSENT = "–"


@dataclass(frozen=True)
class Verdict:
    """A verdict word with what it means and the name of its color and symbol."""

    word: str
    slug: str
    meaning: str


_VERDICTS = (
    Verdict(
        "supported",
        "supported",
        "The whole interval lies beyond the threshold, in favor of batch normalization, also "
        "after Holm's correction for asking several questions at once.",
    ),
    Verdict(
        "contradicted",
        "contradicted",
        "The whole interval lies beyond the threshold on the other side: "
        "batch normalization made it worse.",
    ),
    Verdict(
        "no practical effect",
        "none",
        "The whole interval lies inside the threshold band: "
        "if there is an effect, it is too small to matter.",
    ),
    Verdict(
        "inconclusive",
        "inconclusive",
        "The interval, or the one that Holm's correction widens it to, crosses the edge of the "
        "band: these seeds cannot tell.",
    ),
    Verdict(
        "depends",
        "depends",
        "Some cells support the claim and others contradict it: there is no one answer, "
        "and what it depends on is named.",
    ),
    Verdict(
        "not measurable",
        "unmeasured",
        "Too few runs gave a value, for example because one side diverged.",
    ),
    Verdict(
        "exploratory",
        "exploratory",
        "Too few seeds for a verdict: the numbers are shown, nothing is decided.",
    ),
)

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_ARMS = {
    "none": "without BN",
    "default init": "without BN, PyTorch default init",
    "batch norm": "with BN",
}


def verdicts() -> tuple[Verdict, ...]:
    """List every verdict the report knows, in the order of its legend."""
    return _VERDICTS


def verdict(word: str) -> Verdict:
    """Look a verdict up by its word; a word that is not known keeps its text.

    Example:
        >>> verdict("no practical effect").slug
        'none'
    """
    known = {entry.word: entry for entry in _VERDICTS}
    return known.get(word, Verdict(word, "unmeasured", ""))


def arm(name: str) -> str:
    """Say the name of an arm in words.

    Example:
        >>> arm("batch norm")
        'with BN'
    """
    return _ARMS.get(name, name)


def arms(present: Iterable[str]) -> list[str]:
    """Order the arms that are present: without, default init, with; then any other."""
    found = set(present)
    return [a for a in _ARMS if a in found] + sorted(found - set(_ARMS))


def finite(value: float | None) -> float | None:
    """Drop a number that is not finite.

    Example:
        >>> finite(float("nan")) is None
        True
    """
    return value if value is not None and math.isfinite(value) else None


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits.

    Example:
        >>> number(1234.5), number(0.03125, 2), number(2.6e17, 2), number(None)
        ('1,230', '0.031', '2.6·10¹⁷', '–')
    """
    value = finite(value)
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
        return _signed(value, f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}")
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return _signed(value, f"{round(abs(value), decimals):,.{max(decimals, 0)}f}")


def rate(value: float | None) -> str:
    """Write a learning rate, without zeros that say nothing.

    Example:
        >>> rate(0.3), rate(0.17783)
        ('0.3', '0.178')
    """
    value = finite(value)
    return ABSENT if value is None else f"{value:.3g}"


def integer(value: int) -> str:
    """Write a whole number with separators.

    Example:
        >>> integer(12500)
        '12,500'
    """
    return f"{value:,}"


def percent(share: float | None, decimals: int = 1) -> str:
    """Write a share of one as a percentage.

    Example:
        >>> percent(0.9234)
        '92.3 %'
    """
    share = finite(share)
    return ABSENT if share is None else f"{100 * share:.{decimals}f} %"


def duration(seconds: float) -> str:
    """Write a time in the two units that matter.

    Example:
        >>> duration(3.24), duration(252), duration(7500)
        ('3.2 s', '4 min 12 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def effect(measured: Effect, scale: str) -> str:
    """Write the mean effect in the unit of its scale.

    Example:
        >>> e = Effect("headline", (0,), (1.7,), 1.723, 1.435, 2.0, None, None, None, 1, "", "")
        >>> effect(e, "ratio"), interval(e, "ratio")
        ('5.6x', '4.2x to 7.4x')
        >>> effect(e, "points")
        '+172.3 points'
    """
    value = finite(measured.mean)
    if value is None:
        return "not measured"
    return _quantity(value, measured, scale) + (" points" if scale == "points" else "")


def interval(measured: Effect, scale: str) -> str:
    """Write the ends of the 95 % interval; empty where there is none."""
    low, high = finite(measured.low), finite(measured.high)
    if low is None or high is None:
        return ""
    return f"{_quantity(low, measured, scale)} to {_quantity(high, measured, scale)}"


def threshold(test: Test) -> str:
    """Write the smallest effect of interest.

    Example:
        >>> e = Effect("headline", (), (), None, None, None, None, None, None, 0, "", "")
        >>> threshold(Test("5", "gap", "", "points", 0.005, "", e, (), None))
        '0.5 points'
    """
    if test.scale == "ratio":
        return f"{_exp(test.threshold):.3g}x"
    return f"{100 * test.threshold:.3g} points"


def measured_seeds(measured: Effect) -> int:
    """Count the seeds that gave a difference."""
    return sum(finite(value) is not None for value in measured.differences)


def seeds(measured: Effect) -> str:
    """Say how many seeds a number rests on.

    Example:
        >>> e = Effect("", (0, 1), (0.1, None), 0.1, None, None, None, None, None, 1, "", "")
        >>> seeds(e), wins(e)
        ('1 of 2 seeds', '1 of 1')
    """
    counted, planned = measured_seeds(measured), len(measured.seeds)
    if counted == planned:
        return f"{counted} seed{'' if counted == 1 else 's'}"
    return f"{counted} of {planned} seeds"


def wins(measured: Effect) -> str:
    """Say in how many seeds batch normalization did better."""
    return f"{measured.wins} of {measured_seeds(measured)}"


def p_value(value: float | None) -> str:
    """Write a p value.

    Example:
        >>> p_value(0.03125), p_value(1e-6), p_value(None)
        ('0.031', '<0.001', '–')
    """
    value = finite(value)
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def summary(words: list[str]) -> str:
    """Sum the verdicts of the headline tests up in one sentence.

    Example:
        >>> summary(["supported", "supported", "contradicted", "inconclusive"])
        '2 of 4 tests support their claim, 1 contradicts it, 1 is inconclusive.'
        >>> summary(["supported", "depends", "depends"])
        '1 of 3 tests supports its claim, 2 depend on the case.'
        >>> summary(["exploratory"] * 7)
        'None of 7 tests has a verdict: the study is exploratory.'
    """
    if not words:
        return "No test was carried out."
    count = Counter(words)
    if count["exploratory"] == len(words):
        return f"None of {len(words)} tests has a verdict: the study is exploratory."
    first = f"{count['supported'] or 'None'} of {len(words)} tests"
    others = [word for word in sorted(count, key=_rank) if word != "supported"]
    parts = [f"{first} {'support their' if count['supported'] > 1 else 'supports its'} claim"]
    parts += [_phrase(word, count[word]) for word in others]
    return ", ".join(parts) + "."


def _rank(word: str) -> tuple[int, str]:
    known = [entry.word for entry in _VERDICTS]
    return (known.index(word) if word in known else len(known), word)


def _phrase(word: str, count: int) -> str:
    is_one = count == 1
    if word == "depends":
        return f"{count} {'depends' if is_one else 'depend'} on the case"
    if word == "contradicted":
        return f"{count} {'contradicts' if is_one else 'contradict'} it"
    if word == "no practical effect":
        return f"{count} {'shows' if is_one else 'show'} no practical effect"
    return f"{count} {'is' if is_one else 'are'} {word}"


def _quantity(value: float, measured: Effect, scale: str) -> str:
    """Write one number of an effect with the digits that its interval justifies."""
    low, high = finite(measured.low), finite(measured.high)
    width = math.inf if low is None or high is None else high - low
    if scale == "ratio":
        return f"{number(_exp(value), 3 if width < 0.2 else 2)}x"
    text = f"{abs(100 * value):,.{2 if width < 0.005 else 1}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))


def _signed(value: float, text: str) -> str:
    return f"−{text}" if value < 0 else text
