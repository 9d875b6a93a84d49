"""The demo, on every server; and again, on the embedded one."""

from collections.abc import Callable

import psycopg
import pytest

from command_line import tsrollup
from servers import PostgresServer
from tsrollup.demo.comparison import compare
from tsrollup.demo.definitions import ROLLUPS


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
