"""Serves the dashboard until it is told to stop."""

import asyncio
import secrets
import signal
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from tsrollup.dashboard import create, overview, rollup
from tsrollup.dashboard.database import Database
from tsrollup.dashboard.guard import LOCAL_HOSTS, SHORTEST_TOKEN, Access, Guard
from tsrollup.dashboard.layout import ASSETS, nowhere
from tsrollup.dashboard.markup import page_of
from tsrollup.errors import TsrollupError


@dataclass(frozen=True)
class Place:
    """Where a dashboard is served, and the token that it asks for, if any."""

    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """What to open in a browser; it holds the token."""
        return self._root() + (f"/login?token={self.token}" if self.token else "/")

    def page_of(self, rollup: str) -> str:
        return self._root() + page_of(rollup)

    def _root(self) -> str:
        is_here = self.host in (*LOCAL_HOSTS, "0.0.0.0", "::")
        host = "localhost" if is_here else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def place(host: str, port: int, token: str | None) -> Place:
    """Other machines reach it with a token only: the given one, or one made for it."""
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isalnum()):
        raise TsrollupError(
            f"the token is not of {SHORTEST_TOKEN} letters and digits or more",
            "leave it out, and one is made and printed",
        )
    if token is None and host not in LOCAL_HOSTS:
        token = secrets.token_hex(16)
    return Place(host, port, token)


def serve(url: str, where: Place, may_write: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    with asyncio.Runner() as runner, closing(Database(url, may_write)) as database:
        server = _server(database, where)

        def end(_signal: int, _frame: FrameType | None) -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)  # which uvicorn calls once more when it has ended
        runner.run(server.serve())


def _server(database: Database, where: Place) -> uvicorn.Server:
    for page in (overview, rollup, create):
        page.register(database)
    inside = FastAPI(openapi_url=None)
    ui.run_with(
        inside,
        root=lambda: nowhere(database),
        title="tsrollup",
        favicon=Path(str(ASSETS / "favicon.svg")),
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=10.0,
        show_welcome_message=False,
    )
    hosts = (*LOCAL_HOSTS, where.host) if where.host in LOCAL_HOSTS else None
    guarded = Guard(inside, Access(where.token, hosts, where.port))
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            host=where.host,
            port=where.port,
            log_level="warning",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
