"""Who imports whom: the seams between folders, and what they need from outside."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tsrollup.installation import FOR_NO_ROWS, NO_ROWS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tsrollup"

# What a folder may take from the rest of the package.
SEAMS = {
    "tsrollup.flyway": {"tsrollup.connection", "tsrollup.errors"},
    "tsrollup.embedded": {"tsrollup.errors"},
    "tsrollup.console": set(),
    "tsrollup.rollups": {"tsrollup.connection", "tsrollup.errors"},
}


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }


def imported(module: str) -> Iterator[str]:
    """Every module that one imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            submodules = [f"{name}.{alias.name}" for alias in node.names]
            own = [submodule for submodule in submodules if submodule in modules()]
            yield from own
            if len(own) < len(submodules):
                yield name


def graph() -> dict[str, set[str]]:
    return {name: {x for x in imported(name) if x in modules()} - {name} for name in modules()}


def test_no_module_leads_back_to_itself() -> None:
    left = graph()
    while leaves := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert left == {}


@pytest.mark.parametrize("folder", SEAMS)
def test_a_folder_knows_only_what_lies_below_it(folder: str) -> None:
    inside = {name for name in modules() if name == folder or name.startswith(f"{folder}.")}
    assert inside
    taken = {need for name in inside for need in graph()[name]} - inside
    assert taken <= SEAMS[folder]


def test_nothing_but_the_command_line_knows_the_commands() -> None:
    for name, needs in graph().items():
        if name != "tsrollup.cli" and not name.startswith("tsrollup.commands"):
            assert [need for need in needs if need.startswith("tsrollup.commands")] == [], name


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dashboard"], *extras["data"], *extras["archive"]]
    declared = {re.split(r"[^\w.-]", text)[0] for text in wanted}
    outside = {
        need.partition(".")[0] for name in modules() for need in imported(name)
    } - sys.stdlib_module_names
    providers = importlib.metadata.packages_distributions()
    assert {providers[x][0] for x in outside - {"tsrollup"}} == declared


def test_who_owns_what_is_asked_by_one_text() -> None:
    """Callbacks include nothing, and each command has its own: the same stands in three."""
    for folder in ("foundational/initial-setup", "postgres"):
        files = list((PACKAGE / "pgdb" / "migrations" / folder).glob("before*__check_owners.sql"))
        assert len(files) == 3
        assert len({file.read_text() for file in files}) == 1


def test_a_schema_without_its_rows_is_told_of_in_one_way() -> None:
    """Before a migrate no function is sure to be there, so that the callback says it again."""
    (callback,) = PACKAGE.rglob("beforeMigrate__refuse_missing_rows.sql")
    for said in (NO_ROWS, FOR_NO_ROWS):
        assert said.replace("'", "''") in callback.read_text()
