"""Write docs/performance.md from benchmarks/results/: `make performance`.

What stands above the results is benchmarks/introduction.md. Needs no torch; a test compares the
page with the rows.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from on_gpu import targets

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


NO_GPU = """
## On a GPU

Not measured: no GPU was at hand. `make gpu` does it in one short run ([how](gpu.md#measure-it)).
"""

GPU = """
## On a GPU

Times are those of the GPU, with the host ahead of it; “host ms” is what the host takes to ask for a
call. “% copy” is the share of the copy's bandwidth at which an implementation moves what has to be
moved; where the input does not fit the cache, what is read twice counts twice. “by” says whose
kernels serve PyTorch's layer. A training step of the network is forward, loss, backward and SGD,
timed by the clock of the host, which waits for the loss; in float32 its convolutions are in TF32,
PyTorch's default, in bfloat16 by autocast.
"""


def page() -> str:
    """The whole document."""
    files = sorted(RESULTS.glob("*.json"))
    results = {f.stem: from_json(BenchResult, f.read_text(encoding="utf-8")) for f in files}
    gpus = {name: result for name, result in results.items() if "GPU" in result.machine}
    on_cpu = "".join(_section(name, r) for name, r in results.items() if name not in gpus)
    on_gpu = "".join(_section(name, r) + _reached(r) for name, r in gpus.items())
    introduction = INTRODUCTION.read_text(encoding="utf-8")
    return introduction + (on_cpu or NONE) + (GPU + on_gpu if gpus else NO_GPU)


def _reached(result: BenchResult) -> str:
    """What the kernels were to reach, and whether what they compute was right."""
    checks = [
        f"- {name}: {said}\n"
        for name, said in result.settings.items()
        if name in ("results", "CUDA graph") or name.startswith(("FAILED", "left out", "first"))
    ]
    rows = map(targets.cells, targets.targets(result))
    return "\n### Targets\n\n" + _table(targets.COLUMNS, rows) + "\n" + "".join(checks)


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
