"""Checks of a database: what would make rollups slow, late or wrong, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from typing import Literal as OneOf

from psycopg import Connection
from psycopg.sql import Literal

from tsrollup.connection import pinned
from tsrollup.installation import misfit

Verdict = OneOf["ok", "advice", "problem"]
OPTIONAL_EXTENSIONS = {
    "pg_partman": "partitions are made natively",
    "pg_cron": "run tsrollup worker to schedule",
    "hypopg": "no index advice",
    "pg_stat_statements": "no query times in statistics",
    "ltree": "no hierarchical dimensions",
    "btree_gin": "no GIN indexes over dimensions",
}
OLDEST_VERSION = 15
ENOUGH_LOCKS = 128
MANY_UNDRAINED = 10_000


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: a problem makes the command fail, advice does not."""

    check: str
    verdict: Verdict
    found: str
    next_step: str = ""


Check = Callable[[Connection[dict[str, Any]]], Iterator[Finding]]


def examine(connection: Connection[dict[str, Any]]) -> list[Finding]:
    """All findings; what needs the installation is left out where it is missing."""
    checks: list[Check] = [_version, _extensions, _settings]
    with pinned(connection):
        error = misfit(connection)
        if error is None:
            checks += [
                _history,
                _strange_extensions,
                _partman_out_of_reach,
                _generated,
                _privileges,
                _closed,
                _workers,
                _rollups,
                _strays,
                _foreign_parts,
                _health,
                _undrained,
            ]
        findings = [finding for check in checks for finding in check(connection)]
    if error:
        next_step = (error.hint or "").removeprefix("run ")
        findings.append(Finding("installation", "problem", error.message, next_step))
    return findings


def home_of_pg_cron(connection: Connection[dict[str, Any]]) -> str | None:
    """The database that pg_cron lives in; hidden from roles that may not read every setting."""
    with pinned(connection):
        query = "SELECT max(setting) AS v FROM pg_settings WHERE name = 'cron.database_name'"
        home: str | None = _value(connection, query)
        return home


def examine_jobs(connection: Connection[dict[str, Any]]) -> list[Finding]:
    """Findings about the jobs in pg_cron's own database, as far as the role sees them."""
    with pinned(connection):
        if not _value(connection, "SELECT to_regclass('cron.job') IS NOT NULL AS v"):
            return []
        rows = connection.execute(
            "SELECT DISTINCT database FROM cron.job"
            " WHERE database NOT IN (SELECT datname FROM pg_database) AND command"
            "  ~ 'silver[.](run_rollups|handle_rollup_retries|maintain_timeseries_tables)'"
            " ORDER BY database"
        ).fetchall()
    if not rows:
        return [Finding("pg_cron jobs", "ok", "none of a database that is gone")]
    home = connection.info.dbname
    return [
        Finding(
            "pg_cron jobs",
            "problem",
            f"jobs for database {row['database']}, which was dropped or renamed, fail every time",
            f"in database {home}: SELECT rollup_engine.unschedule_timeseries("
            f"{Literal(row['database']).as_string(connection)})",
        )
        for row in rows
    ]


