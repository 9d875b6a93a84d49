"""One story told to a real Flyway, to ours, and to one after the other; all must end alike."""

import difflib
import pprint
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from flyway.runners import Runner
from servers import PostgresServer

DEFAULT_TABLE = "flyway_schema_history"

# Faster than a new database for each telling.
RESET = """
DO $$
DECLARE
    v_name text;
BEGIN
    FOR v_name IN SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' LOOP
        EXECUTE format('DROP EXTENSION %I CASCADE', v_name);
    END LOOP;
    FOR v_name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', v_name);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
END
$$
"""

STRUCTURE = """
SELECT 'relation', nspname, relname, relkind::text, relpersistence::text
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
       concat_ws(' ', attnum, attnotnull, pg_get_expr(adbin, adrelid))
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE nspname !~ '^(pg_|information_schema)' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(c.oid), ''
FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace
WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'index', schemaname, indexname, indexdef, '' FROM pg_indexes
WHERE schemaname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'routine', nspname, proname, pg_get_function_identity_arguments(p.oid),
       concat(prokind, prosrc, pg_get_function_sqlbody(p.oid))
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'type', nspname, typname, typtype::text, '' FROM pg_type
JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'operator', nspname, oprname, '', '' FROM pg_operator
JOIN pg_namespace n ON n.oid = oprnamespace WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'collation', nspname, collname, '', '' FROM pg_collation
JOIN pg_namespace n ON n.oid = collnamespace WHERE nspname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'extension', nspname, extname, '', '' FROM pg_extension
JOIN pg_namespace n ON n.oid = extnamespace
UNION ALL
SELECT 'schema', nspname, pg_get_userbyid(nspowner), '', '' FROM pg_namespace n
WHERE nspname !~ '^(pg_|information_schema)'
ORDER BY 1, 2, 3, 4, 5
"""


@dataclass(frozen=True)
class Step:
    """What a command did, and what the database and both runners say after it."""

    command: str
    ok: bool
    history: list[Any]
    states: Any
    structure: list[Any]
    rows: dict[str, list[str]]


@dataclass
class World:
    """A folder of scripts and a database, and the runner whose turn it is."""

    server: PostgresServer
    connection: psycopg.Connection
    folder: Path
    ours: Runner
    real: Runner
    turns: Callable[[int], Runner]
    # Asking ours is enough once both have said the same of the same database.
    asks_both: bool
    defaults: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def write(self, name: str, text: str | bytes = "SELECT 1;\n") -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def parameters(self, given: Mapping[str, str]) -> dict[str, str]:
        url = self.server.url(self.connection.info.dbname)
        parameters = {
            "url": f"jdbc:{url.replace(f'{self.server.user}@', '')}",
            "user": self.server.user,
            "locations": f"filesystem:{self.folder}",
            **self.defaults,
            **given,
        }
        return {
            key: value.replace("{folder}", str(self.folder)) for key, value in parameters.items()
        }

    def run(self, command: str, **given: str) -> bool:
        """Let the runner whose turn it is run `command`; parameters by Flyway's names."""
        parameters = self.parameters({key.replace("__", "."): v for key, v in given.items()})
        outcome = self.turns(len(self.steps)).run(command, parameters)
        self.errors.append(outcome.error)
        told = self.ours.run("info", parameters)
        if self.asks_both:
            flyways = self.real.run("info", parameters)
            assert flyways.ok == told.ok, f"info after {command}: {flyways}, {told}"
            assert flyways.states == told.states, _difference(flyways.states, told.states)
        self.steps.append(
            Step(command, outcome.ok, self._history(), told.states, *self._contents())
        )
        return outcome.ok

    def _tables(self) -> list[tuple[str, str]]:
        return [
            (schema, name)
            for schema, name in self.sql(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
            )
        ]

    def _history(self) -> list[Any]:
        table = self.defaults.get("table", DEFAULT_TABLE)
        rows: list[Any] = []
        for schema, name in self._tables():
            if name == table:
                query = SQL(
                    "SELECT {}, installed_rank, version, description, type, script, checksum,"
                    " installed_by, success FROM {} ORDER BY installed_rank"
                ).format(schema, Identifier(schema, name))
                rows += self._query(query)
        return rows

    def _contents(self) -> tuple[list[Any], dict[str, list[str]]]:
        table = self.defaults.get("table", DEFAULT_TABLE)
        rows = {}
        for schema, name in self._tables():
            if name != table:
                query = SQL("SELECT t::text FROM {} t ORDER BY 1").format(Identifier(schema, name))
                rows[f"{schema}.{name}"] = [row[0] for row in self._query(query)]
        return self.sql(STRUCTURE), rows

    def _query(self, query: Composed) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()


Scenario = Callable[[World], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Register a story; its name is the test's."""
    assert function.__name__ not in SCENARIOS
    SCENARIOS[function.__name__] = function
    return function


def play(
    name: str,
    server: PostgresServer,
    connection: psycopg.Connection,
    folder: Path,
    ours: Runner,
    real: Runner,
) -> None:
    """Tell the story to each cast and compare what came of it with the real Flyway's."""

    def tell(cast: str, turns: Callable[[int], Runner]) -> list[Step]:
        place = folder / "scripts"
        place.mkdir()
        connection.execute(RESET)
        world = World(server, connection, place, ours, real, turns, asks_both=cast == "real")
        SCENARIOS[name](world)
        # One path for all casts: it may be part of what is compared.
        place.rename(folder / cast)
        return world.steps

    expected = tell("real", lambda _: real)
    assert expected, "a scenario runs at least one command"
    half = len(expected) // 2
    casts: dict[str, Callable[[int], Runner]] = {"ours": lambda _: ours}
    if half:
        casts["ours, then real"] = lambda step: ours if step < half else real
        casts["real, then ours"] = lambda step: real if step < half else ours
    for cast, turns in casts.items():
        steps = tell(cast, turns)
        for number, (one, other) in enumerate(zip(expected, steps, strict=True), 1):
            assert one == other, f"{cast}, step {number}: {_difference(vars(one), vars(other))}"


def _difference(expected: object, found: object) -> str:
    one, other = (pprint.pformat(value, width=160).splitlines() for value in (expected, found))
    return "\n" + "\n".join(difflib.unified_diff(one, other, "flyway", "ours", lineterm="", n=1))
