"""Through a pooler in transaction mode: every transaction may have another server connection."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from command_line import start_tsrollup, tsrollup
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PGBOUNCER, PostgresServer, free_port, new_pool_folder
from tsrollup.embedded.account import account_for

pytestmark = pytest.mark.spread

Pooled = Callable[[str], str]


@pytest.fixture(params=[1, 5])
def pooled(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Pooled]:
    """The URL of a database through a pgbouncer with so many connections for each database."""
    if not PGBOUNCER:
        pytest.skip("needs pgbouncer")
    folder, port = new_pool_folder(), free_port()
    account = account_for(folder)
    behind = conninfo_to_dict(server.conninfo)
    (folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"* = host={behind['host']} port={behind['port']} user={server.user}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {request.param}\n"
    )
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [PGBOUNCER, folder / "pgbouncer.ini"],
            stdout=log,
            stderr=log,
            **account.subprocess_arguments(),
        ) as pooler,
    ):
        while " up: " not in (folder / "log").read_text():
            assert pooler.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        yield lambda database: f"postgresql://{server.user}@127.0.0.1:{port}/{database}"
        pooler.terminate()
    shutil.rmtree(folder)


def test_the_migrations_and_every_command(
    pooled: Pooled, make_database: Callable[..., str]
) -> None:
    url = pooled(make_database())
    migrated = tsrollup("migrate", url=url)
    assert migrated.code == 0, migrated.err
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
        connection.execute("INSERT INTO raw.readings VALUES ('2026-01-01 00:30+00', 1)")
    for command in (
        "info", "validate", "create readings readings_1h 1h", "run", "status", "log",
        "refresh readings_1h 2026-01-01 2026-01-02", "doctor", "drop readings_1h",
    ):  # fmt: skip
        done = tsrollup(*command.split(), url=url)
        assert done.code == 0, f"{command}: {done.err}"


def test_two_workers_beside_writers_leave_nothing_behind(
    pooled: Pooled, connect: Callable[..., psycopg.Connection], database: str
) -> None:
    db = connect()
    db.execute("CREATE TABLE raw.readings (ts timestamptz, device integer, n integer)")
    url = pooled(database)
    created = tsrollup("create", "readings", "readings_1h", "1 hour", "-d", "device", url=url)
    assert created.code == 0, created.err
    workers = [
        start_tsrollup(
            "worker", "--every", "0.1", "--retry-every", "1", "--maintain-every", "1", url=url
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout
            assert "working on" in worker.stdout.readline()
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as writer:
            for i in range(30):
                writer.execute(
                    "INSERT INTO raw.readings SELECT '2026-01-01 00:00+00'::timestamptz"
                    " + n * interval '10 minutes', n %% 4, %s FROM generate_series(1, 50) AS n",
                    [i],
                )
                assert_equal_to_group_by(db, "readings_1h")
        while db.execute("SELECT isempty(rollup_engine.stale_set(1))").fetchone() != (True,):
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        printed = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    assert "failed" not in "".join(printed), printed
    assert_settled(db, "readings_1h")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as stranger:
        for _ in range(10):
            row = stranger.execute(
                "SELECT current_setting('search_path'), current_setting('lock_timeout'),"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                "  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
            ).fetchone()
            assert row == ('"$user", public', "0", 0)