def _version(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    version = connection.info.server_version
    text = f"PostgreSQL {version // 10000}.{version % 10000}"
    if version // 10000 < OLDEST_VERSION:
        yield Finding("version", "problem", text, f"upgrade to {OLDEST_VERSION} or newer")
    else:
        yield Finding("version", "ok", text)


def _extensions(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT name, default_version, installed_version FROM pg_available_extensions"
    ).fetchall()
    known = {row["name"]: row for row in rows}
    for name, without in OPTIONAL_EXTENSIONS.items():
        extension = known.get(name)
        if extension and extension["installed_version"]:
            yield Finding(name, "ok", str(extension["installed_version"]))
        elif name == "pg_cron" and extension:
            yield Finding(name, "ok", "available; it lives in its own database")
        elif extension:
            yield Finding(name, "advice", "available, not created", f"CREATE EXTENSION {name}")
        else:
            yield Finding(name, "ok", f"not on this server: {without}")


def _strange_extensions(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    query = (
        "SELECT name, rollup_engine.stranger_in_extension(name) AS stranger"
        " FROM (VALUES (name 'pg_partman'), ('hypopg')) AS e (name)"
    )
    for row in _answers(connection, "rollup_engine.stranger_in_extension(name)", query):
        if row["stranger"]:
            yield Finding(
                row["name"],
                "advice",
                f"not used: it, its schema or a function there belongs to {row['stranger']}",
                "have a superuser own them; or, is that role to be trusted, make it a member"
                " of the owner role",
            )


def _partman_out_of_reach(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    query = (
        "SELECT rollup_engine.partman_out_of_reach() AS next_step"
        " WHERE rollup_engine.stranger_in_extension('pg_partman') IS NULL"
    )
    for row in _answers(connection, "rollup_engine.partman_out_of_reach()", query):
        if row["next_step"]:
            yield Finding(
                "pg_partman",
                "advice",
                "out of reach: whether it removes partitions of a source is not known; of those"
                " with names as it gives them, the last one of a table, and any that is divided"
                " in turn, are kept for it",
                row["next_step"],
            )


def _settings(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    if _value(connection, "SELECT current_setting('jit')::boolean AS v"):
        yield Finding(
            "jit",
            "advice",
            "on: compiling a live view takes longer than reading it",
            "ALTER DATABASE ... SET jit = off",
        )
    else:
        yield Finding("jit", "ok", "off")
    locks = _value(connection, "SELECT current_setting('max_locks_per_transaction')::int AS v")
    if locks < ENOUGH_LOCKS:
        yield Finding(
            "max_locks_per_transaction",
            "advice",
            f"{locks}: reads over hundreds of partitions take a lock each",
            "set it to 256 and restart the server",
        )
    else:
        yield Finding("max_locks_per_transaction", "ok", str(locks))


def _history(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    table = "rollup_engine.schema_history_foundational"
    if not _value(connection, f"SELECT has_table_privilege(to_regclass('{table}'), 'SELECT') AS v"):
        yield Finding("installation", "ok", "installed; its history is not for this role to see")
        return
    row = connection.execute(
        f"SELECT version, success FROM {table} WHERE version IS NOT NULL"
        " ORDER BY installed_rank DESC LIMIT 1"
    ).fetchone()
    if row is None or not row["success"]:
        yield Finding("installation", "problem", "a migration failed", "tsrollup info")
    else:
        yield Finding("installation", "ok", f"migrated to version {row['version']}")


def _generated(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    function = "rollup_engine.outdated_texts()"
    query = (
        "SELECT string_agg(f, ', ' ORDER BY f) AS names, h AS hint"
        f" FROM {function} AS f, rollup_engine.rewriting_hint(f) AS h GROUP BY h ORDER BY h"
    )
    for row in _answers(connection, function, query):
        yield Finding(
            "generated functions",
            "advice",
            f"{row['names']}: written for another release or server",
            f"{row['hint']}; then tsrollup migrate" if row["hint"] else "tsrollup migrate",
        )


def _closed(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    function = "rollup_engine.closed_functions()"
    query = f"SELECT min(f::text) AS first, count(*) AS number FROM {function} AS f"
    for row in _answers(connection, function, query):
        if row["number"]:
            yield Finding(
                "rights",
                "problem",
                f"reads of live views and writes to sources may fail: not everybody may execute"
                f" {row['first']}, one of {row['number']} such functions",
                "tsrollup migrate",
            )


def _privileges(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    row = connection.execute(
        "SELECT current_user AS role, pg_get_userbyid(nspowner) AS owner,"
        " pg_has_role(current_user, nspowner, 'member') AS is_owner,"
        " has_schema_privilege('silver', 'USAGE') AS may_use"
        " FROM pg_namespace WHERE nspname = 'silver'"
    ).fetchone()
    if row is None:
        return
    if row["is_owner"]:
        yield Finding("privileges", "ok", f"{row['role']} may do everything")
    elif row["may_use"]:
        yield Finding(
            "privileges",
            "advice",
            f"{row['role']} may not create rollups",
            f"GRANT {row['owner']} TO {row['role']}",
        )
    else:
        yield Finding(
            "privileges",
            "problem",
            f"{row['role']} may not use schema silver",
            f"GRANT {row['owner']} TO {row['role']}",
        )


def _workers(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    """Those of Citus, where the database is its coordinator."""
    for row in _answers(connection, "rollup_engine.worker_states()"):
        check = f"worker {row['worker']}"
        if row["problem"]:
            yield Finding(check, "problem", row["problem"], row["hint"])
        else:
            yield Finding(check, "ok", "answers, with the functions of this release")


def _rollups(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    rows = connection.execute("SELECT * FROM silver.validate_rollup_config()").fetchall()
    wrong = [row for row in rows if not row["is_valid"]]
    for row in wrong:
        yield Finding(str(row["target"]), "problem", str(row["problem"]), str(row["hint"] or ""))
    if not wrong:
        count = len({row["target"] for row in rows})
        yield Finding("rollups", "ok", f"{count} valid, their capture triggers in place")


def _strays(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    """Tables that left a source's family, or came from another database, with its triggers."""
    if not _value(connection, "SELECT has_table_privilege('rollup_engine.source', 'SELECT') AS v"):
        return
    rows = connection.execute(
        "SELECT DISTINCT s.relation::text AS source, t.relation::text AS other"
        " FROM rollup_engine.source AS s CROSS JOIN LATERAL rollup_engine.stray_triggers(s) AS t"
        " WHERE t.relation NOT IN (SELECT w.member FROM rollup_engine.wanted_triggers(s) AS w)"
    ).fetchall()
    for row in rows:
        yield Finding(
            row["other"],
            "advice",
            f"capture triggers of {row['source']}: each write here has that computed anew",
            f"SELECT * FROM silver.perform_rollup(), as the owner of {row['other']}, drops them",
        )


def _foreign_parts(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    """What a dump has brought that was restored in part, or into a database of other rollups."""
    for row in _answers(connection, "rollup_engine.foreign_parts()"):
        yield Finding(
            row["part"],
            "problem",
            row["problem"],
            "did it come with a dump, restore that as a whole into an empty database;"
            f" what is left here goes by {row['removal']}",
        )


def _health(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT target_table::text AS target, health, last_error"
        " FROM silver.timeseries_operations_monitor WHERE health IN ('parked', 'retrying')"
    ).fetchall()
    for row in rows:
        yield Finding(
            row["target"],
            "problem",
            f"{row['health']}: {row['last_error']}",
            f"mend the cause, then SELECT silver.reset_rollup_retry('{row['target']}')",
        )


def _undrained(connection: Connection[dict[str, Any]]) -> Iterator[Finding]:
    if not _value(
        connection, "SELECT has_table_privilege('rollup_engine.change_log', 'SELECT') AS v"
    ):
        return
    waiting = _value(
        connection,
        "SELECT count(*) AS v FROM"
        f" (SELECT FROM rollup_engine.change_log LIMIT {MANY_UNDRAINED}) AS log",
    )
    if waiting >= MANY_UNDRAINED:
        yield Finding(
            "change log",
            "advice",
            f"{waiting:,} changes or more are not drained: live views read them all",
            "run tsrollup run, and schedule it",
        )
    else:
        yield Finding("change log", "ok", f"{waiting:,} changes to drain")


def _answers(
    connection: Connection[dict[str, Any]], function: str, query: str | None = None
) -> list[dict[str, Any]]:
    """What a query of a function of the machinery says, or all that it does; to who may call it."""
    allowed = f"SELECT has_function_privilege('{function}', 'EXECUTE') AS v"
    if not _value(connection, allowed):
        return []
    return connection.execute((query or f"SELECT * FROM {function}").encode()).fetchall()


def _value(connection: Connection[dict[str, Any]], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row["v"] if row else None
