"""Connections, and what PostgreSQL's own errors look like on one line."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tsrollup.errors import TsrollupError


def connect(url: str, *, autocommit: bool = True, **parameters: Any) -> psycopg.Connection[Any]:
    """Connect to a libpq URL or connection string; further libpq parameters as keywords."""
    parameters.setdefault("application_name", "tsrollup")
    try:
        return psycopg.connect(url, autocommit=autocommit, **parameters)
    except psycopg.ProgrammingError as error:
        raise TsrollupError(
            f"not a PostgreSQL URL: {_without_password(url)}: {_one_line(str(error))}",
            "write it as postgresql://user@host:port/database",
        ) from error
    except psycopg.OperationalError as error:
        raise TsrollupError(
            f"cannot connect to {_without_password(url)}: {_one_line(str(error))}",
            "check that the server runs and that --url or TSROLLUP_URL is right",
        ) from error


def describe(error: psycopg.Error | OSError) -> TsrollupError:
    """Turn what the server, or the operating system, reported into one message and its hint."""
    if isinstance(error, OSError):
        return TsrollupError(_one_line(str(error)))
    message = _one_line(error.diag.message_primary or str(error))
    if error.diag.message_detail:
        message += f": {_one_line(error.diag.message_detail)}"
    if error.sqlstate:
        message += f" [{error.sqlstate}]"
    hint = error.diag.message_hint
    return TsrollupError(message, _one_line(hint) if hint else None)


def _without_password(url: str) -> str:
    try:
        known = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "the given URL"
    host = known.get("host") or known.get("hostaddr") or "the default host"
    port = f":{known['port']}" if "port" in known else ""
    return f"database {known.get('dbname', '(default)')} on {host}{port}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
