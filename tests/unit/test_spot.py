"""pgspot over every SQL script: what it finds is mended, or explained in spot.toml beside this.

It knows neither bodies in standard SQL, which are parsed when their function is made, nor fields of
variables whose row type only the database knows. What it cannot read there test_functions asks of
the database itself: every other body runs under a search_path of its own.
"""

import re
import tomllib
from argparse import Namespace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from pglast.parser import ParseError
from pgspot.state import Counter, State  # type: ignore[import-untyped]
from pgspot.visitors import visit_sql  # type: ignore[import-untyped]

from tsrollup.flyway.statements import split

SCRIPTS = sorted((Path(__file__).parents[2] / "src/tsrollup/pgdb/migrations").rglob("*.sql"))
EXPLAINED = tomllib.loads((Path(__file__).parent / "spot.toml").read_text())
STANDARD_BODY = re.compile(r"^(RETURN\b|BEGIN ATOMIC\b)", re.MULTILINE)


class Collected(Counter):  # type: ignore[misc]
    def __init__(self, *, plpgsql: bool) -> None:
        super().__init__(
            Namespace(ignore=[], ignore_lang=[], sql_fn=[], proc_without_search_path=[],
                      summary_only=False, plpgsql=plpgsql)
        )  # fmt: skip
        self.found: set[str] = set()

    def print_issue(self, code: str, context: str) -> None:
        self.found.add(f"{code} {context.split('(')[0]}")

    def unknown(self, message: str) -> None:
        self.found.add(message)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_pgspot_finds_nothing_that_is_not_explained(script: Path) -> None:
    text = re.sub(r"\$\{(\w+)\}", r"tsrollup_\1", script.read_text())
    found: set[str] = set()
    path = ""
    for statement in split(text):
        if statement.text.startswith("SET LOCAL search_path"):
            path = f"{statement.text};\n"
        found |= spot(path + statement.text)
    explained = EXPLAINED.get(script.stem, [])
    assert all(each["reason"] for each in explained)
    if script.name.startswith("R__"):
        found = {finding for finding in found if not is_explained_for_all(finding)}
    assert found == {finding for each in explained for finding in each["found"]}


def is_explained_for_all(finding: str) -> bool:
    patterns = [pattern for each in EXPLAINED["repeatable"] for pattern in each["found"]]
    return any(fnmatchcase(finding, pattern) for pattern in patterns)


def test_pgspot_sees_what_is_wrong() -> None:
    assert spot("CREATE FUNCTION raw.f(a int) RETURNS int LANGUAGE sql AS 'SELECT lower(a)'")
    assert spot("SET LOCAL search_path = pg_catalog, pg_temp; DO $$BEGIN PERFORM 1; END$$") == set()


def spot(sql: str) -> set[str]:
    if STANDARD_BODY.search(sql):
        return set()
    for plpgsql in (True, False):
        collected = Collected(plpgsql=plpgsql)
        try:
            visit_sql(State(collected), sql, toplevel=True)
        except ParseError:
            if not plpgsql:
                raise
        else:
            return collected.found
    return set()
