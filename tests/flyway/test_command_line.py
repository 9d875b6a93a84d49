"""The real command line against ours: exit codes, JSON, info's table, sources of parameters."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flyway.runners import run_flyway
from flyway.scenario import RESET
from servers import PostgresServer
from tsrollup import flyway

HISTORY = """
SELECT installed_rank, version, description, type, script, checksum, installed_by, success
FROM {}.{} ORDER BY installed_rank
"""

CONF = r"""
# A comment, and ! another one.
flyway.url = ${DATABASE_URL}
flyway.user: postgres
   flyway.locations=filesystem:migrations
flyway.schemas app
flyway.placeholders.who=con\
f
flyway.placeholders.path=C:\new\u0041
"""

TOML = """
[flyway]
environment = "dev"
locations = ["filesystem:migrations"]
cleanDisabled = false
[flyway.placeholders]
who = "toml"
[environments.dev]
url = "{url}"
user = "postgres"
schemas = ["app"]
[environments.prod]
url = "{url}"
user = "postgres"
schemas = ["prod", "more"]
"""


@dataclass
class Done:
    """What a command line left behind."""

    status: int
    out: str
    err: str
    tables: dict[str, list[Any]]


@dataclass
class Shell:
    """Runs the same command line with both, from the same folder on the same empty database."""

    connection: psycopg.Connection
    url: str
    folder: Path
    home: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def both(self, *lines: str) -> list[tuple[Done, Done]]:
        """Run each line first with Flyway, then, on a database emptied again, with ours."""
        told: list[list[Done]] = []
        for run in (self._flyway, self._ours):
            self.connection.execute(RESET)
            told.append([run(line.format(url=self.url).split()) for line in lines])
        return list(zip(*told, strict=True))

    def _variables(self) -> dict[str, str]:
        return {"HOME": str(self.home), "DATABASE_URL": self.url, **self.environment}

    def _flyway(self, words: list[str]) -> Done:
        done = run_flyway(*words, cwd=self.folder, **self._variables())
        return Done(done.returncode, done.stdout, done.stderr, self._tables())

    def _ours(self, words: list[str]) -> Done:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self._variables().items():
                patch.setenv(name, value)
            self.capture.readouterr()
            status = flyway.main(words)
        told = self.capture.readouterr()
        return Done(status, told.out, told.err, self._tables())

    def _tables(self) -> dict[str, list[Any]]:
        tables: dict[str, list[Any]] = {}
        for schema, table in self.connection.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
        ).fetchall():
            rows: list[Any] = []
            if table.startswith("flyway_"):
                rows = self.connection.execute(HISTORY.format(schema, table).encode()).fetchall()
            tables[f"{schema}.{table}"] = rows
        return tables


@pytest.fixture
def shell(
    real_flyway: Path,  # noqa: ARG001
    one_server: PostgresServer,
    stage: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    url = one_server.url(stage.info.dbname).replace("postgres@", "")
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    shell = Shell(stage, f"jdbc:{url}", tmp_path / "work", tmp_path / "home", monkeypatch, capsys)
    shell.write("migrations/V1__table.sql", "CREATE TABLE a_${who} (i int);\n")
    shell.write("migrations/V2__more.sql", "SELECT 1 AS one, NULL AS nothing;\n")
    shell.write("migrations/R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT '${who}' AS who;\n")
    return shell


def assert_alike(pairs: list[tuple[Done, Done]]) -> None:
    for real, ours in pairs:
        assert ours.status == real.status, f"{real.err}\n---\n{ours.err}"
        assert ours.tables == real.tables


def test_conf_file(shell: Shell) -> None:
    shell.write("a.conf", CONF)
    pairs = shell.both("-configFiles=a.conf migrate", "-configFiles=a.conf info")
    assert_alike(pairs)
    assert "app.a_conf" in pairs[0][1].tables


def test_arguments_beat_variables_and_these_beat_files(shell: Shell) -> None:
    shell.write("flyway.conf", "flyway.placeholders.who=default\nflyway.table=flyway_default\n")
    shell.write("a.conf", CONF)
    shell.write("b.conf", "flyway.placeholders.who=second\n")
    shell.environment["FLYWAY_CONFIG_FILES"] = "a.conf"
    pairs = shell.both("-configFiles=b.conf migrate")
    assert_alike(pairs)
    assert {"app.a_second", "app.flyway_default"} <= pairs[0][1].tables.keys()
    shell.environment["FLYWAY_PLACEHOLDERS_WHO"] = "variable"
    shell.environment["FLYWAY_NO_SUCH_THING"] = "ignored"
    pairs = shell.both("-configFiles=b.conf migrate")
    assert_alike(pairs)
    assert "app.a_variable" in pairs[0][1].tables
    pairs = shell.both("-configFiles=b.conf -placeholders.who=argument migrate")
    assert_alike(pairs)
    assert "app.a_argument" in pairs[0][1].tables


def test_toml_and_its_environments(shell: Shell) -> None:
    shell.write("flyway.toml", TOML.replace("{url}", shell.url))
    shell.write("flyway.user.toml", '[flyway.placeholders]\nwho = "user"\n')
    pairs = shell.both("migrate", "-environment=prod -placeholders.who=x migrate clean")
    assert_alike(pairs)
    assert "app.a_user" in pairs[0][1].tables
    assert_alike(shell.both("-environment=nowhere info"))


def test_toml_environments_in_detail(shell: Shell) -> None:
    text = TOML.replace("{url}", shell.url).replace('user = "postgres"', 'user = "${env.WHO}"')
    shell.write(
        "flyway.toml", text + 'anything = 1\n[environments.prod.flyway]\ntable = "flyway_p"\n'
    )
    shell.environment["WHO"] = "postgres"
    pairs = shell.both(
        "migrate",
        "-environment=prod migrate",
        "-environments.dev.schemas=other migrate",
        "-environments.new.url={url} -environments.new.user=postgres -environment=new migrate",
    )
    assert_alike(pairs)
    assert {"prod.flyway_p", "other.a_toml", "public.a_toml"} <= pairs[-1][1].tables.keys()


def test_config_files_start_at_the_working_directory(shell: Shell) -> None:
    shell.write("a.conf", CONF)
    shell.write("inner/a.conf", CONF + "flyway.table=flyway_inner\n# \u00e9\n")
    inner = shell.folder / "inner" / "a.conf"
    inner.write_bytes(inner.read_text().encode("latin-1"))
    shell.write("inner/migrations/V7__x.sql", "SELECT 1;\n")
    pairs = shell.both("-workingDirectory=inner -configFiles=a.conf migrate")
    assert_alike(pairs)
    assert "app.flyway_inner" in pairs[0][1].tables
    shell.environment["FLYWAY_WORKING_DIRECTORY"] = "inner"
    pairs = shell.both("-configFiles=a.conf migrate")
    assert_alike(pairs)
    assert "app.flyway_schema_history" in pairs[0][1].tables


def test_locations_without_a_scheme(shell: Shell) -> None:
    line = "-url={url} -user=postgres -placeholders.who=x -locations=migrations migrate -v"
    pairs = shell.both(line)
    assert_alike(pairs)
    assert "public.a_x" in pairs[0][1].tables


def test_warnings_about_locations_are_told_once(shell: Shell) -> None:
    ours = shell.both("-url={url} -user=postgres -locations=filesystem:nowhere migrate")[0][1]
    assert ours.status == 0
    assert ours.err.count("nowhere") == 1


def test_working_directory(shell: Shell) -> None:
    shell.write("inner/sql/V1__x.sql", "CREATE TABLE inside (i int);\n")
    shell.write("inner/other/V2__y.sql", "CREATE TABLE other (i int);\n")
    line = "-url={url} -user=postgres -workingDirectory=inner"
    pairs = shell.both(f"{line} migrate", f"{line} -locations=filesystem:other info migrate")
    assert_alike(pairs)
    assert "public.inside" in pairs[0][1].tables


@pytest.mark.parametrize(
    "line",
    [
        "-configFiles=a.conf nonsense",
        "-configFiles=a.conf -nonsense=1 info",
        "-configFiles=a.conf -mixed=perhaps info",
        "-configFiles=unknown.conf info",
        "-configFiles=a.conf,flyway.toml info",
        "-configFiles=a.conf -cherryPick=1 migrate",
        "-configFiles=a.conf undo",
        "-configFiles=a.conf -flyway.mixed=true info",
        "-configFiles=a.conf -mixed=true -mixed=true info",
        "-configFiles=a.conf -outputType=text info",
        "-configFiles=a.conf -undoSqlMigrationPrefix=U info",
        "-configFiles=a.conf -target= info",
        "-configFiles=directory.conf info",
    ],
)
def test_wrong_usage(shell: Shell, line: str) -> None:
    shell.write("a.conf", CONF)
    shell.write("unknown.conf", CONF + "flyway.nonsense=1\n")
    shell.write("directory.conf", CONF + "flyway.workingDirectory=inner\n")
    shell.write("x.toml", TOML.replace("{url}", shell.url))
    pairs = shell.both(line.replace("flyway.toml", "x.toml"))
    assert_alike(pairs)
    assert pairs[0][1].status != 0
    assert pairs[0][1].err.startswith("ERROR: ")


def test_failed_connection(shell: Shell) -> None:
    assert_alike(shell.both("-url=jdbc:postgresql://127.0.0.1:1/none -user=postgres info"))


def table_of(text: str) -> list[str]:
    """The lines of info's table, without the times."""
    return [
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "time", line)
        for line in text.splitlines()
        if line.startswith(("+", "|", "Schema version"))
    ]


