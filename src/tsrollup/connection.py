"""Connections, and what PostgreSQL's own errors look like on one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext, Buffer, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row
from psycopg.types.datetime import IntervalLoader
from psycopg.types.multirange import MultirangeInfo
from psycopg.types.range import RangeInfo
from psycopg.types.string import TextLoader

from tsrollup.errors import ArgumentError, TsrollupError, error_of

# Neither PGCLIENTENCODING nor a SQL_ASCII database changes what is read; a pooler that changes
# servers between transactions knows no statements prepared on another.
CONNECTION_PARAMETERS: dict[str, Any] = {"client_encoding": "UTF8", "prepare_threshold": None}

TIMES = ("timestamptz", "timestamp", "date", "time", "timetz", "interval")

# The order of day and month, in which texts are read, stays as it is.
PINNED = (
    "SET LOCAL search_path = pg_catalog, pg_temp;"
    " SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres"
)
# What is set in a pinned transaction, there or by who opened it.
_SET = ("search_path", "datestyle", "intervalstyle", "timezone", "lock_timeout")
SETTINGS_NOW = "SELECT " + ", ".join(f"pg_catalog.current_setting('{name}')" for name in _SET)
SETTINGS_AS_THEY_WERE = "SELECT " + ", ".join(
    f"pg_catalog.set_config('{name}', %s, true)" for name in _SET
)

RIGHTS_HINT = (
    "run it as the owner of that or a superuser; members of tsrollup_operator may run and watch"
    " rollups; what rights a restore has lost come back with tsrollup migrate"
)
HINTS = {
    "42501": RIGHTS_HINT,
    "22007": "write times as 2026-01-31 12:00, lengths of time as 15 minutes",
}
URL_HINT = "write it as postgresql://user:password@host:port/database"

# A scheme in capitals, or with a driver as SQLAlchemy writes it.
_SCHEME = re.compile(r"(?i)^postgres(?:ql)?(?:\+\w+)?://")
# libpq has no SQLSTATE of what a server says before it lets anybody in.
_REFUSED = re.compile(
    "authentication failed|no password supplied|pg_hba[.]conf|not permitted to log in"
    "|permission denied|does not exist|no such (?:database|user)|invalid [^ ]+ value"
)
# What psycopg says of an argument before a server sees it.
_NOT_PASSED = re.compile(r"cannot adapt type '(.+?)'|PostgreSQL text fields cannot contain NUL")
_LOCATOR = re.compile(r"\w+://(?P<authority>[^/?#]*)(?P<path>[^?#]*)")


class CannotConnectError(TsrollupError):
    """No connection was made. It may be made later, unless a server said what it would say again;
    where several hosts are given, unless each did."""

    def __init__(self, known: dict[str, Any], told: str) -> None:
        super().__init__(
            f"cannot connect to {_place(known)}: {_one_line(told)}",
            "check that the server runs and that --url or TSROLLUP_URL is right",
        )
        of_each = told.split("\n- ")[1:] or [told]
        has_many_hosts = "," in str(known.get("host") or known.get("hostaddr"))
        refused = [_REFUSED.search(one) is not None for one in of_each]
        self.may_pass = not (all if has_many_hosts else any)(refused)


def connect(url: str, *, autocommit: bool = True, **parameters: Any) -> psycopg.Connection[Any]:
    """Connect to a libpq URL or connection string; further libpq parameters as keywords.

    Transactions are read committed, whatever the database's or the role's default is.
    """
    known = read_url(url)
    parameters = {"application_name": "tsrollup", **known, **CONNECTION_PARAMETERS, **parameters}
    try:
        connection = psycopg.connect(autocommit=autocommit, **parameters)
    except psycopg.OperationalError as error:
        raise CannotConnectError(known, str(error)) from error
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


def read_url(url: str) -> dict[str, Any]:
    """libpq's parameters of a URL or connection string. An error quotes nothing of it: a typing
    error may have put the password anywhere."""
    if not isinstance(url, str):
        raise ArgumentError(f"a URL is text, and no {type(url).__name__}", URL_HINT)
    url = _SCHEME.sub("postgresql://", url.strip())
    found = _LOCATOR.match(url)
    if found and (found["authority"].count("@") > 1 or "@" in found["path"]):
        raise TsrollupError(
            "not a PostgreSQL URL: its user, password or database holds @ or /",
            "write them there as %40 and %2F",
        )
    try:
        known = dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise TsrollupError("not a PostgreSQL URL", URL_HINT) from None
    ports = str(known.get("port", "")).split(",")
    if not all(not port or (port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise TsrollupError("not a PostgreSQL URL: its port is no number of a port", URL_HINT)
    return known


def on_the_same_server(url: str, database: str) -> str:
    """The URL of another database, given by name or by a URL of its own."""
    if "://" in database or "=" in database:
        return database
    return make_conninfo("", **{**read_url(url), "dbname": database})


@contextmanager
def pinned(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction of the connection's isolation in which names are PostgreSQL's own, and times
    and intervals are written as psycopg reads them, whatever the database or the role has set.
    Where there was a transaction, it goes on with the settings that it had."""
    is_first = connection.info.transaction_status == pq.TransactionStatus.IDLE
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        was = None if is_first else cursor.execute(SETTINGS_NOW).fetchone()
        cursor.execute(PINNED)
        yield
        if was:
            cursor.execute(SETTINGS_AS_THEY_WERE, was)


