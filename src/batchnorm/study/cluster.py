"""Run trials on the workers of a Dask cluster, and keep what they find on this machine."""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from .. import __version__
from ..errors import ClusterError, MissingExtraError, UsageError
from ..loading import provided, source_of
from .data import pool
from .design import Problem, TrialConfig, source
from .engine import Execute, from_file
from .ledger import Ledger
from .outcome import Outcome
from .training import FAILED
from .trial import run_trial

Files = Mapping[str, bytes]
Trial = Callable[[TrialConfig], Outcome]

CONNECT_SECONDS = 10
WORKER_SECONDS = 30
"""How long to wait for a first worker."""

_ONE_AT_A_TIME = threading.Lock()
"""A trial seeds the generator of its process, and counts on one thread of its own."""

_latest: Files | None = None


@contextlib.contextmanager
def connected(address: str, problem: Problem) -> Iterator[Execute]:
    """Connect to a cluster, and see that its workers can run the trials of a problem.

    Files named by `--model` and `--data` are sent to the workers with each trial.

    Args:
        address: Of the scheduler: "tcp://host:8786".
        problem: What the trials are about.

    Raises:
        MissingExtraError: Dask is not installed.
        ClusterError: There is no scheduler, or no worker, or a worker has other versions.
        UsageError: A worker cannot import the model or the data.
    """
    client = _client(address)
    try:
        files = _files(problem)
        _require_workers(client, address)
        _require_equal_workers(client, problem, files)
        yield partial(_execute, client, address, files)
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)


def _client(address: str) -> Any:
    try:
        return _dask().Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"--cluster {address!r}: no scheduler answers there ({_first_line(error)}); "
            "expected the address that `dask scheduler` prints, for example tcp://host:8786"
        ) from error


def _dask() -> Any:  # untyped
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "--cluster needs Dask, which is not installed: pip install 'batchnorm[cluster]'"
        ) from error
    return distributed


def _require_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        raise ClusterError(
            f"--cluster {address!r}: the scheduler has no workers; start some with "
            f"`dask worker {address} --nthreads 1`"
        ) from None


def _require_equal_workers(client: Any, problem: Problem, files: Files) -> None:
    mine = _versions()
    for worker, found in _on_each(client, _versions).items():
        if found != mine:
            theirs, ours = (
                ", ".join(f"{k} {v}" for k, v in x.items()) if isinstance(x, dict) else x
                for x in (found, mine)
            )
            raise ClusterError(
                f"worker {worker} has {theirs}; expected {ours}, as here: results of other "
                "versions are not the same experiment"
            )
    for worker, message in _on_each(client, partial(_problem_of, problem, files)).items():
        if message:
            raise UsageError(
                f"{message} (on worker {worker}). Of --model and --data only the files they name "
                "are sent; what those import must be installed on the workers, or lie on their "
                "PYTHONPATH"
            )


def _on_each(client: Any, function: Callable[[], Any]) -> dict[str, Any]:
    found = client.run(function, on_error="return")
    return {w: f"no batchnorm ({f})" if isinstance(f, Exception) else f for w, f in found.items()}


def _versions() -> dict[str, str]:
    return {"batchnorm": __version__, "torch": torch.__version__.partition("+")[0]}


def _problem_of(problem: Problem, files: Files) -> str:
    """What is wrong with the user's model and data in this process; "" if nothing is."""
    try:
        with provided(files):
            if source(problem.model, problem.data) != problem.source:
                return "--model or --data is other code than here"
    except UsageError as error:
        return str(error)
    return ""


def _files(problem: Problem) -> dict[str, bytes]:
    specs = [spec for spec in (problem.model, problem.data) if spec is not None]
    places = [spec.rpartition(":")[0] for spec in specs]
    return {place: source_of(Path(place)) for place in places if place.endswith(".py")}


def _execute(
    client: Any,
    address: str,
    files: Files,
    configs: Sequence[TrialConfig],
    ledger: Ledger,
    trial: Trial = run_trial,
) -> Iterator[Outcome]:
    """Yield the outcome of every trial, those on file first, the others as they arrive."""
    pending = dict.fromkeys(configs)
    yield from from_file(pending, ledger)
    run = secrets.token_hex(4)  # the cluster keeps results by key, also those of an earlier run
    futures: dict[Any, TrialConfig] = {}
    try:
        for config in pending:
            key = f"batchnorm-{config.key}-{run}"
            futures[client.submit(_work, trial, config, files, key=key)] = config
        for future in _dask().as_completed(futures, loop=client.loop):
            outcome = _outcome(future, futures.pop(future), address)
            ledger.save(outcome)
            yield outcome
    finally:
        with contextlib.suppress(Exception):
            client.cancel(list(futures), force=True)


def _outcome(future: Any, config: TrialConfig, address: str) -> Outcome:
    try:
        return cast(Outcome, future.result())
    except _dask().KilledWorker:
        return Outcome(
            config,
            FAILED,
            error="its worker process was killed again and again at this trial (out of memory?)",
        )
    except (_dask().CancelledError, OSError) as error:
        raise ClusterError(
            f"--cluster {address!r}: the scheduler went away ({_first_line(error)}); what was "
            "finished is on file, and running again goes on from there"
        ) from error
    except Exception as error:  # the trial could not even begin
        return Outcome(config, FAILED, error=f"{type(error).__name__}: {_first_line(error)}")


def _work(trial: Trial, config: TrialConfig, files: Files) -> Outcome:
    global _latest
    with _ONE_AT_A_TIME, provided(files):
        if files != _latest:  # data of one name from another file
            pool.cache_clear()
            _latest = files
        return trial(config)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
