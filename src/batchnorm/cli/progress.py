"""Progress of a study on stderr: a bar in a terminal, a line per tenth elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from ..study import Progress as StudyProgress


@contextmanager
def shown() -> Iterator[Callable[["StudyProgress"], None]]:
    """Show progress while the block lasts; yields what the study calls after every trial."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths(console)
        return
    bar = Progress(
        TextColumn("trials"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[outcomes]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("trials", total=None, outcomes="")

        def update(progress: "StudyProgress") -> None:
            bar.update(
                task, total=progress.total, completed=progress.done, outcomes=_outcomes(progress)
            )

        yield update


def _tenths(console: Console) -> Callable[["StudyProgress"], None]:
    said = -1

    def update(progress: "StudyProgress") -> None:
        nonlocal said
        tenth = 10 * progress.done // max(progress.total, 1)
        if tenth > said:
            said = tenth
            text = f"trials: {progress.done} of {progress.total}, {_outcomes(progress)}"
            console.print(text, highlight=False)

    return update


def _outcomes(progress: "StudyProgress") -> str:
    return f"{progress.diverged} diverged, {progress.failed} failed"
