"""The Python API: what it makes, refreshes and reads is what SQL says; errors have classes."""

import asyncio
import inspect
import itertools
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tsrollup
from rollup_checks import assert_equal_to_group_by, assert_settled
from servers import PostgresServer
from tsrollup.archives import Archive

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(hours=3)


@pytest.fixture
def db(server: PostgresServer, database: str) -> Iterator[tsrollup.Database]:
    with tsrollup.connect(server.url(database)) as db:
        db.connection.execute(
            'CREATE TABLE raw.r (ts timestamptz, "Device" text, temp integer, cost numeric)'
        )
        db.connection.execute(
            "INSERT INTO raw.r SELECT t, CASE n WHEN 3 THEN NULL ELSE 'd' || n END, n, n + 0.5"
            " FROM generate_series(1, 3) AS n, generate_series('2026-01-01 00:00+00'::timestamptz,"
            "  '2026-01-01 02:59+00', '10 minutes') AS t"
            " WHERE t < '2026-01-01 01:00+00' OR t >= '2026-01-01 02:00+00'"
        )
        yield db


@pytest.fixture
def hourly(db: tsrollup.Database) -> tsrollup.Rollup:
    return db.create_rollup(
        "r",
        "hourly",
        timedelta(hours=1),
        dimensions=["Device"],
        metrics={"temp": ["avg", "max"], "cost": ["sum"]},
    )


def test_from_an_empty_database_to_a_rollup(
    server: PostgresServer, make_database: Callable[..., str]
) -> None:
    with tsrollup.connect(server.url(make_database())) as db:
        with pytest.raises(tsrollup.TsrollupError) as refused:
            db.rollups()
        assert refused.value.hint == "run tsrollup migrate"
        assert db.migrate() > 10
        assert db.migrate() == 0
        assert db.version == tsrollup.__version__
        assert db.rollups() == []


def test_a_run_tells_how_far_it_is(db: tsrollup.Database, hourly: tsrollup.Rollup) -> None:
    assert (hourly.table, hourly.view) == ("silver.hourly", "gold.hourly")
    batches = list(db.run())
    assert sum(batch.buckets for batch in batches) == 3
    assert batches[-1].progress == 1
    assert isinstance(batches[0].duration, timedelta)
    assert_settled(db.connection, "hourly")
    assert [rollup.table for rollup in db.rollups()] == ["silver.hourly"]


def test_status_is_typed(db: tsrollup.Database, hourly: tsrollup.Rollup) -> None:
    status = hourly.status()
    assert (status.health, status.stale_buckets) == ("lagging", 3)
    assert status.stale_since
    assert status.reason
    assert isinstance(status.lag, timedelta)
    hourly.pause()
    assert hourly.status().health == "paused"
    hourly.resume()
    list(db.run())
    assert (hourly.status().health, hourly.status().stale_since) == ("ok", None)
    monitor = "ALTER VIEW silver.timeseries_operations_monitor RENAME COLUMN {} TO {}"
    hourly.database.connection.execute(monitor.format("running_since", "missing").encode())
    with pytest.raises(tsrollup.TsrollupError, match="of an earlier release"):
        hourly.status()
    hourly.database.connection.execute(monitor.format("missing", "running_since").encode())


def test_rows_are_those_of_the_view(hourly: tsrollup.Rollup) -> None:
    rows = hourly.read(START, END, where={"Device": ["d1", None]}).rows()
    assert [(row["bucket"], row["Device"]) for row in rows] == [
        (START, "d1"),
        (START, None),
        (START + timedelta(hours=2), "d1"),
        (START + timedelta(hours=2), None),
    ]
    assert rows[0]["cost_sum"] == Decimal("9.0")
    assert len(hourly.read().rows()) == 6
    assert len(hourly.read(START, limit=2, columns=["temp_max"]).rows()[0]) == 1
    assert hourly.read("2030-01-01").rows() == []
    assert hourly.read(where={"Device": []}).rows() == []


@pytest.mark.usefixtures("hourly")
def test_operators_read_what_there_is(server: PostgresServer, database: str) -> None:
    role = f"t_operator_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN IN ROLE tsrollup_operator".encode())
        try:
            with tsrollup.connect(server.url(database, role)) as theirs:
                read = theirs.rollup("hourly").read
                assert len(read(where={"Device": "d1"}).rows()) == 2
                assert len(read(START, END, where={"Device": "d1"}, gapfill=True).rows()) == 3
        finally:
            superuser.execute(f"DROP ROLE {role}".encode())


