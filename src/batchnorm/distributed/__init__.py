"""Replicas: who they are, the two collectives of a layer, meetings, and a watch over them.

Nothing else imports `torch.distributed`. `replicas` gives what `compose` is handed.
"""

from .group import Sync, check_sync, same_sync
from .meeting import Meeting, meeting
from .replicas import Call, Site, replicas
from .watch import sync_debug

__all__ = [
    "Call",
    "Meeting",
    "Site",
    "Sync",
    "check_sync",
    "meeting",
    "replicas",
    "same_sync",
    "sync_debug",
]
