"""A release after this one: its scripts, and a database that it is to bring up."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

import tsrollup
from servers import PostgresServer
from tsrollup.flyway import MigrateResult, migrate
from tsrollup.migrations import project_configuration

LIVE_VIEW = "engine/R__320_live_view.sql"
OTHER_TEXT = ("SELECT bucket AS {bucket},", "SELECT ALL bucket AS {bucket},")

# What a migrate must not change behind anybody's back.
RIGHTS = """
    SELECT oid::regprocedure::text, prosecdef, provolatile,
           ARRAY(SELECT unnest(proconfig) ORDER BY 1), ARRAY(SELECT unnest(proacl)::text ORDER BY 1)
    FROM pg_proc WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
    ORDER BY 1
"""


@dataclass(frozen=True)
class NextRelease:
    """The foundational scripts in a folder of their own."""

    url: str
    folder: Path

    def edit(self, script: str, old: str, new: str) -> None:
        path = self.folder / "timeseries" / script
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def migrate(self) -> MigrateResult:
        locations = [f"filesystem:{self.folder}/{part}" for part in ("initial-setup", "timeseries")]
        with project_configuration("foundational", self.url) as configuration:
            return migrate(replace(configuration, locations=tuple(locations)))


def copy_scripts(server: PostgresServer, database: str, tmp_path: Path) -> NextRelease:
    scripts = Path(tsrollup.__file__).parent / "pgdb/migrations/foundational"
    shutil.copytree(scripts, tmp_path / "foundational")
    return NextRelease(server.url(database), tmp_path / "foundational")


def fill(db: psycopg.Connection) -> psycopg.Connection:
    """Two levels, and a late row that no run has seen."""
    for statement in (
        "CREATE TABLE raw.readings (ts timestamptz NOT NULL, device int, temp numeric)",
        "INSERT INTO raw.readings SELECT '2026-03-01'::timestamptz + n * interval '7 minutes',"
        " n % 3, n FROM generate_series(1, 1000) AS n",
        "SELECT silver.create_rollup_table('raw.readings', 'silver', 'readings_1h', '1 hour',"
        " dimensions => '{device}')",
        "SELECT silver.create_rollup_table('silver.readings_1h', 'silver', 'readings_1d', '1 day')",
        "CALL silver.run_rollups()",
        "INSERT INTO raw.readings VALUES ('2026-03-02 03:04', 1, 7)",
    ):
        db.execute(statement.encode())
    return db


def heard(connection: psycopg.Connection) -> list[str]:
    """What the server says from now on."""
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    return notices
