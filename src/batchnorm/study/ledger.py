"""The folder of a study: what it is, and one file per finished trial.

    results/
      study.json          the settings; a folder belongs to one study
      trials/KEY.json     one outcome each, written under a temporary name and renamed
      trials/KEY.running  there while a worker is at it: names the suspects when one is killed
      study.lock          held while a process runs the study; shards hold it together
      shard-I-of-N.lock   held while a process runs that shard
      results.json, report.html

A file that is there is whole: running again does what is missing, after `kill -9` too.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..records import from_json, to_json, write_text
from .design import Design, TrialConfig
from .outcome import Outcome
from .shard import Shard


class Ledger:
    """Finished trials on disk.

    Args:
        folder: The study's folder; `open_for` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials = folder / "trials"

    @contextlib.contextmanager
    def open_for(self, design: Design, shard: Shard | None = None) -> Iterator[None]:
        """Claim the folder, or one shard of it, for a study while the block lasts.

        Raises:
            UsageError: The folder holds another study, or another process is running this one or
                this shard, or it cannot be written to.
        """
        with explained(self._where), contextlib.ExitStack() as locks:
            self.trials.mkdir(parents=True, exist_ok=True)
            if shard is None:
                self._claim(locks, "study.lock", "this study")
                self._check(design)
                for leftover in (*self.trials.glob("*.running"), *self.trials.glob(".*.tmp")):
                    leftover.unlink(missing_ok=True)
            else:
                self._claim(locks, "study.lock", "all of this study", fcntl.LOCK_SH)
                with self._moment():
                    self._claim(locks, _lock_name(shard), f"shard {shard}")
                    self._check_count(shard)
                    self._check(design)
            yield

    def forget_marks(self, configs: Iterable[TrialConfig]) -> None:
        """Take away the marks that a killed process left on trials of this shard."""
        for config in configs:
            self._mark(config).unlink(missing_ok=True)

    def running_shards(self, count: int) -> set[int]:
        """Indices of the shards, out of so many, that some process runs now."""
        with self._moment():
            return {index for index, n in self._held() if n == count}

    def save(self, outcome: Outcome) -> None:
        """Write one outcome, at once or not at all."""
        write_text(self._path(outcome.config), to_json(outcome))

    def load(self, config: TrialConfig) -> Outcome | None:
        """Read one outcome; None where there is none, or what is there cannot be read."""
        try:
            return from_json(Outcome, self._path(config).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    @contextlib.contextmanager
    def running(self, config: TrialConfig) -> Iterator[None]:
        """Mark a trial as being worked at; the mark stays if the process is killed."""
        mark = self._mark(config)
        mark.touch()
        yield
        mark.unlink(missing_ok=True)

    def was_killed(self, config: TrialConfig) -> bool:
        """Whether a worker left its mark on a trial; the mark is taken away."""
        mark = self._mark(config)
        left = mark.exists()
        mark.unlink(missing_ok=True)
        return left

    def _path(self, config: TrialConfig) -> Path:
        return self.trials / f"{config.key}.json"

    def _mark(self, config: TrialConfig) -> Path:
        return self.trials / f"{config.key}.running"

    @property
    def _where(self) -> str:
        return f"--out {str(self.folder)!r}"

    def _claim(
        self, locks: contextlib.ExitStack, name: str, what: str, kind: int = fcntl.LOCK_EX
    ) -> None:
        lock = locks.enter_context((self.folder / name).open("w"))
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self._where}: another process is running {what}; "
                "wait for it, or choose another folder"
            ) from None

    @contextlib.contextmanager
    def _moment(self) -> Iterator[None]:
        """Wait for a moment in which no other shard takes or looks at locks."""
        with (self.folder / "shards.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _held(self) -> Iterator[tuple[int, int]]:
        for path in self.folder.glob("shard-*-of-*.lock"):
            with path.open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    _, index, _, count = path.stem.split("-")
                    yield int(index), int(count)

    def _check_count(self, shard: Shard) -> None:
        others = [Shard(index, count) for index, count in self._held() if count != shard.count]
        if others:
            raise UsageError(
                f"{self._where}: shard {others[0]} is running, so {shard} would share trials with "
                f"it; expected one of {others[0].count} shards"
            )

    def _check(self, design: Design) -> None:
        path, mine = self.folder / "study.json", design.identity()
        if not path.exists():
            write_text(path, json.dumps(mine, indent=1))
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = {}
        if theirs != mine:
            raise UsageError(
                f"{self._where} holds another study ({_difference(theirs, mine)}); "
                "choose another folder, or repeat its settings to go on with it"
            )


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn an error of the file system into one sentence.

    Raises:
        UsageError: The disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{where}: {error.strerror or error}; "
            "what was already written is kept, and running again goes on from there"
        ) from error


def _lock_name(shard: Shard) -> str:
    return f"shard-{shard.index}-of-{shard.count}.lock"


def _difference(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    flat_theirs, flat_mine = _flat(theirs), _flat(mine)
    names = [n for n in flat_mine if flat_theirs.get(n) != flat_mine[n]]
    return "; ".join(
        f"{name}: there {flat_theirs.get(name, 'nothing')}, now {flat_mine[name]}"
        for name in names[:3]
    )


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    problem = identity.get("problem")
    return {**identity, **(problem if isinstance(problem, dict) else {}), "problem": None}
