"""What the dashboard reads: the right points, in connections that cannot write and come back."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from dashboards import HOSTILE, SCRIPT, fill
from servers import PostgresServer
from tsrollup.dashboard import chart, queries, series
from tsrollup.dashboard.database import APPLICATION, Database, Questions, Reader
from tsrollup.dashboard.queries import Connection
from tsrollup.errors import TsrollupError

pytestmark = pytest.mark.spread


@pytest.fixture
def reader(url: str) -> Iterator[Reader]:
    with closing(Reader(url, 10)) as found:
        yield found


@pytest.fixture
def url(server: PostgresServer, database: str, db: psycopg.Connection) -> str:
    fill(db)
    return server.url(database)


def extent_of(connection: Connection, name: str, view: series.View) -> series.Extent:
    found = next(x for x in queries.rollups(connection) if x.name == name)
    return series.extent(connection, found, view)


def test_what_only_reads_cannot_write(url: str, reader: Reader) -> None:
    with pytest.raises(TsrollupError, match="read-only transaction"):
        reader.ask(lambda c: c.execute("CREATE TABLE raw.mine (n integer)"))
    with pytest.raises(TsrollupError) as refused:
        asyncio.run(Database(url, may_write=False).act(lambda _: None))
    assert refused.value.hint == "start it with --write"


def test_a_lost_connection_is_made_anew(reader: Reader, db: psycopg.Connection) -> None:
    assert len(reader.ask(queries.rollups)) == 2
    db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = %s",
        [APPLICATION, db.info.dbname],
    )
    assert len(reader.ask(queries.rollups)) == 2


def test_a_query_that_takes_too_long_is_an_error_and_no_end(url: str) -> None:
    with closing(Reader(url, 1)) as reader:
        with pytest.raises(TsrollupError, match="statement timeout"):
            reader.ask(lambda c: c.execute("SELECT pg_sleep(30)"))
        assert len(reader.ask(queries.rollups)) == 2


def test_a_server_that_hangs_is_waited_for_once_and_asked_again(reader: Reader) -> None:
    goes_on = threading.Event()

    async def ask() -> None:
        questions = Questions(reader, 1)
        for _ in range(2):
            with pytest.raises(TsrollupError, match="the server does not answer"):
                await questions.ask(lambda _: goes_on.wait())
        goes_on.set()
        while questions.is_at_work:
            await asyncio.sleep(0.01)
        assert await questions.ask(lambda c: not c.closed)

    asyncio.run(asyncio.wait_for(ask(), 30))


def test_the_points_are_those_of_group_by_and_what_is_stale_is_told(
    reader: Reader, db: psycopg.Connection
) -> None:
    now = time.time()
    begin, end = now - 7200, now
    view = reader.ask(lambda c: series.view(c, "gold.readings_1m"))
    assert view
    assert (view.dimensions, view.metrics[0]) == (("device",), "row_count")

    def read(chosen: dict[str, list[str | None]]) -> series.Points:
        return reader.ask(
            lambda c: series.points(c, "silver.readings_1m", view, "temp_avg", begin, end, chosen)
        )

    for name in ("silver.readings_1m", f"silver.{sql.Identifier(HOSTILE).as_string()}"):
        extent = reader.ask(partial(extent_of, name=name, view=view))
        assert extent.first == pytest.approx(now - 3 * 3600, abs=3700)
        assert extent.last == pytest.approx(now, abs=7300)
    points = read({})
    told = {
        (one.key[0], at): value
        for one in points.series
        for at, value in zip(one.times, one.values, strict=True)
    }
    rows = db.execute(
        "SELECT device, extract(epoch FROM date_trunc('minute', ts))::float8, avg(temp)"
        " FROM raw.readings GROUP BY 1, 2 HAVING date_trunc('minute', min(ts))"
        "  BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
        [begin, end],
    ).fetchall()
    assert told == pytest.approx({(device, at): value for device, at, value in rows})
    assert points.groups == 3
    late = [(x, y) for x, y in points.stale if x <= now - 3600 <= y]
    assert [round(y - x) for x, y in late] == [60]
    assert {one.key for one in read({"device": ["d1", None]}).series} == {("d1",), (None,)}
    assert [one.key for one in read({"device": [SCRIPT]}).series] == [(SCRIPT,)]
    with pytest.raises(ValueError, match="no metric"):
        reader.ask(lambda c: series.points(c, "x", view, "1; DROP TABLE raw.readings", 0, 1, {}))


def test_what_no_double_holds_is_a_gap(reader: Reader, db: psycopg.Connection) -> None:
    db.execute('CREATE TABLE raw."far %" (ts timestamptz, "k %s" text, "v %" numeric)')
    for minute, value in enumerate(("1e318", "-1e-400", "NaN", "Infinity", "2.5")):
        db.execute(
            'INSERT INTO raw."far %%"'
            " VALUES (timestamptz 'epoch' + %s * interval '1 min', 'k', %s)",
            [minute, value],
        )
    db.execute(
        "SELECT silver.create_rollup_table('\"far %\"', 'silver', 'far %', '1 minute',"
        " dimensions => '{k %s}', metrics => '{\"v %\": [\"sum\"]}')"
    )
    view = reader.ask(lambda c: series.view(c, 'gold."far %"'))
    assert view
    told = reader.ask(lambda c: series.dimension_values(c, view, 0, 600))
    assert told == {"k %s": ["k"]}
    for by in (["k %s"], []):
        read = partial(
            series.points,
            rollup='silver."far %"',
            found=view,
            metric="v %_sum",
            begin=0,
            end=600,
            chosen={"k %s": ["k"]},
            by=by,
        )
        (line,) = reader.ask(read).series
        assert line.values == (None, 0, None, None, 2.5)


def test_lines_by_some_dimensions_are_those_of_group_by(
    reader: Reader, db: psycopg.Connection
) -> None:
    db.execute("CREATE TABLE raw.orders (ts timestamptz, shop text, customer text, amount float8)")
    db.execute(
        "INSERT INTO raw.orders SELECT now() - n * interval '1 min', 's' || n % 3, 'c' || n % 7,"
        " CASE WHEN n % 11 > 0 THEN n * n % 97 END FROM generate_series(1, 1000) AS n"
    )
    db.execute(
        "SELECT silver.create_rollup_table('orders', 'silver', 'orders_1h', '1 hour',"
        " dimensions => '{shop,customer}',"
        """ metrics => '{"amount": ["avg", "max", "count", "stddev", "p95", "last", "increase",
            "rate", "time_weighted_avg", {"name": "histogram", "bounds": [10, 50]},
            {"name": "custom", "as": "roots", "state": "sum(sqrt({value}))",
             "combine": "sum({state})", "finish": "{state}"}]}')"""
    )
    view = reader.ask(lambda c: series.view(c, "gold.orders_1h"))
    assert view
    now = time.time()

    def read(metric: str, by: list[str]) -> dict[tuple[str | None, ...], float | None]:
        points = reader.ask(
            lambda c: series.points(c, "silver.orders_1h", view, metric, now - 1e6, now, {}, by)
        )
        return {
            (*one.key, str(at)): value
            for one in points.series
            for at, value in zip(one.times, one.values, strict=True)
        }

    bucket = "extract(epoch FROM date_trunc('hour', ts))::float8::text"
    for by in (["shop"], ["customer"], []):
        columns = ", ".join([*by, bucket])
        for metric, aggregate in (
            ("row_count", "count(*)"),
            ("amount_avg", "avg(amount)"),
            ("amount_max", "max(amount)"),
            ("amount_count", "count(amount)"),
            ("amount_stddev", "stddev(amount)"),
            ("amount_roots", "sum(sqrt(amount))"),
        ):
            query = f"SELECT {columns}, {aggregate} FROM raw.orders GROUP BY {columns}"
            expected = {
                (*key, str(float(at))): value
                for *key, at, value in db.execute(query.encode()).fetchall()
            }
            assert read(metric, by) == pytest.approx(expected), (metric, by)
    assert len(read("amount_p95", ["shop"])) == len(read("amount_avg", ["shop"]))
    for metric in ("last", "increase", "rate", "time_weighted_avg"):
        with pytest.raises(TsrollupError, match=f"amount_{metric} of several groups"):
            read(f"amount_{metric}", ["shop"])
    assert read("amount_last", ["shop", "customer"])
    db.execute("ALTER TABLE raw.orders RENAME COLUMN amount TO price")
    db.execute("ALTER TABLE raw.orders DROP COLUMN price")
    with pytest.raises(TsrollupError, match='column "amount" does not exist'):
        read("amount_avg", ["shop"])


