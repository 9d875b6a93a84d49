"""Connections to a server that hangs: they are ended, for nobody else tells of it.

TCP tells of a server whose network is gone, where it is asked to; but one that hangs, or that a
proxy no longer reaches, acknowledges for ever what it does not answer.
"""

import logging
import os
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from tsrollup.connection import read_url

log = logging.getLogger(__name__)

# libpq's: a network that loses everything is noticed in half a minute.
SIGNS_OF_LIFE = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SECONDS_BETWEEN, SECONDS_TO_ANSWER, MOST_SILENCES = 10.0, 5, 3
SECONDS_TO_END = 1.0
# Two blanks stand behind the severity of what a server says, and in nothing that libpq does.
SERVER_SAYS = re.compile(r"\w:  \S")

Connection = psycopg.Connection[Any]


def with_signs_of_life(url: str) -> str:
    """The URL as a connection string with SIGNS_OF_LIFE, where it says nothing else."""
    return make_conninfo("", **{**SIGNS_OF_LIFE, **read_url(url)})


class Lifeline:
    """While one of the connections waits for its answer, asks their server now and then whether it
    is there, and hangs up on one that says nothing several times, or once when all is to stop."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.ended = threading.Event()
        self.connections: list[Connection] = []
        self.silences: dict[str, int] = {}

    def __enter__(self) -> "Lifeline":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.ended.set()

    @contextmanager
    def of(self, connection: Connection) -> Iterator[None]:
        """Watch it, in here."""
        self.connections.append(connection)
        try:
            yield
        finally:
            self.connections.remove(connection)

    def _watch(self) -> None:
        while not self.ended.is_set():
            if not self.stop.wait(SECONDS_BETWEEN):
                most = MOST_SILENCES
            elif self.ended.wait(SECONDS_TO_END):
                return
            else:
                most = 1
            waiting = self._waiting()
            self.silences = {
                place: 0 if _answers(place) else self.silences.get(place, 0) + 1
                for place in waiting
            }
            for place, silences in self.silences.items():
                if silences >= most:
                    known = conninfo_to_dict(place)
                    at = known.get("hostaddr") or known["host"]
                    log.warning("the server at %s does not answer: hanging up", at)
                    for connection in waiting[place]:
                        hang_up(connection)

    def _waiting(self) -> dict[str, list[Connection]]:
        """All connections to each server of which one waits, by how one more is made."""
        found: dict[str, list[Connection]] = defaultdict(list)
        waiting = set()
        for connection in [*self.connections]:
            with suppress(psycopg.Error):  # closed meanwhile
                place = _as_it_was_made(connection.info)
                found[place].append(connection)
                if connection.info.transaction_status is TransactionStatus.ACTIVE:
                    waiting.add(place)
        return {place: found[place] for place in waiting}


def hang_up(connection: Connection) -> None:
    """Have who waits for an answer of it, in another thread, get an error."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _as_it_was_made(info: psycopg.ConnectionInfo) -> str:
    return make_conninfo(
        info.dsn,
        password=info.password,
        host=info.host,
        hostaddr=info.hostaddr,
        port=info.port,
        target_session_attrs="any",
        application_name="tsrollup sign of life",
        connect_timeout=SECONDS_TO_ANSWER,
    )


def _answers(conninfo: str) -> bool:
    """Whether one more connection is made, or it is the server that says why none is. Half of one
    leaves a line in its log, and is not what each proxy understands."""
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError as error:
        return SERVER_SAYS.search(str(error)) is not None
    return True