def test_table_of_info(shell: Shell) -> None:
    shell.write("a.conf", CONF)
    shell.write("migrations/V1_5__later.sql", "SELECT 1;\n")
    for real, ours in shell.both(
        "-configFiles=a.conf info",
        "-configFiles=a.conf -target=1 migrate",
        "-configFiles=a.conf -outOfOrder=true migrate info",
        "-configFiles=a.conf -locations=filesystem:migrations/none info",
        "-configFiles=a.conf -q info",
        "-configFiles=a.conf -table=flyway_other baseline info",
    ):
        assert table_of(ours.out) == table_of(real.out)
        assert ours.status == real.status == 0


SCRUBBED = {"timestamp", "installedOnUTC", "exception"}
OUR_WORDS = {
    "executionTime", "totalMigrationTime", "message", "errorMessage", "allErrorMessages", "cause",
    "stackTrace", "lineNumber", "path", "warnings",
}  # fmt: skip


def scrub(value: Any) -> Any:
    """A JSON document without times and without texts, which are in our own words."""
    if isinstance(value, Mapping):
        return {
            key: bool(item) if key in SCRUBBED else "" if key in OUR_WORDS else scrub(item)
            for key, item in value.items()
        }
    return [scrub(item) for item in value] if isinstance(value, list) else value


