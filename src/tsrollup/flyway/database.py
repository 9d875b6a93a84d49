"""The connection that a command works on: JDBC URLs, transactions and the session's first state."""

import getpass
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from tsrollup.connection import CONNECTION_PARAMETERS, describe, read_url
from tsrollup.errors import TsrollupError
from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import ConfigurationError, FlywayError

_JDBC = re.compile(
    r"jdbc:postgresql:(?://(?P<hosts>[^/?]*)/?)?(?P<database>[^?]*)(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>\d+))?")

# pgjdbc's property names where libpq has the same thing under another.
_PROPERTIES = {
    "user": "user",
    "password": "password",
    "ApplicationName": "application_name",
    "connectTimeout": "connect_timeout",
    "loginTimeout": "connect_timeout",
    "options": "options",
    "sslmode": "sslmode",
    "sslcert": "sslcert",
    "sslkey": "sslkey",
    "sslrootcert": "sslrootcert",
    "sslpassword": "sslpassword",
    "targetServerType": "target_session_attrs",
    "gssEncMode": "gssencmode",
    "channelBinding": "channel_binding",
}
# Other people may have made functions and operators in what the user's search path names.
_OWN_PATH = "pg_catalog, pg_temp"
_TARGET_SERVERS = {"primary": "primary", "master": "primary", "secondary": "standby",
                   "preferSecondary": "prefer-standby", "any": "any"}  # fmt: skip


def conninfo(configuration: Configuration) -> str:
    """libpq's connection string for the configured URL, user and password."""
    url = configuration.url
    if not url:
        raise ConfigurationError(
            "no database URL is configured",
            hint="set -url=jdbc:postgresql://host:port/database, FLYWAY_URL or flyway.url",
        )
    if url.startswith("jdbc:postgresql:"):
        parameters = _from_jdbc(url)
    elif url.startswith("jdbc:"):
        raise ConfigurationError(
            f"{_shown(url)} is not a PostgreSQL URL; only PostgreSQL is supported"
        )
    else:
        try:
            parameters = read_url(url)
        except TsrollupError as error:
            raise ConfigurationError(error.message, hint=error.hint) from None
    if configuration.user:
        parameters["user"] = configuration.user
    if configuration.password:
        parameters["password"] = configuration.password
    parameters.setdefault("application_name", "tsrollup migrations")
    return make_conninfo("", **parameters)


def _shown(url: str) -> str:
    """Without what may be a password: all before an @, and parameters of that name."""
    return re.sub(r"(?i)(?<=:).*@|(?<=password=)[^&]*", "***", url)


def _from_jdbc(url: str) -> dict[str, Any]:
    match = _JDBC.fullmatch(url)
    if match is None or "@" in match["database"]:
        raise ConfigurationError(
            f"cannot read the database URL {_shown(url)}",
            hint="it should look like jdbc:postgresql://host:port/database",
        )
    hosts, ports = [], []
    for item in (match["hosts"] or "localhost").split(","):
        part = _HOST.fullmatch(item)
        if part is None:
            raise ConfigurationError(f"cannot read a host in the database URL {_shown(url)}")
        hosts.append(part["host"].strip("[]") or "localhost")
        ports.append(part["port"] or "5432")
    parameters: dict[str, Any] = {"host": ",".join(hosts), "port": ",".join(ports)}
    if match["database"]:
        parameters["dbname"] = unquote(match["database"])
    for name, value in parse_qsl(match["query"] or "", keep_blank_values=True):
        if name == "currentSchema":
            escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
            options = parameters.get("options", "")
            parameters["options"] = f"{options} -c search_path={escaped}".strip()
        elif name == "ssl" and value.lower() in ("", "true"):
            parameters.setdefault("sslmode", "verify-full")
        elif name == "targetServerType":
            parameters[_PROPERTIES[name]] = _TARGET_SERVERS.get(value, "any")
        elif name in _PROPERTIES:
            parameters[_PROPERTIES[name]] = value
    return parameters