def test_frames_hold_what_the_rows_hold(hourly: tsrollup.Rollup) -> None:
    answer = hourly.read(START, END)
    rows = [
        {k: float(v) if isinstance(v, Decimal) else v for k, v in row.items()}
        for row in answer.rows()
    ]
    assert answer.to_arrow().to_pylist() == rows
    assert answer.to_polars().to_dicts() == rows
    frame = answer.to_pandas()
    assert str(frame.dtypes["cost_sum"]) == "float64"
    assert frame.groupby("Device", dropna=False).cost_sum.sum().sum() == pytest.approx(90)
    empty = hourly.read("2030-01-01").to_arrow()
    assert (empty.num_rows, empty.schema) == (0, answer.to_arrow().schema)


def test_frames_hold_states_of_any_type(db: tsrollup.Database) -> None:
    db.connection.execute(
        "CREATE TABLE raw.all_types (ts timestamptz, n int, i interval, j jsonb, l numeric[],"
        " m int[], t text[], b bytea, v varchar[], s jsonb, r int4range);"
        "INSERT INTO raw.all_types SELECT timestamptz '2026-01-01 00:00+00' + k * interval '1 s',"
        " k, interval '90 s', '{\"a\": [1]}', '{1.5,NULL}', '{{1,2},{3,4}}', '{x}', 'ab', '{y}',"
        " '\"true\"', '[1,)'"
        " FROM generate_series(1, 300) AS k"
    )
    metrics = {"n": ["p95", "value_counts", "distinct"], "i": ["sum"]}
    metrics |= {name: ["last"] for name in ("j", "l", "m", "t", "b", "v", "s", "r")}
    rollup = db.create_rollup("all_types", "types_1h", "1 hour", metrics=metrics)
    answer = rollup.read()
    (row,) = answer.to_arrow().to_pylist()
    (told,) = answer.rows()
    assert row["n_sketch"] == told["n_sketch"]
    assert row["i_sum"] == timedelta(seconds=27000)
    assert (row["j_last"], row["l_last"]) == ('{"a": [1]}', [1.5, None])
    assert (row["m_last"], row["t_last"], row["b_last"]) == ("[[1, 2], [3, 4]]", ["x"], b"ab")
    assert (row["v_last"], row["s_last"], row["r_last"]) == (["y"], '"true"', "[1,)")
    assert json.loads(row["n_value_counts"]) == told["n_value_counts"]
    assert len(answer.to_pandas()) == len(answer.to_polars()) == 1
    list(db.run())
    assert rollup.read().to_arrow().equals(answer.to_arrow())
    empty = rollup.read("2030-01-01").to_arrow()
    assert empty.schema.remove(empty.schema.get_field_index("m_last")) == (
        answer.to_arrow().drop_columns("m_last").schema
    )


def test_groups_are_found_by_the_values_that_were_read(db: tsrollup.Database) -> None:
    found = db.connection.execute(
        "SELECT name FROM pg_available_extensions WHERE name IN ('citext', 'ltree')"
    ).fetchall()
    extensions = [row["name"] for row in found]
    types = [
        *("uuid", "date", "timestamptz", "numeric", "real", "float8", "bytea", "interval"),
        *("inet", "int4range", "datemultirange", "boolean", "jsonb", *extensions),
    ]
    values = [
        *("00000000-0000-0000-0000-000000000001", "2026-01-31", "2026-01-01 12:00+00", "1.50"),
        *(
            "0.1",
            "Infinity",
            "ab",
            "-1 day -02:30:00",
            "10.0.0.1",
            "[1,5)",
            "{[2026-01-01,2026-01-05)}",
        ),
        *("true", "[1]", *("Aa" for _ in extensions)),
    ]
    for extension in extensions:
        db.connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public".encode())
    columns = [f"{name}_" for name in types]
    defined = ", ".join(f"{c} {name}" for c, name in zip(columns, types, strict=True))
    marks = ", ".join("%s" for _ in types)
    db.connection.execute(f"CREATE TABLE raw.v (ts timestamptz, {defined})".encode())
    db.connection.execute(f"INSERT INTO raw.v VALUES ('2026-01-01', {marks})".encode(), values)
    db.connection.execute("INSERT INTO raw.v VALUES ('2026-01-01')")
    rollup = db.create_rollup("v", "v", "1 hour", time_column="ts", dimensions=columns)
    (row,) = rollup.read(where={"uuid_": values[0]}).rows()
    for (column, value), gapfill in itertools.product(row.items(), (False, True)):
        if column in columns and not (column == "jsonb_" and not gapfill):
            answer = rollup.read(START, END, where={column: [value]}, gapfill=gapfill).rows()
            assert [x for x in answer if x["row_count"]] == [row], (column, gapfill)
    if extensions:
        assert rollup.read(where={"citext_": "aA"}).rows() == [row]
    db.connection.execute("ALTER VIEW gold.v RENAME bucket TO at")
    assert len(rollup.read(START, END).rows()) == 2


