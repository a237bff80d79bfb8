"""Statistics measured anew, by all replicas together."""

from typing import Any

from ..distributed import Meeting
from ..errors import StatisticsError
from ..surgery import recalibrate
from ..surgery.recalibration.summary import Recalibration
from .passes import Way


def measured_anew(
    way: Way, batches: list[Any], others: Meeting
) -> tuple[Recalibration | None, str | None]:
    """Recalibrate a borrowed model.

    What goes wrong in a forward pass is raised after all, when nobody waits for it any more in the
    collective of `recalibrate`.

    Returns:
        What it has done; or None, and why not, the same on all replicas.
    """
    failed: list[Exception] = []

    def forward(_: Any, batch: Any) -> None:
        if not failed:
            try:
                way.output(batch)
            except Exception as error:
                failed.append(error)

    others.gather(None)  # all have come here, so all come to the collective
    with others.elsewhere():
        sync = others.group if others.size > 1 else False
        result = recalibrate(way.model, batches, forward, progress=False, sync=sync)
    error = failed[0] if failed else None
    if error is not None and not isinstance(error, StatisticsError):
        raise error
    told = others.gather(None if error is None else str(error))
    reason = next((r for r in told if r is not None), None)
    return (result, None) if reason is None else (None, reason)
