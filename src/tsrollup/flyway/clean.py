"""clean: empty the configured schemas."""

import logging
from collections import Counter
from dataclasses import dataclass

from psycopg import sql

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import CleanDisabledError
from tsrollup.flyway.results import CleanResult
from tsrollup.flyway.session import Session, open_session

log = logging.getLogger(__name__)

# What an extension, a table or a type brought along goes with it.
_OBJECTS = """
WITH objects AS (
    SELECT 1 AS step, 'MATERIALIZED VIEW' AS kind, 'pg_class'::regclass AS class, oid,
           relnamespace AS namespace, quote_ident(relname) AS name
    FROM pg_class WHERE relkind = 'm'
    UNION ALL
    SELECT 2, 'VIEW', 'pg_class', oid, relnamespace, quote_ident(relname)
    FROM pg_class WHERE relkind = 'v'
    UNION ALL
    SELECT 3, 'TABLE', 'pg_class', oid, relnamespace, quote_ident(relname)
    FROM pg_class
    WHERE relkind IN ('r', 'p') AND NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = oid)
    UNION ALL
    SELECT 4, CASE prokind WHEN 'a' THEN 'AGGREGATE' WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
           'pg_proc', oid, pronamespace, quote_ident(proname) || '(' ||
               CASE WHEN prokind = 'a' AND pronargs = 0 THEN '*'
                    ELSE pg_get_function_identity_arguments(oid) END || ')'
    FROM pg_proc
    UNION ALL
    SELECT 5, CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, 'pg_type', oid, typnamespace,
           quote_ident(typname)
    FROM pg_type
    UNION ALL
    SELECT 6, 'SEQUENCE', 'pg_class', oid, relnamespace, quote_ident(relname)
    FROM pg_class WHERE relkind = 'S'
    UNION ALL
    SELECT 7, 'COLLATION', 'pg_collation', oid, collnamespace, quote_ident(collname)
    FROM pg_collation
    UNION ALL
    SELECT 8, 'EXTENSION', 'pg_extension', oid, extnamespace, NULL
    FROM pg_extension WHERE extowner = quote_ident(current_user)::regrole
)
SELECT kind, COALESCE(quote_ident(nspname) || '.' || objects.name,
                      (SELECT quote_ident(extname) FROM pg_extension e WHERE e.oid = objects.oid))
FROM objects
JOIN pg_namespace ON pg_namespace.oid = namespace
WHERE nspname = %s AND NOT EXISTS (
    SELECT 1 FROM pg_depend
    -- A partitioned table depends on its own key columns.
    WHERE classid = class AND objid = objects.oid AND deptype IN ('e', 'i') AND refobjid <> objid)
ORDER BY step, 2
"""


_NAMED = ("TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "EXTENSION")


@dataclass(frozen=True)
class _Object:
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.name}"


def clean(configuration: Configuration) -> CleanResult:
    """Drop what the configured schemas hold, and the schemas that a runner created.

    What goes is logged first; with cleanDisabled, the default, it stays at that. Callbacks and
    drops are one transaction.
    """
    with open_session(configuration) as session:
        found = {schema: _objects(session, schema) for schema in session.schemas}
        created = session.history.created(session.schemas)
        _announce(configuration, found, created)
        if configuration.clean_disabled:
            raise CleanDisabledError(
                "clean is disabled; nothing was dropped",
                hint="set -cleanDisabled=false to drop what is listed above, for good",
            )
        return _clean(session, created)


def _objects(session: Session, schema: str) -> list[_Object]:
    return [_Object(*row) for row in session.database.rows(_OBJECTS, [schema])]


def _announce(
    configuration: Configuration, found: dict[str, list[_Object]], created: list[str]
) -> None:
    """Name what holds data, count the rest."""
    verb = "would drop" if configuration.clean_disabled else "drops"
    for schema, objects in found.items():
        log.info("clean %s %d objects of schema %s", verb, len(objects), schema)
        for item in objects:
            log.log(logging.INFO if item.kind in _NAMED else logging.DEBUG, "  %s", item)
        for kind, count in Counter(
            item.kind for item in objects if item.kind not in _NAMED
        ).items():
            log.info("  %d of kind %s (-X names them)", count, kind.lower())
    for schema in created:
        log.info("clean %s schema %s itself, which a migration run created", verb, schema)


def _clean(session: Session, created: list[str]) -> CleanResult:
    result = CleanResult(session.database.name)
    with session.events("Clean", in_transaction=True):
        for schema in session.schemas:
            if not session.database.schema_exists(schema):
                session.warn(f"schema {schema} does not exist; nothing to clean in it")
                continue
            # Callbacks may have dropped some, and a cascade takes further ones along.
            for item in _objects(session, schema):
                _drop(session, item)
            if schema not in created:
                result.cleaned.append(schema)
        for schema in created:
            if session.database.schema_exists(schema):
                session.database.execute(
                    sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema))
                )
                result.dropped.append(schema)
    for verb, schemas in (("Cleaned", result.cleaned), ("Dropped", result.dropped)):
        for schema in schemas:
            log.info("%s schema %s", verb, schema)
    return result


def _drop(session: Session, item: _Object) -> None:
    session.database.execute(f"DROP {item.kind} IF EXISTS {item.name} CASCADE")
