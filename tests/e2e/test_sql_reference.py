"""Everything public in SQL has a comment, and docs/sql-reference.md is made of those comments.

TSROLLUP_UPDATE_DOCS=1 (`make docs`) writes the page anew.
"""

import os
import re
from pathlib import Path

import psycopg

PAGE = Path(__file__).parents[2] / "docs" / "sql-reference.md"

HEAD = """\
# SQL reference

Made from the comments in the database: `\\df+ silver.*` and `\\d+ silver.*` show the same.
Table names are read as SQL identifiers; `target` names a rollup by its table, its live view or
its bare name.
"""

SHORTER = {
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    r"::[a-z]+(\[\])?": "",
    " DEFAULT ": " = ",
    r"\bIN ": "",
}

FUNCTIONS = """
SELECT p.prokind, p.proname, pg_get_function_arguments(p.oid),
       coalesce(
           (SELECT 'TABLE(' || string_agg(
                attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) || ')'
            FROM pg_attribute
            WHERE attrelid = t.typrelid AND t.typnamespace = 'rollup_engine'::regnamespace),
           pg_get_function_result(p.oid)),
       obj_description(p.oid, 'pg_proc')
FROM pg_proc AS p JOIN pg_type AS t ON t.oid = p.prorettype
WHERE p.pronamespace = 'silver'::regnamespace
ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C"
"""

RELATIONS = """
SELECT c.relname, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END,
       obj_description(c.oid, 'pg_class'),
       (SELECT array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod),
                               col_description(c.oid, a.attnum)] ORDER BY a.attnum)
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class AS c
WHERE c.relnamespace = 'silver'::regnamespace AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.relname COLLATE "C"
"""

AGGREGATES = """
SELECT name,
    coalesce(
        (SELECT array_agg(DISTINCT key) FROM json_object_keys((array_agg(outputs))[1]) AS key),
        ARRAY[name]),
    array_agg(DISTINCT takes COLLATE "C"),
    string_agg(DISTINCT regexp_replace(array_to_string(states, ', '), ':[^,]*', '', 'g'), ' or ')
FROM rollup_engine.aggregate GROUP BY name ORDER BY name COLLATE "C"
"""
KINDS = {
    "any": "any type",
    "number": "numbers",
    "exact": "numbers",
    "float": "numbers",
    "interval": "intervals",
    "boolean": "booleans",
    "plain": "what its text tells apart",
}


def test_everything_public_has_a_comment(db: psycopg.Connection) -> None:
    missing = [name for _, name, _, _, comment in db.execute(FUNCTIONS) if not comment]
    for name, _, comment, columns in db.execute(RELATIONS):
        missing += [] if comment else [name]
        missing += [f"{name}.{column}" for column, _, text in columns if not text]
    assert missing == []


def test_the_reference_page_is_up_to_date(db: psycopg.Connection) -> None:
    page = reference(db)
    if os.environ.get("TSROLLUP_UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run make docs"


def reference(connection: psycopg.Connection) -> str:
    lines = [HEAD, "## Functions", "", "| call | what it does |", "|---|---|"]
    for kind, name, arguments, result, comment in connection.execute(FUNCTIONS):
        call = f"silver.{name}({arguments})" + (f" → {result}" if result else "")
        for long, short in SHORTER.items():
            call = re.sub(long, short, call)
        note = {"p": "Procedure. ", "a": "Aggregate. "}.get(kind, "")
        lines.append(f"| `{cell(call)}` | {note}{cell(comment)} |")
    lines += ["", "## Aggregates", "", "What `metrics` may ask for.", ""]
    lines += ["| aggregate | column in gold | takes | stored as |", "|---|---|---|---|"]
    for name, outputs, kinds, states in connection.execute(AGGREGATES):
        columns = ", ".join(f"`<column>_{x}`" for x in outputs)
        takes = ", ".join(sorted({KINDS[kind] for kind in kinds}, reverse=True))
        row = f"| `{name}` | {columns} | {takes} | {states} |"
        label = "geomean" if name == "custom" else "p95"
        lines.append(row.replace("{label}", label).replace("pN", "p95"))
    for name, kind, comment, columns in connection.execute(RELATIONS):
        lines += ["", f"## {kind.capitalize()} `silver.{name}`", "", cell(comment), ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{column}` | {type_} | {cell(text)} |" for column, type_, text in columns]
    return "\n".join(lines) + "\n"


def cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