def test_a_chart_has_gaps_where_buckets_are_missing_and_no_more_groups_than_people_can_read(
    reader: Reader, db: psycopg.Connection
) -> None:
    db.execute(
        "INSERT INTO raw.readings SELECT now() - interval '30 minutes', 'x' || n, 1"
        " FROM generate_series(1, 50) AS n"
    )
    view = reader.ask(lambda c: series.view(c, "gold.readings_1m"))
    assert view
    points = reader.ask(
        lambda c: series.points(
            c, "silver.readings_1m", view, "temp_max", time.time() - 3600, time.time(), {}
        )
    )
    assert (len(points.series), points.groups) == (series.MOST_SERIES, 53)
    one = series.Series(("d",), (0.0, 60.0, 240.0), (1.0, float("nan"), 3.0))
    points = series.Points((one,), 1, ((0.0, 60.0),), True)
    utc = chart.on_clock(ZoneInfo("UTC"))
    drawn = chart.lines(points, "m", 0, 300, 60, chart.LIGHT, utc)
    assert drawn["series"][1]["data"] == [(0, 1.0), (60000, None), (120000, None), (240000, 3.0)]
    assert drawn["series"][0]["markArea"]["data"] == [[{"xAxis": 0}, {"xAxis": 60000}]]


def test_charts_go_by_the_clocks_of_a_zone() -> None:
    at = chart.on_clock(ZoneInfo("Europe/Berlin"))
    winter, summer = (datetime(2026, x, 1, tzinfo=UTC).timestamp() for x in (1, 7))
    assert at(winter) - winter * 1000 == 3_600_000
    assert at(summer) - summer * 1000 == 7_200_000
    assert at(-1e14) < at(1e14)
