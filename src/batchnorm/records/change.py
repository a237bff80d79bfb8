"""What a verb did to one module."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Change:
    """What a verb did, or with `dry_run=True` would do, to one module of a model."""

    name: str
    """Qualified name of the module."""
    action: str
    """For example "insert BatchNorm1d(64)"."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name or '(model)'}: {self.action} ({self.reason})"
