"""Releases kept as test data: a plain dump of a database that each migrated and scene.sql filled.

When a release is made: python tests/kept_releases.py writes its own, from PostgreSQL 15.
"""

import gzip
import re
import subprocess
from pathlib import Path

import psycopg

import tsrollup
from servers import TEST_ROLE, PostgresServer, ServerPool, bindir_of, new_pool_folder
from tsrollup.migrations import migrate_project

FOLDER = Path(__file__).parent / "releases"
SUFFIX = ".sql.gz"
# Those of the scene; of the sixth one bucket cannot be computed.
VIEWS = ("readings_15m", "readings_1h", "readings_1mon", '"Odd 1d"', "polled_1w")


def kept_releases() -> list[str]:
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def play_scene(server: PostgresServer, url: str) -> None:
    """By psql, which sends one statement after the other, as run_rollups needs it."""
    scene = FOLDER / "scene.sql"
    run_program(server, "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", str(scene), url)


def restore_release(version: str, superuser_url: str, without: str = "") -> None:
    """As it is, or without the lines that a pattern finds."""
    dump = gzip.decompress((FOLDER / f"{version}{SUFFIX}").read_bytes()).decode()
    kept = [line for line in dump.splitlines(True) if not without or not re.match(without, line)]
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute("".join(kept).encode())


def run_program(server: PostgresServer, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [bindir_of(server) / program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    pool = ServerPool(new_pool_folder(), None)
    try:
        server = pool.get("debian15")
        # An ordinary role's: without the extensions that only a superuser may create.
        database = server.create_database()
        migrate_project(server.url(database))
        play_scene(server, server.url(database))
        dump = run_program(server, "pg_dump", "--inserts", server.superuser_url(database))
    finally:
        pool.stop_all()
    lines = [line for line in dump.splitlines(keepends=True) if not line.startswith("\\")]
    text = "".join(lines).replace(TEST_ROLE, "postgres")
    kept = FOLDER / f"{tsrollup.__version__}{SUFFIX}"
    kept.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{kept}: {kept.stat().st_size} bytes")


if __name__ == "__main__":
    main()