def test_json_of_every_command(shell: Shell) -> None:
    shell.write("a.conf", CONF)
    line = "-configFiles=a.conf -outputType=json"
    pairs = shell.both(
        f"{line} info",
        f"{line} validate",
        f"{line} -schemas=one,two info",
        f"{line} -target=1 migrate",
        f"{line} validate",
        f"{line} -placeholders.who=other validate",
        f"{line} migrate info",
        f"{line} repair",
        f"{line} baseline",
        f"{line} clean",
        f"{line} -cleanDisabled=false clean",
        f"{line} -baselineVersion=7 baseline",
    )
    for real, ours in pairs:
        assert ours.status == real.status
        assert scrub(json.loads(ours.out)) == scrub(json.loads(real.out))


def test_json_of_failures(shell: Shell) -> None:
    shell.write("a.conf", CONF)
    shell.write("migrations/V3__bad.sql", "SELECT 1/0;\n")
    shell.write("more/V1__again.sql", "SELECT 1;\n")
    shell.write("more/R__bad.sql", "SELECT 1/0;\n")
    shell.write("more/inner/R__bad.sql", "SELECT 1;\n")
    line = "-configFiles=a.conf -outputType=json"
    pairs = shell.both(
        f"{line} migrate",
        f"{line} info migrate clean",
        f"{line} -placeholders.who= validate",
        f"{line} -mixed=maybe info",
        f"{line} -table=other migrate",
        f"{line} -locations=filesystem:migrations,filesystem:more info",
        f"{line} -locations=filesystem:more info",
        f"{line} -locations=filesystem:more/inner,filesystem:more migrate",
        f"{line} -url=jdbc:postgresql://127.0.0.1:1/none info",
        f"{line} undo",
        f"{line} nonsense",
    )
    for real, ours in pairs:
        assert ours.status == real.status
        one, other = json.loads(ours.out), json.loads(real.out)
        assert one.keys() == other.keys()
        assert one.get("targetSchemaVersion") == other.get("targetSchemaVersion")
        if "error" in other:
            assert one["error"]["errorCode"] == other["error"]["errorCode"]
