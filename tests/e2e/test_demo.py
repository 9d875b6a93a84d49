"""The demo, on every server; and again, on the embedded one."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from command_line import start_tsrollup, tsrollup
from dashboards import free_port, get
from servers import PostgresServer, new_pool_folder
from tsrollup import embedded
from tsrollup.demo.comparison import compare
from tsrollup.demo.definitions import ROLLUPS

pytestmark = pytest.mark.spread


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_ends_well_and_leaves_exact_rollups(
    server: PostgresServer, make_database: Callable[..., str], template: str
) -> None:
    url = server.url(make_database(template))
    for _ in range(2 if server.name == "embedded" else 1):
        shown = tsrollup("demo", url=url)
        assert shown.code == 0, shown.err + shown.out
        assert "336,776" in shown.out.replace("336776", "336,776")
        assert "26,115" in shown.out.replace("26115", "26,115")
        assert url in shown.out

    with psycopg.connect(url, autocommit=True) as connection:
        found = compare(connection)
        assert connection.execute("SELECT count(*) FROM silver.error_log").fetchone() == (0,)
    assert [one.rollup for one in found] == [rollup.table for rollup in ROLLUPS]
    for one in found:
        assert one.groups > 0
        assert (one.gold_differs, one.table_differs) == (0, 0), one


def test_the_demo_leaves_a_table_alone_that_it_did_not_make(
    server: PostgresServer, database: str
) -> None:
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        connection.execute("CREATE TABLE raw.flights (mine integer)")
        refused = tsrollup("demo", url=server.url(database))
        connection.execute("TABLE raw.flights")
    assert refused.code == 1
    assert "raw.flights" in refused.err


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = new_pool_folder()
    yield parent / "data"
    embedded.stop(parent / "data")
    shutil.rmtree(parent)


MOST_RECENT = "SELECT count(*), max(bucket) > now() - interval '20 s' FROM silver.sensors_10s"
DIFFERING = """
WITH told AS (SELECT bucket, device, row_count, temperature_max FROM gold.sensors_10s),
    counted AS (
        SELECT silver.time_bucket('10 s', at), device, count(*), max(temperature)
        FROM raw.sensors GROUP BY 1, 2)
SELECT count(*) FROM (
    (TABLE told EXCEPT ALL TABLE counted) UNION ALL (TABLE counted EXCEPT ALL TABLE told)) AS d
"""


@pytest.mark.timeout(300)
def test_the_live_demo_comes_back_after_its_worker_and_its_server_were_killed(
    data_dir: Path,
) -> None:
    port = free_port()
    demo = start_tsrollup(
        "demo", "--live", "--port", str(port), TSROLLUP_DATA_DIR=str(data_dir)
    )  # fmt: skip
    try:
        assert demo.stdout
        said = ""
        while "Ctrl-C ends it" not in said:
            line = demo.stdout.readline()
            assert line, said
            said += line
        page = "/rollup?name=silver.sensors_10s"
        assert f"http://localhost:{port}{page}" in said
        assert fresh(data_dir)
        os.kill(worker_of(demo.pid), signal.SIGKILL)
        postmaster = embedded.status(data_dir).pid
        assert postmaster
        os.kill(postmaster, signal.SIGKILL)
        time.sleep(3)
        assert fresh(data_dir)
        server = embedded.status(data_dir).server
        assert server
        with psycopg.connect(server.url) as connection:
            assert connection.execute(DIFFERING).fetchone() == (0,)
        shown = get(f"http://127.0.0.1:{port}/", page)
        assert "gold.sensors_10s" in shown.text
        worker = worker_of(demo.pid)
        demo.send_signal(signal.SIGTERM)
        rest, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 0, rest
    assert "the worker" in rest
    assert "Traceback" not in rest
    assert not Path(f"/proc/{worker}").exists()


def fresh(data_dir: Path) -> bool:
    """Waits until rows of the last moments are stored."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        server = embedded.status(data_dir).server
        try:
            if server:
                with psycopg.connect(server.url) as connection:
                    row = connection.execute(MOST_RECENT).fetchone()
                    if row and row[1]:
                        return True
        except psycopg.OperationalError:
            pass
        time.sleep(0.5)
    return False


def worker_of(pid: int) -> int:
    """The worker among the children of a demo, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                with suppress(OSError):
                    if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        time.sleep(0.1)
    raise AssertionError("the demo has no worker")
