"""What the documentation says about the thresholds is what they are."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from . import planted  # noqa: F401  # the script imports the same examples

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "diagnose_calibration.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    path = ROOT / "benchmarks" / "diagnose_calibration.py"
    spec = importlib.util.spec_from_file_location("diagnose_calibration", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        # Dataclasses look their module up.
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def rows():
    """The cells of each row of the table of thresholds, by quantity."""
    lines = re.findall(r"^\| ([^|`]+) \| (`.*) \|$", TEXT, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def value(cell):
    return float(cell.replace("−", "-"))


def test_the_table_has_the_thresholds_of_the_rules(script):
    expected = {
        quantity.name: (
            f"`{quantity.rule}`",
            f"{'<' if quantity.less_is_worse else '>'} {script.number(quantity.threshold)}",
        )
        for quantity in script.QUANTITIES
    }
    assert {name: (cells[0], cells[4]) for name, cells in rows().items()} == expected


def test_thresholds_lie_between_the_healthy_and_the_planted(script):
    for quantity in script.QUANTITIES:
        _, _, _, worst, threshold, mildest = rows()[quantity.name]
        limit = value(threshold[2:])
        sign = -1 if quantity.less_is_worse else 1
        if worst != "-":
            assert sign * value(worst) <= sign * limit, quantity.name
        if quantity.rule != "train_eval_gap":  # judged by either of two numbers
            assert sign * value(mildest) > sign * limit, quantity.name


def test_no_healthy_network_raised_an_alarm():
    counted = re.findall(r"^\| [a-z ]+ \| (\d+) \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(counted) == 3
    assert all(int(networks) >= 18 for networks, _, _ in counted)
    assert [alarms for *_, alarms in counted] == ["0"] * 3