class Database:
    """One connection in autocommit mode, with explicit transactions."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.connection = _connect(configuration)
        if configuration.init_sql:
            self._initialise(configuration.init_sql)
        row = self.row(
            "SELECT current_user, pg_catalog.current_setting('search_path'),"
            " pg_catalog.current_database(), pg_catalog.current_schema()"
        )
        self.user, self.search_path, self.name, schema = (str(value or "") for value in row)
        self.current_schema = schema or self._promised_schema()
        self._set_path(_OWN_PATH)

    def _promised_schema(self) -> str | None:
        """The one schema that the search path names, which does not exist yet."""
        return self.search_path if re.fullmatch(r"[a-z_][a-z0-9_]*", self.search_path) else None

    def _initialise(self, init_sql: str) -> None:
        try:
            self.execute(init_sql)
        except psycopg.Error as error:
            self.close()
            raise FlywayError(f"initSql failed: {describe(error).message}") from error

    def close(self) -> None:
        self.connection.close()

    def execute(self, query: str | sql.Composable, parameters: Any = None) -> psycopg.Cursor[Any]:
        return self.connection.execute(query, parameters)  # type: ignore[arg-type]

    def rows(self, query: str | sql.Composable, parameters: Any = None) -> list[tuple[Any, ...]]:
        return self.execute(query, parameters).fetchall()

    def row(self, query: str | sql.Composable, parameters: Any = None) -> tuple[Any, ...]:
        row = self.execute(query, parameters).fetchone()
        assert row is not None
        return tuple(row)

    @property
    def in_transaction(self) -> bool:
        return self.connection.info.transaction_status != TransactionStatus.IDLE

    def begin(self) -> None:
        self.execute("BEGIN")

    @contextmanager
    def transaction(self, begin: Callable[[], None] | None = None) -> Iterator[None]:
        """A transaction, opened by `begin`; joins the one that is open."""
        if self.in_transaction:
            yield
            return
        (begin or self.begin)()
        try:
            yield
        except BaseException:
            if self.in_transaction and not self.connection.closed:
                self.execute("ROLLBACK")
            raise
        # A script may have ended the transaction itself.
        if self.in_transaction:
            self.execute("COMMIT")

    def restore_session(self) -> None:
        """Undo the SET ROLE and SET search_path of a script: our own statements follow."""
        self.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.user)))
        self._set_path(_OWN_PATH)

    def _set_path(self, path: str) -> None:
        self.execute("SELECT pg_catalog.set_config('search_path', %s, false)", [path])

    def use_path_of_login(self) -> None:
        """The search path that the connection came with."""
        self._set_path(self.search_path)

    def use_schema(self, schema: str) -> None:
        """Put `schema` first in the search path, unless it is there already."""
        self.restore_session()
        path = self.search_path
        if not (path == schema or path.startswith((schema + ",", f'"{schema}"'))):
            quoted = sql.Identifier(schema).as_string(self.connection)
            path = f"{quoted},{path}" if path else quoted
        self._set_path(path)

    def schema_exists(self, schema: str) -> bool:
        return bool(self.rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]))


def _connect(configuration: Configuration) -> psycopg.Connection[Any]:
    info = conninfo(configuration)
    attempt = 0
    while True:
        try:
            return psycopg.connect(info, autocommit=True, **CONNECTION_PARAMETERS)
        except psycopg.OperationalError as error:
            if attempt >= configuration.connect_retries:
                reason = str(error).strip().splitlines()[0]
                raise FlywayError(
                    f"cannot connect to {_described(info)}: {reason}",
                    hint="check url, user and password, and that the server is running",
                    code="DB_CONNECTION",
                ) from None
            time.sleep(min(2**attempt, configuration.connect_retries_interval))
            attempt += 1


def _described(info: str) -> str:
    """What is connected to, without the password that a URL may hold."""
    known = conninfo_to_dict(info)
    user = known.get("user") or getpass.getuser()
    place = f"{known.get('host') or 'the default host'}:{known.get('port') or 5432}"
    return f"database {known.get('dbname') or user} on {place} as {user}"