def test_gaps_are_filled(hourly: tsrollup.Rollup) -> None:
    rows = hourly.read(
        START, END, where={"Device": "d2"}, gapfill={"temp_avg": "locf", "cost_sum": "linear"}
    ).rows()
    assert [row["temp_avg"] for row in rows] == [2, 2, 2]
    assert [row["temp_max"] for row in rows] == [2, None, 2]
    assert rows[1]["cost_sum"] == rows[0]["cost_sum"]
    assert len(hourly.read(START, END, gapfill=True).rows()) == 9
    with pytest.raises(tsrollup.ArgumentError):
        hourly.read(START, gapfill=True)


def test_all_that_can_be_done_with_a_rollup(db: tsrollup.Database, hourly: tsrollup.Rollup) -> None:
    list(db.run())
    (refreshed,) = hourly.refresh(START, END)
    assert refreshed.buckets == 3
    hourly.mark_stale(START, END)
    assert hourly.status().stale_buckets == 3
    hourly.add_metric({"temp": ["min"]})
    hourly.add_metric({"half": ["max"]}, expressions={"half": "temp / 2"})
    hourly.drop_metric({"temp": ["max"]})
    hourly.alter(settle_delay="5 minutes", new_name="by_hour")
    assert (hourly.table, hourly.view) == ("silver.by_hour", "gold.by_hour")
    assert hourly.definition()["settle_delay"] == "00:05:00"
    hourly.rebuild()
    hourly.retry()
    db.set_retention("by_hour", timedelta(days=3650))
    list(db.run())
    assert isinstance(db.maintain(), list)
    assert_equal_to_group_by(db.connection, "gold.by_hour")
    hourly.drop()
    assert db.rollups() == []
    with pytest.raises(tsrollup.NotFoundError):
        hourly.status()


def test_each_failure_has_its_class(db: tsrollup.Database, hourly: tsrollup.Rollup) -> None:
    with pytest.raises(tsrollup.NotFoundError) as missing:
        db.rollup("hurly")
    assert missing.value.code == "TR002"
    assert "hourly" in (missing.value.hint or "")
    with pytest.raises(tsrollup.ArgumentError):
        db.create_rollup("r", "other", "1 hour", metrics={"temp": ["nonsense"]})
    with pytest.raises(tsrollup.InTheWayError):
        db.create_rollup("r", "hourly", "1 hour")
    db.connection.execute("CREATE TABLE raw.t (ts timestamptz, n integer)")
    db.connection.execute("ALTER TABLE raw.t ENABLE ROW LEVEL SECURITY")
    with pytest.raises(tsrollup.NotTrackableError):
        db.create_rollup("t", "other", "1 hour")
    with pytest.raises(tsrollup.TsrollupError) as other:
        hourly.read("yesteryear")
    assert other.value.code == "22007"
    with pytest.raises(tsrollup.ArgumentError, match="has no argument nosuch") as unknown:
        hourly.alter(nosuch=1)
    assert "settle_delay" in (unknown.value.hint or "")
    with pytest.raises(tsrollup.ArgumentError, match="gapfill"):
        hourly.read(START, END, gapfill="locf")  # type: ignore[arg-type]
    with pytest.raises(tsrollup.ArgumentError, match="columns"):
        hourly.read(columns="temp_avg")
    with pytest.raises(tsrollup.ArgumentError, match="where"):
        hourly.read(where="d1")  # type: ignore[arg-type]
    with pytest.raises(tsrollup.ArgumentError, match="dimensions"):
        db.create_rollup("r", "other", "1 hour", dimensions="Device")
    with pytest.raises(tsrollup.TsrollupError, match="not UTF-8"):
        hourly.read("\ud800")
    with pytest.raises(tsrollup.TsrollupError, match="cannot connect"):
        tsrollup.connect("postgresql://me@127.0.0.1:1/there")


def test_a_url_of_another_type_is_refused_in_one_line(server: PostgresServer) -> None:
    wrong: list[dict[str, Any]] = [{"url": 3}, {"url": b""}, {"host": object()}, {"nosuch": "x"}]
    for given in wrong:
        with pytest.raises(tsrollup.TsrollupError) as refused:
            tsrollup.connect(**{"url": server.url("postgres"), **given})
        assert "\n" not in str(refused.value)


