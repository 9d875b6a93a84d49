"""The PostgreSQL servers that the tests run on, started once and shared by all workers."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote, urlencode

import psycopg
from filelock import FileLock
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import tsrollup
from tsrollup import embedded
from tsrollup.embedded.account import account_for
from tsrollup.migrations import migrate_project

DEBIAN15 = Path("/usr/lib/postgresql/15/bin")
DEBIAN15_EXTENSIONS = ("hypopg", "pg_cron", "pg_partman", "pgtap", "plpgsql_check")
PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
TEST_ROLE = "tsrollup_test"
# What scripts/fetch-partman5 fetched; for the tests that are marked with `partman`.
CACHE = Path(__file__).parent.parent / ".cache"
PARTMAN5 = CACHE / "partman5"
# What scripts/fetch-postgres fetched, for the tests in tests/sql.
PLAIN = ("postgres-16", "postgres-17")

MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 6 * 2**30

# A crash of the machine may cost these servers their data; a crash of the server must not.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "300",
    "max_locks_per_transaction": "256",
    "max_prepared_transactions": "32",
    "max_worker_processes": "24",
    "jit": "off",
    "log_min_messages": "warning",
    "wal_level": "logical",
}


@dataclass(frozen=True)
class PostgresServer:
    """A server under test. Everybody is trusted, so any role connects without a password.

    `user` is who the tests are: a superuser on `embedded`, on `debian15` an ordinary role that
    may create roles and owns its databases.
    """

    name: str
    version: int
    conninfo: str
    user: str
    superuser: str
    data_dir: str | None

    def url(self, dbname: str, user: str | None = None) -> str:
        known = {key: str(value) for key, value in conninfo_to_dict(self.conninfo).items()}
        known["user"] = user or self.user
        login = ":".join(quote(known.pop(x), safe="") for x in ("user", "password") if x in known)
        place = f"{known.pop('host', 'localhost')}:{known.pop('port', '5432')}"
        known.pop("dbname", None)
        further = f"?{urlencode(known)}" if known else ""
        return f"postgresql://{login}@{place}/{quote(dbname, safe='')}{further}"

    def superuser_url(self, dbname: str) -> str:
        return self.url(dbname, self.superuser)

    def has(self, extension: str) -> bool:
        """Whether CREATE EXTENSION can work here, preloaded libraries included."""
        return extension in _available_extensions(self)

    def create_database(self, template: str = "template0", options: LiteralString = "") -> str:
        """A new database of the test role; `template0` gives an empty one, which may have a locale
        of its own."""
        name = f"test_{secrets.token_hex(6)}"
        self._run_in_postgres(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy OWNER {} {}").format(
                sql.Identifier(name),
                sql.Identifier(template),
                sql.Identifier(self.user),
                sql.SQL(options),
            )
        )
        return name

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            forgotten = connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]
            ).fetchall()
        for (gid,) in forgotten:
            with psycopg.connect(self.superuser_url(name), autocommit=True) as connection:
                connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        self._run_in_postgres(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def rename_database(self, name: str, new_name: str) -> None:
        self._run_in_postgres(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(name), sql.Identifier(new_name)
            )
        )

    def _run_in_postgres(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


class ServerPool:
    """Starts each server and makes its migrated template once per test run.

    The folder is the run's own; pytest's controller makes it and stops what is in it.
    """

    def __init__(self, folder: Path, test_dsn: str | None) -> None:
        self.folder = folder
        self.test_dsn = test_dsn

    def get(self, name: str) -> PostgresServer:
        starters: dict[str, Callable[[Path], PostgresServer]] = {
            "embedded": lambda folder: _start_embedded("embedded", folder, {}),
            "partman5": _start_with_partman5,
            "debian15": _start_debian15,
            **dict.fromkeys(PLAIN, _start_plain),
            "dsn": lambda _: _describe_dsn(self.test_dsn or ""),
        }
        record = self.folder / f"{name}.json"
        with FileLock(self.folder / f"{name}.lock"):
            if not record.exists():
                record.write_text(json.dumps(asdict(starters[name](self.folder / name))))
            return PostgresServer(**json.loads(record.read_text()))

    def template(self, server: PostgresServer) -> str:
        """The name of a database with all foundational migrations in it, made when first asked."""

        def fill(name: str) -> None:
            if server.name == "debian15":
                _create_extensions_as_superuser(server, name)
            migrate_project(server.url(name))

        name = f"tsrollup_template_{_fingerprint_of_migrations()}"
        return self._made_once(server, name, "template0", fill)

    def scene(self, server: PostgresServer, prepare: Callable[..., object]) -> str:
        """The name of a clone of it that was filled, made when first asked."""

        def fill(name: str) -> None:
            with psycopg.connect(server.url(name), autocommit=True) as connection:
                prepare(connection)

        name = f"{prepare.__module__}.{prepare.__name__}"
        return self._made_once(server, name, self.template(server), fill)

    def _made_once(
        self, server: PostgresServer, name: str, template: str, fill: Callable[[str], None]
    ) -> str:
        with FileLock(self.folder / f"{server.name}.{name}.lock"):
            with psycopg.connect(server.superuser_url("postgres")) as connection:
                found = connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [name]
                ).fetchone()
            if not found:
                unfinished = server.create_database(template)
                fill(unfinished)
                server.rename_database(unfinished, name)
        return name

    def stop_all(self) -> None:
        for record in self.folder.glob("*.json"):
            server = PostgresServer(**json.loads(record.read_text()))
            if server.name in ("embedded", "partman5"):
                embedded.stop(server.data_dir)
            elif server.name == "debian15" or server.name in PLAIN:
                _stop(server)
        shutil.rmtree(self.folder, ignore_errors=True)


def found_servers(test_dsn: str | None) -> list[str]:
    names = ["embedded"]
    if DEBIAN15.is_dir():
        names.append("debian15")
    if test_dsn:
        names.append("dsn")
    return names


def found_partman_servers() -> list[str]:
    return ["partman5"] if (PARTMAN5 / "extension" / "pg_partman.control").exists() else []


def bindir_of(server: PostgresServer) -> Path:
    """Where pg_dump and friends of its version are, if anywhere."""
    return DEBIAN15 if server.version == 15 and DEBIAN15.is_dir() else embedded.bindir()


def new_pool_folder() -> Path:
    """In memory where there is room, else in the system's own temporary folder: pytest's is closed
    to the servers' account."""
    folder = Path(tempfile.mkdtemp(prefix="tsrollup-tests-", dir=_memory()))
    folder.chmod(0o755)
    return folder


