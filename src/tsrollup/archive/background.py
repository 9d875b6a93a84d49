"""Archiving beside other work, until that is to stop."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict

from tsrollup.archive.log import Connection
from tsrollup.archive.moving import Outcome, StoppedError, UntilStopped, archive

Say = Callable[..., None]  # level, text, and facts by name


def archive_until(connection: Connection, to: str, stop: threading.Event, say: Say) -> None:
    """Archive what retention moved aside; what is left when it is to stop stays for the next time.
    What is written by then is thrown away."""
    try:
        for outcome in archive(connection, to, watch=UntilStopped(stop)):
            _tell(outcome, say)
            if stop.is_set():
                return
    except StoppedError:
        pass


def _tell(outcome: Outcome, say: Say) -> None:
    name = outcome.partition_name
    if outcome.status == "archived":
        told = f"{name}: archived: {outcome.row_count} rows, {outcome.file_bytes} bytes"
        say(logging.INFO, f"{told} in {outcome.file}", **asdict(outcome))
    elif outcome.status == "failed":
        say(logging.WARNING, f"{name} is not archived: {outcome.reason}", **asdict(outcome))
