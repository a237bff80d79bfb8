"""Write docs/pairs.md: which pair of features is tested, and why the others are not."""

from pathlib import Path

from .feature import CALLS, INPUTS, LIFE, NUMBERS, OPTIONS, Feature, Refused, relation
from .features import FEATURES

PATH = Path(__file__).parents[2] / "docs" / "pairs.md"
GROUPS = (OPTIONS, INPUTS, NUMBERS, CALLS, LIFE)
TESTED, REFUSED, POINTLESS = "✓", "✗", "–"

INTRODUCTION = f"""\
# Which features are tested together

Generated from `tests/pairs/features.py` by `make pairs`; a test compares this page with it.

For every pair a layer takes about three training steps and an evaluation, beside a plain float64
simulation of what the documentation promises (`tests/pairs/twin.py`). After each step the output,
the gradients of input, residual, weight and bias, and the whole state are compared.

| | |
|---|---|
| {TESTED} | tested with values |
| {REFUSED} | refused with an error, and that is tested; the number is that of the reason below |
| {POINTLESS} | nothing to test; the number is that of the reason below |

On the diagonal is the feature by itself.
"""


def page() -> str:
    """The whole document."""
    reasons = _numbered_reasons()
    parts = [INTRODUCTION, "## The features\n", *map(_legend, GROUPS), "## The pairs\n"]
    parts += [_matrix(group, reasons) for group in GROUPS]
    lines = [f"{number}. {reason}" for reason, number in reasons.items()]
    parts.append("\n".join(["## Reasons", "", *lines, ""]))
    return "\n".join(parts)


def _members(group: str) -> list[Feature]:
    return [feature for feature in FEATURES if feature.group == group]


def _numbered_reasons() -> dict[str, int]:
    found = [relation(one, other) for one in FEATURES for other in FEATURES]
    reasons = dict.fromkeys(entry.reason for entry in found if entry is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _legend(group: str) -> str:
    rows = [f"| {feature.code} | {feature.what} |" for feature in _members(group)]
    return "\n".join([f"**{group}**", "", "| | |", "|---|---|", *rows, ""])


def _matrix(group: str, reasons: dict[str, int]) -> str:
    columns = _members(group)
    head = " | ".join(feature.code for feature in columns)
    lines = [f"### {group}", "", f"| | {head} |", "|---|" + ":-:|" * len(columns)]
    for row in FEATURES:
        cells = " | ".join(cell(row, column, reasons) for column in columns)
        lines.append(f"| **{row.code}** | {cells} |")
    return "\n".join([*lines, ""])


def cell(one: Feature, other: Feature, reasons: dict[str, int]) -> str:
    """The sign of a pair, with the number of a reason."""
    entry = relation(one, other)
    if entry is None:
        return TESTED
    return f"{REFUSED if isinstance(entry, Refused) else POINTLESS} {reasons[entry.reason]}"