@pytest.mark.spread
@pytest.mark.parametrize("cls", [tsrollup.Database, tsrollup.Rollup, Archive])
def test_arguments_of_another_type_are_refused_in_one_line(
    db: tsrollup.Database, hourly: tsrollup.Rollup, tmp_path: Path, cls: type
) -> None:
    good = {
        "source": "r",
        "target": "other",
        "width": "1 hour",
        "name": "hourly",
        "table": "r",
        "start": START,
        "end": END,
        "keep": "9000 days",
        "metrics": {"temp": ["min"]},
        "function": "version",
        "to": str(tmp_path),
        "file": tmp_path / "no.toml",
        "plan": None,
    }
    refused = {}
    for name, method in vars(cls).items():
        if name.startswith("_") or name in ("close", "migrate") or not callable(method):
            continue
        _, *taken = inspect.signature(method).parameters.values()
        for one, bad in itertools.product(taken, (None, 3, object(), [{}], {1: 2})):
            given = {p.name: good[p.name] for p in taken if p.name in good}
            given["settle_delay" if one.kind is one.VAR_KEYWORD else one.name] = bad
            positional = [given.pop(p.name) for p in taken if p.kind is p.POSITIONAL_ONLY]
            within = db.connection.transaction(force_rollback=True)
            with nullcontext() if cls is Archive else within:
                of = {tsrollup.Database: db, Archive: db.archive}
                rollup = tsrollup.Rollup(db, hourly.table, hourly.view)
                try:
                    found = getattr(of.get(cls, rollup), name)(*positional, **given)
                    list(found if name == "run" else [])
                except (tsrollup.TsrollupError, TypeError) as error:
                    refused[f"{name}({given})"] = error
    assert len(refused) > 10
    raw = (None, "42883", "42846")
    assert [call for call, error in refused.items() if "\n" in str(error)] == []
    assert [call for call, e in refused.items() if getattr(e, "code", "TypeError") in raw] == []


def test_libpqs_parameters_may_stand_beside_the_url(server: PostgresServer, database: str) -> None:
    url = server.url("postgres")
    with tsrollup.connect(url, dbname=database, application_name="mine") as db:
        assert db.connection.info.dbname == database
        assert db.connection.info.get_parameters()["application_name"] == "mine"
        assert db.migrate() == 0


def test_async_is_the_same(server: PostgresServer, database: str, hourly: tsrollup.Rollup) -> None:
    async def work() -> list[dict[str, object]]:
        async with tsrollup.connect_async(server.url(database)) as db:
            assert await db.version() == tsrollup.__version__
            assert {batch.target async for batch in db.run()} == {"silver.hourly"}
            (rollup,) = await db.rollups()
            assert (await rollup.status()).health == "ok"
            other = await db.create_rollup("hourly", "daily", "1 day")
            both = await asyncio.gather(rollup.read(START, END), other.read())
            with pytest.raises(tsrollup.NotFoundError):
                await db.rollup("nothing")
            return [row for answer in both for row in answer.rows()]

    assert len(asyncio.run(work())) == 9
    assert hourly.read(START, END).rows()


def test_a_cancelled_task_cancels_its_statement(server: PostgresServer, database: str) -> None:
    async def work() -> None:
        only_thread, goes_on = ThreadPoolExecutor(1), threading.Event()
        asyncio.get_running_loop().set_default_executor(only_thread)
        db = await tsrollup.connect_async(server.url(database))
        only_thread.submit(goes_on.wait, 40)
        slow = asyncio.create_task(
            db.in_thread(lambda: db.database.connection.execute("SELECT pg_sleep(60)"))
        )
        await asyncio.sleep(0.5)
        slow.cancel()
        cancelled_at = time.monotonic()
        with pytest.raises((asyncio.CancelledError, psycopg.errors.QueryCanceled)):
            await slow
        assert time.monotonic() < cancelled_at + 20
        assert await db.version() == tsrollup.__version__
        await db.close()
        goes_on.set()

    asyncio.run(asyncio.wait_for(work(), 30))


def test_a_loop_that_ends_cancels_what_is_left(server: PostgresServer, database: str) -> None:
    left = []

    async def work() -> tsrollup.Database:
        db = await tsrollup.connect_async(server.url(database))
        slow = db.in_thread(lambda: db.database.connection.execute("SELECT pg_sleep(60)"))
        left.append(asyncio.create_task(slow))
        await asyncio.sleep(0.5)
        return db.database

    began_at = time.monotonic()
    asyncio.run(work()).close()
    assert left[0].cancelled() or isinstance(left[0].exception(), psycopg.errors.QueryCanceled)
    assert time.monotonic() < began_at + 20


def test_importing_it_loads_no_more_than_is_used() -> None:
    program = "import sys, json, tsrollup; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {"psycopg", "pandas", "pyarrow", "polars", "typer"} & loaded
    assert set(tsrollup.__all__) == {name for name in tsrollup.__all__ if hasattr(tsrollup, name)}
