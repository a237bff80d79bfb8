"""Run a whole study: the grid, then what the grid's learning rates call for."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from joblib import cpu_count

from ..records import StudyResult, to_json, write_text
from .data import pool, split
from .design import BATCH_NORM, NONE, Design, TrialConfig, make_design
from .engine import Execute, execute
from .evidence import Evidence, upper_bound
from .ledger import Ledger
from .models import check
from .outcome import Outcome
from .results import assemble
from .shard import Shard
from .training import DIVERGED, FAILED

POLL = 1.0
"""Seconds between two looks for what other shards have finished."""


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
    cluster: str | None = None,
    shard: Shard | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> StudyResult:
    """Run a study, or go on with it, and save `results.json` in its folder.

    Finished trials are on file in the folder, so that running again does what is missing. Ctrl-C
    stops the study and returns what it has found so far, with `partial` set.

    With a shard, only its share of the trials runs here. A shard waits for the others while they
    run; when all trials are on file, it saves the whole result. Where trials of shards are missing
    that nobody runs, nothing is saved but trials, and `missing_shards` of the result names them.

    Args:
        out: The folder of the study.
        design: What to run, from `make_design`; None: scikit-learn's digits.
        jobs: Worker processes, one thread each; None: one per processor.
        cluster: Address of a Dask scheduler, such as "tcp://host:8786", whose workers run the
            trials; results are written here.
        shard: Run this part alone.
        on_progress: Called after every trial.

    Returns:
        The verdicts with all their evidence.

    Raises:
        UsageError: The model, the data or the folder cannot be used, or the disk is full.
        ClusterError: The cluster cannot be used, or went away; what was finished is on file.
        MissingExtraError: `cluster` is given, and Dask is not installed.
    """
    start = time.monotonic()
    design = design or make_design()
    check_design(design)
    whole = pool(design.problem.data)
    ledger = Ledger(Path(out))
    with ledger.open_for(design, shard), _workers(cluster, jobs, design) as workers:
        course = _Course(ledger, workers, shard, Progress(upper_bound(design)), on_progress)
        stopped = False
        try:
            if course.complete(design.grid()):
                second = Evidence(design, course.outcomes, whole.classes).second_stage()
                course.progress.total = len(course.plan) + len(second)
                course.complete(second)
        except KeyboardInterrupt:
            stopped = True
            course.load()
        outcomes = course.ordered()
        evidence = Evidence(design, outcomes, whole.classes)
        partial = stopped or bool(course.missing)
        seconds = time.monotonic() - start
        result = assemble(evidence, outcomes, course.progress.total, partial, seconds)
        if course.missing and not stopped:
            return dataclasses.replace(result, missing_shards=course.missing)
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


@contextmanager
def _workers(cluster: str | None, jobs: int | None, design: Design) -> Iterator[Execute]:
    if cluster is None:
        yield partial(execute, jobs=jobs or cpu_count())
        return
    from .cluster import connected

    with connected(cluster, design.problem) as workers:
        yield workers


@dataclasses.dataclass
class _Course:
    """What has been planned, and what has come of it."""

    ledger: Ledger
    workers: Execute
    shard: Shard | None
    progress: Progress
    on_progress: Callable[[Progress], None]
    plan: list[TrialConfig] = dataclasses.field(default_factory=list)
    found: dict[TrialConfig, Outcome] = dataclasses.field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Shards that nobody runs, and whose trials are not on file."""

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self.found.values())

    def complete(self, stage: list[TrialConfig]) -> bool:
        """Run what is ours of a stage, wait for the rest; say whether all of it is there."""
        self.plan += stage
        self.on_progress(self.progress)
        mine = stage
        if self.shard:
            mine = self.shard.share(stage)
            self.ledger.forget_marks(mine)
        for outcome in self.workers(mine, self.ledger):
            self._take(outcome)
        return self.shard is None or self._others_are_done(self.shard, stage)

    def load(self) -> None:
        """Take what workers have saved and not handed over."""
        for config in self.plan:
            if config not in self.found:
                outcome = self.ledger.load(config)
                if outcome is not None:
                    self._take(outcome)

    def ordered(self) -> list[Outcome]:
        """The outcomes in the order of the plan."""
        return [self.found[config] for config in self.plan if config in self.found]

    def _others_are_done(self, shard: Shard, stage: list[TrialConfig]) -> bool:
        while True:
            running = self.ledger.running_shards(shard.count)
            self.load()  # after the look at who runs, so that nobody finishes in between
            owners = shard.owners(stage, [c for c in stage if c not in self.found])
            if not owners:
                return True
            if not owners <= running:
                self.missing = tuple(str(Shard(i, shard.count)) for i in sorted(owners - running))
                return False
            time.sleep(POLL)

    def _take(self, outcome: Outcome) -> None:
        self.found[outcome.config] = outcome
        self.progress.count(outcome)
        self.on_progress(self.progress)