class IsoTimeLoader(TextLoader):
    """A timestamptz as ISO 8601. Python has no times before year 1, where the bucket across its
    start begins."""

    def load(self, data: Buffer) -> str | bytes:
        text = super().load(data)
        assert isinstance(text, str)
        return re.sub(r"([+-]\d\d)(?!:)(?= BC|$)", r"\1:00", text.replace(" ", "T", 1))


class _OrTextLoader(TextLoader):
    """What Python has a type for, and as PostgreSQL writes it what that type cannot hold."""

    usual: type[Loader]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._usual = self.usual(oid, context)

    def load(self, data: Buffer) -> Any:
        try:
            return self._usual.load(data)
        except (psycopg.DataError, OverflowError, NotImplementedError):
            return super().load(data)


def take_every_time(connection: psycopg.Connection[Any]) -> None:
    """Have times that Python has none of (infinity, before year 1 or after 9999, 24:00) read as
    text rather than fail: of this connection, and in arrays and ranges as well."""
    for name in TIMES:
        usual = psycopg.adapters.get_loader(psycopg.adapters.types[name].oid, pq.Format.TEXT)
        if name == "interval":  # the fast one is wrong about millions of years
            usual = IntervalLoader
        loader = type("OrTextLoader", (_OrTextLoader,), {"usual": usual})
        connection.adapters.register_loader(name, loader)


def take_text(connection: psycopg.Connection[Any]) -> None:
    """Have what neither JSON nor people have a form for read as PostgreSQL writes it."""
    for kind in psycopg.adapters.types:
        if kind.name == "bytea" or isinstance(kind, RangeInfo | MultirangeInfo):
            connection.adapters.register_loader(kind.oid, TextLoader)


def describe(error: psycopg.Error | OSError | UnicodeError) -> TsrollupError:
    """Turn what the server, or the operating system, reported into one message and its hint."""
    if isinstance(error, UnicodeError):
        return TsrollupError(
            f"text that is not UTF-8: {_one_line(str(error))}",
            "check the names and values in the database, and the encoding of the terminal",
        )
    if isinstance(error, OSError):
        return TsrollupError(_one_line(str(error)))
    if not error.sqlstate and (found := _NOT_PASSED.match(str(error))):
        given = f"a {found[1]} of Python" if found[1] else "text with a NUL byte"
        return ArgumentError(f"{given} cannot be passed to PostgreSQL", "give it as another type")
    message = _one_line(error.diag.message_primary or str(error))
    if error.diag.message_detail:
        message += f": {_one_line(error.diag.message_detail)}"
    if error.sqlstate:
        message += f" [{error.sqlstate}]"
    hint = error.diag.message_hint or HINTS.get(error.sqlstate or "")
    return error_of(error.sqlstate, message, _one_line(hint) if hint else None)


def _place(known: dict[str, Any]) -> str:
    host = known.get("host") or known.get("hostaddr") or "the default host"
    port = f":{known['port']}" if "port" in known else ""
    return f"database {known.get('dbname', '(default)')} on {host}{port}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
