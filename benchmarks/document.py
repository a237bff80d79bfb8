"""Write docs/performance.md from benchmarks/results/: `make performance`.

What stands above the results is benchmarks/introduction.md. Needs no torch; a test compares the
page with the rows.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from batchnorm.records import BenchResult, from_json
from batchnorm.report import speeds, wording

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PATH = ROOT / "docs" / "performance.md"
INTRODUCTION = ROOT / "benchmarks" / "introduction.md"

NONE = """
## Results

There are no rows yet.
"""


def page() -> str:
    """The whole document."""
    introduction = INTRODUCTION.read_text(encoding="utf-8")
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        return introduction + NONE
    results = {file: from_json(BenchResult, file.read_text(encoding="utf-8")) for file in files}
    return introduction + "".join(_section(file.stem, result) for file, result in results.items())


def _section(name: str, result: BenchResult) -> str:
    overview = speeds.overview(result)
    parts = [
        f"\n## Results: {name}\n",
        _where(result),
        *([f"**{speeds.warning(result)}**\n"] if speeds.warning(result) else []),
        "Geometric means over the shapes, in brackets the shape where the ratio is least in our "
        "favor; “faster than”: how many times, “over the floor”: how many times its cost.\n",
        _table(overview.columns, overview.rows),
        "Milliseconds of whole steps, that is forward and backward, in inference forward. "
        "“cl”: channels-last; “–”: not measured.\n",
    ]
    for times in speeds.tables(result):
        whole = [row for row in times.rows if row[1] == "both" or "inference" in times.title]
        columns = [column for i, column in enumerate(times.columns) if i != 1]
        parts += [f"### {times.title}\n", _table(columns, (row[:1] + row[2:] for row in whole))]
    reasons = [f"- {reason}\n" for reason in speeds.reasons(result)]
    return "\n".join(parts) + ("\nNot measured:\n\n" + "".join(reasons) if reasons else "")


def _where(result: BenchResult) -> str:
    facts = {**result.machine, **result.versions}
    share = wording.finite(result.used_by_others)
    facts["used by other programs"] = "unknown" if share is None else wording.percent(share, 0)
    facts["finished"] = result.finished + (", PARTIAL" if result.partial else "")
    facts["took"] = wording.duration(result.wall_seconds)
    return "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(columns), ["---", *["--:"] * (len(columns) - 1)], *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
