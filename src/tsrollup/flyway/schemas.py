"""Creating the configured schemas and the history table, and telling whether they hold anything."""

import logging

from psycopg import sql

from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.session import Session

log = logging.getLogger(__name__)

_HOLDS_SOMETHING = """
SELECT EXISTS (
    SELECT 1 FROM pg_class c
    WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'v', 'S', 't')
      AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass
                                                AND objid = c.oid AND deptype = 'e')
    UNION ALL
    SELECT 1 FROM pg_type t
    WHERE t.typnamespace = n.oid AND t.typcategory NOT IN ('A', 'C')
      AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_type'::regclass
                                                AND objid = t.oid AND deptype = 'e')
    UNION ALL
    SELECT 1 FROM pg_proc p
    WHERE p.pronamespace = n.oid
      AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_proc'::regclass
                                                AND objid = p.oid AND deptype = 'e')
)
FROM pg_namespace n WHERE nspname = %s
"""


def non_empty_schemas(session: Session) -> list[str]:
    """The configured schemas that hold anything but what extensions put there."""
    return [
        schema
        for schema in session.schemas
        if any(row[0] for row in session.database.rows(_HOLDS_SOMETHING, [schema]))
    ]


def missing_schemas(session: Session) -> list[str]:
    return [schema for schema in session.schemas if not session.database.schema_exists(schema)]


def create_missing_schemas(session: Session, *, with_history: bool = True) -> list[str]:
    """Create the configured schemas that do not exist, the history table and its SCHEMA row."""
    session.callback("createSchema")
    session.callback("beforeCreateSchema")
    if not missing_schemas(session):
        return []
    with session.history.transaction():
        # Another runner may have made them while this one waited for the lock.
        missing = missing_schemas(session)
        for schema in missing:
            log.info("Creating schema %s", schema)
            session.database.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        if missing and with_history:
            if not session.history.exists():
                log.info("Creating schema history table %s", session.history)
                session.history.create()
            session.history.add_schemas(missing)
    return missing


def create_history(session: Session) -> None:
    """Create the history table unless it exists."""
    if session.history.exists():
        return
    if not session.database.schema_exists(session.default_schema):
        raise FlywayError(
            f"schema {session.default_schema}, where the schema history belongs, does not exist",
            hint="create it, or set -createSchemas=true",
        )
    with session.history.transaction():
        if not session.history.exists():
            log.info("Creating schema history table %s", session.history)
            session.history.create()
