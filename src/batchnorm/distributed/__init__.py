"""Replicas: who they are, the two collectives of a layer, and a watch over both.

Nothing else imports `torch.distributed`. `replicas` gives what `compose` is handed.
"""

from .group import Sync, check_sync, same_sync
from .replicas import Call, Site, replicas
from .watch import sync_debug

__all__ = ["Call", "Site", "Sync", "check_sync", "replicas", "same_sync", "sync_debug"]
