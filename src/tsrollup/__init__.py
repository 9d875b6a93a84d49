"""Continuous aggregates for the PostgreSQL you already have.

import tsrollup

with tsrollup.connect("postgresql://...") as db:
    print(db.rollups())
"""

import importlib
from typing import TYPE_CHECKING, Any

from tsrollup.version import __version__

if TYPE_CHECKING:
    from tsrollup.aio import (
        AsyncDatabase,
        AsyncRollup,
        connect_async,
    )
    from tsrollup.api import (
        Batch,
        Database,
        Rollup,
        Status,
        connect,
    )
    from tsrollup.errors import (
        ArgumentError,
        InTheWayError,
        LateRowsError,
        LostPartitionsError,
        NotFoundError,
        NotTrackableError,
        TransactionError,
        TsrollupError,
    )
    from tsrollup.reading import (
        Rows,
    )

__all__ = [
    "ArgumentError",
    "AsyncDatabase",
    "AsyncRollup",
    "Batch",
    "Database",
    "InTheWayError",
    "LateRowsError",
    "LostPartitionsError",
    "NotFoundError",
    "NotTrackableError",
    "Rollup",
    "Rows",
    "Status",
    "TransactionError",
    "TsrollupError",
    "__version__",
    "connect",
    "connect_async",
]

# Loaded when they are first used: the command line begins faster than they load.
_HOMES = {
    "AsyncDatabase": "tsrollup.aio",
    "AsyncRollup": "tsrollup.aio",
    "connect_async": "tsrollup.aio",
    "Batch": "tsrollup.api",
    "Database": "tsrollup.api",
    "Rollup": "tsrollup.api",
    "Status": "tsrollup.api",
    "connect": "tsrollup.api",
    "ArgumentError": "tsrollup.errors",
    "InTheWayError": "tsrollup.errors",
    "LateRowsError": "tsrollup.errors",
    "LostPartitionsError": "tsrollup.errors",
    "NotFoundError": "tsrollup.errors",
    "NotTrackableError": "tsrollup.errors",
    "TransactionError": "tsrollup.errors",
    "TsrollupError": "tsrollup.errors",
    "Rows": "tsrollup.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
