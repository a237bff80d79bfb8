"""Run trials in parallel processes and keep what they find, whatever happens to a process.

joblib's loky workers, one torch thread each. A worker saves its outcome itself, so that killing
this process loses no finished trial.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from .design import TrialConfig
from .ledger import Ledger
from .outcome import Outcome
from .training import FAILED
from .trial import run_trial

Execute = Callable[[Sequence[TrialConfig], Ledger], Iterator[Outcome]]
"""Yields the outcome of every trial, those on file first."""


def execute(
    configs: Sequence[TrialConfig],
    ledger: Ledger,
    jobs: int,
    trial: Callable[[TrialConfig], Outcome] = run_trial,
) -> Iterator[Outcome]:
    """Yield the outcome of every trial, those on file first, the others as they finish.

    When a worker process is killed (out of memory, for example), the trials it and its neighbors
    were at are run again one at a time; one whose worker is killed again is recorded as failed.

    Args:
        configs: The trials, in the order in which to start them.
        ledger: Where outcomes are kept.
        jobs: Number of processes.
        trial: What to run, in a worker.

    Yields:
        One outcome per configuration.

    Raises:
        OSError: An outcome could not be written.
        KeyboardInterrupt: Ctrl-C; the workers are gone, and what they finished is on file.
    """
    pending = dict.fromkeys(configs)
    yield from from_file(pending, ledger)
    while pending:
        try:
            for outcome in _run(list(pending), ledger, jobs, trial):
                del pending[outcome.config]
                yield outcome
        except TerminatedWorkerError:
            # Some may have finished without being handed over.
            yield from from_file(pending, ledger)
            suspects = [config for config in pending if ledger.was_killed(config)]
            # None where a worker died between two trials: one alone shows whether it was chance.
            for config in suspects or list(pending)[:1]:
                del pending[config]
                yield _run_alone(config, ledger, trial)


def from_file(pending: dict[TrialConfig, None], ledger: Ledger) -> Iterator[Outcome]:
    """Yield what is on file of the pending trials, and take it off them."""
    for config in list(pending):
        outcome = ledger.load(config)
        if outcome is not None:
            del pending[config]
            yield outcome


def _run(
    configs: Sequence[TrialConfig],
    ledger: Ledger,
    jobs: int,
    trial: Callable[[TrialConfig], Outcome],
) -> Iterator[Outcome]:
    with parallel_config(backend="loky", inner_max_num_threads=1):
        # With a single job joblib would use this process, and crash with it; dispatching one
        # trial at a time to two workers keeps one of them idle.
        pool = Parallel(
            n_jobs=max(2, jobs),
            batch_size=1,
            pre_dispatch=1 if jobs == 1 else 2 * jobs,
            return_as="generator_unordered",
        )
        outcomes = pool(delayed(_work)(config, ledger, trial, os.getpid()) for config in configs)
    try:
        yield from outcomes
    except BaseException:
        _stop_workers()
        raise


def _work(
    config: TrialConfig, ledger: Ledger, trial: Callable[[TrialConfig], Outcome], parent: int
) -> Outcome:
    # Killed without a word, the main process leaves its workers with trials they have been sent;
    # they must not compete with those of the next run.
    if os.getppid() != parent:
        os._exit(1)
    # Ctrl-C reaches the whole process group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ledger.running(config):
        outcome = trial(config)
        ledger.save(outcome)
    return outcome


def _run_alone(
    config: TrialConfig, ledger: Ledger, trial: Callable[[TrialConfig], Outcome]
) -> Outcome:
    try:
        (outcome,) = _run([config], ledger, 1, trial)
    except TerminatedWorkerError:
        ledger.was_killed(config)
        outcome = Outcome(
            config,
            FAILED,
            error="the worker process was killed twice at this trial (out of memory?)",
        )
        ledger.save(outcome)
    return outcome


def _stop_workers() -> None:
    with contextlib.suppress(Exception):
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
