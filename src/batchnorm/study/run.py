"""Run a whole study: the grid, then what the grid's learning rates call for."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from joblib import cpu_count

from ..records import StudyResult, to_json, write_text
from .data import pool, split
from .design import BATCH_NORM, NONE, Design, TrialConfig, make_design
from .engine import execute
from .evidence import Evidence, upper_bound
from .ledger import Ledger
from .models import check
from .outcome import Outcome
from .results import assemble
from .training import DIVERGED, FAILED


@dataclasses.dataclass
class Progress:
    """How far a study is."""

    total: int
    """At most so many trials, until the second stage is planned."""
    done: int = 0
    diverged: int = 0
    failed: int = 0

    def count(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        self.done += 1
        self.diverged += outcome.status == DIVERGED
        self.failed += outcome.status == FAILED


def run(
    out: str | os.PathLike[str],
    design: Design | None = None,
    *,
    jobs: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> StudyResult:
    """Run a study, or go on with it, and save `results.json` in its folder.

    Finished trials are on file in the folder, so that running again does what is missing. Ctrl-C
    stops the study and returns what it has found so far, with `partial` set.

    Args:
        out: The folder of the study.
        design: What to run, from `make_design`; None: scikit-learn's digits.
        jobs: Worker processes, one thread each; None: one per processor.
        on_progress: Called after every trial.

    Returns:
        The verdicts with all their evidence.

    Raises:
        UsageError: The model, the data or the folder cannot be used, or the disk is full.
    """
    start = time.monotonic()
    design = design or make_design()
    check_design(design)
    whole = pool(design.problem.data)
    ledger = Ledger(Path(out))
    outcomes: list[Outcome] = []
    progress = Progress(upper_bound(design))
    with ledger.open_for(design):
        on_progress(progress)
        plan = design.grid()
        partial = False
        try:
            _collect(plan, ledger, jobs, progress, on_progress, outcomes)
            second = Evidence(design, outcomes, whole.classes).second_stage()
            plan += second
            progress.total = len(plan)
            _collect(second, ledger, jobs, progress, on_progress, outcomes)
        except KeyboardInterrupt:
            partial = True
            outcomes += _not_handed_over(plan, outcomes, ledger)
        place = {config: i for i, config in enumerate(plan)}
        outcomes.sort(key=lambda outcome: place[outcome.config])
        evidence = Evidence(design, outcomes, whole.classes)
        result = assemble(evidence, outcomes, progress.total, partial, time.monotonic() - start)
        write_text(ledger.folder / "results.json", to_json(result))
    return result


def check_design(design: Design) -> None:
    """Refuse a model or data that cannot be trained, before any trial starts.

    Raises:
        UsageError: Which of them, what was expected and what was found.
    """
    problem = design.problem
    data = split(pool(problem.data), 0, problem.inputs)
    for arm in (NONE, BATCH_NORM):
        check(problem, data, TrialConfig(problem, "grid", design.activations[0], arm, 0, 1.0))


def _collect(
    configs: Iterable[TrialConfig],
    ledger: Ledger,
    jobs: int | None,
    progress: Progress,
    on_progress: Callable[[Progress], None],
    outcomes: list[Outcome],
) -> None:
    for outcome in execute(list(configs), ledger, jobs or cpu_count()):
        outcomes.append(outcome)
        progress.count(outcome)
        on_progress(progress)


def _not_handed_over(
    plan: list[TrialConfig], outcomes: list[Outcome], ledger: Ledger
) -> list[Outcome]:
    """What workers had finished and saved when the study was stopped."""
    counted = {outcome.config for outcome in outcomes}
    loaded = (ledger.load(config) for config in plan if config not in counted)
    return [outcome for outcome in loaded if outcome is not None]