def _memory() -> Path | None:
    """A database is some 300 files. A disk's file system takes five times as long to make them,
    once as many have just been removed."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    roomy = found.f_bavail * found.f_frsize >= ENOUGH_MEMORY
    return MEMORY if roomy and not found.f_flag & os.ST_NOEXEC else None


def missing_on_debian15() -> list[str]:
    """What the full-stack server lacks here; empty where it is complete."""
    if not DEBIAN15.is_dir():
        return ["postgresql-15"]
    controls = Path("/usr/share/postgresql/15/extension")
    missing = [x for x in DEBIAN15_EXTENSIONS if not (controls / f"{x}.control").exists()]
    return missing if PGBOUNCER else [*missing, "pgbouncer"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start_embedded(name: str, folder: Path, settings: dict[str, str]) -> PostgresServer:
    server = embedded.start(folder, settings={**SETTINGS, **settings})
    (folder / "pgdata" / "pg_hba.conf").write_text("host all,replication all 127.0.0.1/32 trust\n")
    with psycopg.connect(server.url_for("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
        major = connection.info.server_version // 10000
    conninfo = f"host=127.0.0.1 port={server.port}"
    return PostgresServer(name, major, conninfo, "postgres", "postgres", str(folder))


def _start_with_partman5(folder: Path) -> PostgresServer:
    # The server's account may not look into the checkout.
    files = shutil.copytree(PARTMAN5, folder.with_name("partman5-files"))
    return _start_embedded(folder.name, folder, {"extension_control_path": f"$system:{files}"})


def _start_debian15(folder: Path) -> PostgresServer:
    preloaded = ["pg_stat_statements"]
    settings = {}
    if "pg_cron" not in missing_on_debian15():
        preloaded.append("pg_cron")
        settings = {"cron.database_name": "postgres", "cron.use_background_workers": "on"}
    settings["shared_preload_libraries"] = ",".join(preloaded)
    port = _start_cluster(DEBIAN15, folder, settings)
    server = PostgresServer(
        "debian15", 15, f"host=127.0.0.1 port={port}", TEST_ROLE, "postgres", str(folder)
    )
    with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {TEST_ROLE} LOGIN CREATEROLE")
        if "pg_cron" in preloaded:
            connection.execute("CREATE EXTENSION pg_cron")
            connection.execute(f"GRANT USAGE ON SCHEMA cron TO {TEST_ROLE} WITH GRANT OPTION")
    return server


def _start_plain(folder: Path) -> PostgresServer:
    # The server's account may not look into the checkout.
    shutil.copytree(CACHE / folder.name, _plain_home(folder))
    port = _start_cluster(_plain_home(folder) / "bin", folder, {})
    version = int(folder.name.removeprefix("postgres-"))
    conninfo = f"host=127.0.0.1 port={port}"
    return PostgresServer(folder.name, version, conninfo, "postgres", "postgres", str(folder))


def _plain_home(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-files")


def _start_cluster(bindir: Path, folder: Path, further: dict[str, str]) -> int:
    """Makes and starts a cluster in the folder, as its account; returns its port."""
    folder.mkdir()
    account_for(folder).own(folder)
    options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C")
    _run_as_owner(folder, bindir / "initdb", *options)
    port = free_port()
    settings = {
        **SETTINGS,
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        **further,
    }
    with (folder / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    _run_as_owner(folder, bindir / "pg_ctl", "start", "-w", "-l", str(folder / "server.log"))
    return port


def _stop(server: PostgresServer) -> None:
    folder = Path(server.data_dir or "")
    bindir = DEBIAN15 if server.name == "debian15" else _plain_home(folder) / "bin"
    _run_as_owner(folder, bindir / "pg_ctl", "stop", "-m", "immediate", "-w")


def _describe_dsn(dsn: str) -> PostgresServer:
    with psycopg.connect(dsn) as connection:
        user = connection.info.user
        major = connection.info.server_version // 10000
    return PostgresServer("dsn", major, dsn, user, user, None)


def _create_extensions_as_superuser(server: PostgresServer, dbname: str) -> None:
    """What Debian's packages let only a superuser create; the test role gets what it needs."""
    with psycopg.connect(server.superuser_url(dbname), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA partman AUTHORIZATION {TEST_ROLE}")
        for extension, schema in {
            "hypopg": "public",
            "pg_stat_statements": "public",
            "pg_partman": "partman",
        }.items():
            if server.has(extension):
                connection.execute(f"CREATE EXTENSION {extension} SCHEMA {schema}")
        for objects in ("SCHEMA", "ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA"):
            connection.execute(f"GRANT ALL ON {objects} partman TO {TEST_ROLE} WITH GRANT OPTION")
        for objects in ("FUNCTIONS", "PROCEDURES"):
            connection.execute(
                f"GRANT EXECUTE ON ALL {objects} IN SCHEMA partman TO {TEST_ROLE} WITH GRANT OPTION"
            )


def _run_as_owner(folder: Path, program: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(program), "-D", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        check=False,
        **account_for(folder).subprocess_arguments(),
    )
    if done.returncode:
        raise RuntimeError(f"{program.name} failed: {done.stdout}")


@cache
def _available_extensions(server: PostgresServer) -> frozenset[str]:
    with psycopg.connect(server.superuser_url("postgres")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM pg_available_extensions")}
        row = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
        for extension in ("pg_cron", "pg_stat_statements"):
            if not row or extension not in row[0]:
                names.discard(extension)
    return frozenset(names)


@cache
def _fingerprint_of_migrations() -> str:
    pgdb = Path(tsrollup.__file__).parent / "pgdb"
    digest = hashlib.sha256()
    for path in sorted(x for x in pgdb.rglob("*") if x.is_file()):
        digest.update(str(path.relative_to(pgdb)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
