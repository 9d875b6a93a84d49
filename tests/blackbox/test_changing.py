"""Changing one's mind about a live rollup: metrics come and go, options and names change."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import (
    Wanted,
    assert_live,
    assert_live_and_stored,
    column,
    create,
    rows_of,
)

LIFE = """
    CREATE TABLE raw.life (ts timestamptz, device text, v integer, x float8, payload jsonb);
    CREATE INDEX ON raw.life (ts)
"""
FILL = """
    INSERT INTO raw.life
    SELECT timestamptz '2026-03-28 20:00+00' + make_interval(secs => 311 * i + %(shift)s),
        'd' || i %% 3, nullif(i %% 17, 4), i / 8.0, jsonb_build_object('n', i %% 5)
    FROM generate_series(0, 600) AS i
"""
LEVELS = {
    "life_10m": Buckets("10 minutes"),
    "life_1h": Buckets("1 hour"),
    "life_1d": Buckets("1 day", "Europe/Berlin"),
}
VALUES = {
    "n": lambda row: row["payload"]["n"],
    "odd": lambda row: row["v"] if row["v"] is not None and row["v"] % 2 else None,
}
EXPRESSIONS = {"n": "(payload->>'n')::integer", "odd": "CASE WHEN v % 2 = 1 THEN v END"}
BY_DEVICE = {"device": column("device")}


def create_life(connection: psycopg.Connection[Any]) -> None:
    connection.execute(LIFE)
    connection.execute(FILL, {"shift": 0})
    create(
        connection, "raw.life", "life_10m", "10 minutes",
        dimensions=["device"], metrics={"v": ["sum", "max"], "x": ["avg"]},
    )  # fmt: skip
    create(connection, "life_10m", "life_1h", "1 hour")
    create(connection, "life_1h", "life_1d", "1 day", timezone="Europe/Berlin")


def wanted_of(metrics: Mapping[str, Sequence[str]], names: Sequence[str] = ()) -> list[Wanted]:
    return [
        Wanted(name, LEVELS[level], BY_DEVICE, metrics, VALUES)
        for name, level in zip(names or LEVELS, LEVELS, strict=True)
    ]


def call(connection: psycopg.Connection[Any], function: str, *arguments: Any, **named: Any) -> None:
    given = [Jsonb(v) if isinstance(v, dict) else v for v in (*arguments, *named.values())]
    marks = ["%s"] * len(arguments) + [f"{name} => %s" for name in named]
    connection.execute(f"SELECT silver.{function}({', '.join(marks)})".encode(), given)


def columns_of(connection: psycopg.Connection[Any], view: str) -> set[str]:
    row = connection.execute(
        "SELECT array_agg(attname::text) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [view],
    ).fetchone()
    assert row
    return set(row[0] or ())


def test_metrics_come_and_go(db: psycopg.Connection) -> None:
    """Each is right at once, over all history, while the others stay; at three levels."""
    create_life(db)
    metrics: dict[str, list[str]] = {"v": ["sum", "max"], "x": ["avg"]}
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    added = {"v": ["count", "last"], "n": ["sum", "max"], "odd": ["count", "avg"]}
    for target in LEVELS:
        expressions = {"expressions": EXPRESSIONS} if target == "life_10m" else {}
        call(db, "add_rollup_metric", target, added, **expressions)
        assert_live(db, "raw.life", wanted_of(metrics | added)[list(LEVELS).index(target)])
    metrics = {"v": ["sum", "max", "count", "last"], "x": ["avg"], **added, "odd": added["odd"]}
    metrics["v"] = ["sum", "max", "count", "last"]
    db.execute(FILL, {"shift": -50_000})
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))

    # What a child reads stays; from the top down all may go.
    with pytest.raises(psycopg.Error):
        call(db, "drop_rollup_metric", "life_10m", {"v": ["max"]})
    for target in reversed(LEVELS):
        call(db, "drop_rollup_metric", f"gold.{target}", {"v": ["max"], "n": ["sum", "max"]})
        assert not {"v_max", "n_sum", "n_max"} & columns_of(db, f"gold.{target}")
    metrics = {"v": ["sum", "count", "last"], "x": ["avg"], "odd": ["count", "avg"]}
    assert_live(db, "raw.life", *wanted_of(metrics))
    db.execute("UPDATE raw.life SET v = v + 1, x = -x WHERE x BETWEEN 10 AND 30")
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    for target in LEVELS:
        call(db, "add_rollup_metric", target, {"v": ["max"]})
    metrics["v"].append("max")
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    no_metrics: list[tuple[str | None, Any]] = [
        ("life_1d", {"v": ["min"]}), ("life_1d", {"v": ["median"]}), ("life_1d", {"z": ["sum"]}),
        ("missing", {"v": ["sum"]}), (None, {"v": ["sum"]}), ("life_1d", None),
    ]  # fmt: skip
    for unknown, wrong in no_metrics:
        with pytest.raises(psycopg.Error):
            call(db, "drop_rollup_metric", unknown, wrong)
    for name, text in {"odd": "v", "v": "x", "new": "now()", "device": "v::text"}.items():
        with pytest.raises(psycopg.Error):
            call(db, "add_rollup_metric", "life_10m", {name: ["max"]}, {name: text})
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))


def test_history_fills_while_it_is_read(db: psycopg.Connection) -> None:
    """A batch at a time, newest first; writers go on, and each read is exact."""
    create_life(db)
    metrics: dict[str, list[str]] = {"v": ["sum", "max"], "x": ["avg"]}
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    call(db, "alter_rollup", "life_10m", processing_window="5 hours")
    metrics |= {"x": ["avg", "stddev", "p90"], "odd": ["sum"]}
    call(
        db, "add_rollup_metric", "life_10m", {"x": ["stddev", "p90"], "odd": ["sum"]},
        expressions={"odd": EXPRESSIONS["odd"]},
    )  # fmt: skip
    for target in ("life_1h", "life_1d"):
        call(db, "add_rollup_metric", target, {"x": ["stddev", "p90"], "odd": ["sum"]})
    wanted = wanted_of(metrics)
    for number in range(6):
        assert_live(db, "raw.life", *wanted)
        db.execute("SELECT * FROM silver.perform_rollup(max_batches => 1, as_of => 'infinity')")
        db.execute("UPDATE raw.life SET v = v + 2, x = x - 1 WHERE v = %s", [number])
    assert_live_and_stored(db, "raw.life", *wanted)


OPTIONS = {
    "settle_delay": ("3 minutes", ["-1 minute", "infinity"]),
    "processing_window": ("2 days", ["0", "-1 hour"]),
    "target_batch_duration": ("2 seconds", ["0", "-1 second"]),
    "chunk_interval": ("14 days", ["0", "-1 day"]),
}


def test_options_are_altered(db: psycopg.Connection) -> None:
    create_life(db)
    metrics = {"v": ["sum", "max"], "x": ["avg"]}
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    for name, (value, wrong) in OPTIONS.items():
        before = options_of(db, "life_1h")
        call(db, "alter_rollup", "life_1h", **{name: value})
        after = options_of(db, "life_1h")
        assert [k for k in before if before[k] != after[k]] == [name]
        row = db.execute(
            f"SELECT {name} = %s::interval FROM silver.rollup_config"
            " WHERE target_table = 'silver.life_1h'::regclass".encode(),
            [value],
        ).fetchone()
        assert row == (True,), name
        for no in wrong:
            if name == "settle_delay" and no == "infinity":
                continue
            with pytest.raises(psycopg.Error) as caught:
                call(db, "alter_rollup", "life_1h", **{name: no})
            assert len(str(caught.value.diag.message_primary).splitlines()) == 1
        assert options_of(db, "life_1h") == after
    with pytest.raises(psycopg.Error):
        call(db, "alter_rollup", "missing", settle_delay="1 minute")
    with pytest.raises(psycopg.Error):
        call(db, "alter_rollup", None, settle_delay="1 minute")
    with pytest.raises(psycopg.Error):  # what tracks by triggers looks back at nothing
        call(db, "alter_rollup", "life_10m", look_back_window="-1 day")
    db.execute(FILL, {"shift": -500_000})
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))


def options_of(connection: psycopg.Connection[Any], name: str) -> dict[str, Any]:
    row = connection.execute(
        "SELECT settle_delay, processing_window, target_batch_duration, chunk_interval,"
        " look_back_window FROM silver.rollup_config"
        " WHERE target_table = to_regclass('silver.' || %s)",
        [name],
    ).fetchone()
    assert row
    names = [*list(OPTIONS)[:3], "chunk_interval", "look_back_window"]
    return dict(zip(names, row, strict=True))


def test_rollups_are_renamed(db: psycopg.Connection) -> None:
    """Table and view, with partitions, children and what others granted."""
    create_life(db)
    metrics = {"v": ["sum", "max"], "x": ["avg"]}
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    db.execute("CREATE VIEW public.mine AS SELECT bucket, v_sum FROM gold.life_1h")
    names = ["Hours \"of' life;--", "x" * 63]
    old = "life_1h"
    for new in ("life_1d", "life_10m", "", "y" * 64):
        with pytest.raises(psycopg.Error):
            call(db, "alter_rollup", old, new_name=new)
    before = rows_of(db, "public.mine")
    for number, new in enumerate(names):
        call(db, "alter_rollup", f"gold.{quoted(old)}", new_name=new)
        assert columns_of(db, f"gold.{quoted(new)}")
        assert not columns_of(db, f"gold.{quoted(old)}")
        assert not columns_of(db, f"silver.{quoted(old)}")
        assert len(rows_of(db, "public.mine")) == len(before)
        wanted = wanted_of(metrics, ["life_10m", quoted(new), "life_1d"])
        assert_live(db, "raw.life", *wanted)
        db.execute(FILL, {"shift": -70_000 * (number + 1)})
        assert_live_and_stored(db, "raw.life", *wanted)
        before = rows_of(db, "public.mine")
        old = new
    # Its old name is free again.
    create(db, "life_10m", "life_1h", "1 hour")
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_sealed_history_is_null_in_a_new_metric(db: psycopg.Connection) -> None:
    """What raw has lost stays as it was stored; all else is filled in."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    db.execute("CREATE TABLE raw.old (ts timestamptz NOT NULL, v integer) PARTITION BY RANGE (ts)")
    for days in range(12):
        low = today - timedelta(days=days)
        db.execute(
            f"CREATE TABLE raw.old_{days} PARTITION OF raw.old"
            f" FOR VALUES FROM ('{low}') TO ('{low + timedelta(days=1)}')".encode()
        )
    db.execute(
        "INSERT INTO raw.old SELECT t, extract(epoch FROM t)::bigint %% 97"
        " FROM generate_series(%s::timestamptz, %s, '25 minutes') AS t",
        [today - timedelta(days=11), today],
    )
    create(db, "raw.old", "old_1h", "1 hour", metrics={"v": ["sum"]})
    create(db, "old_1h", "old_1d", "1 day")
    before = {name: rows_of(db, f"gold.{name}") for name in ("old_1h", "old_1d")}
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    db.execute("SELECT silver.set_retention('raw.old', '5 days')")
    for _ in range(3):
        db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        db.execute("SELECT * FROM silver.maintain_timeseries_tables()")
    rows = rows_of(db, "raw.old")
    kept_from = min(row["ts"] for row in rows)
    assert kept_from > today - timedelta(days=8), "retention dropped nothing"
    for name in ("old_1h", "old_1d"):
        call(db, "add_rollup_metric", name, {"v": ["max"]})
    for is_stored in (False, True):
        if is_stored:
            db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
        for name, width in (("old_1h", "1 hour"), ("old_1d", "1 day")):
            must = Wanted(name, Buckets(width), metrics={"v": ["sum", "max"]}).groups(rows)
            now = {row["bucket"]: row for row in rows_of(db, f"gold.{name}")}
            assert {row["bucket"]: row["v_sum"] for row in before[name]} == {
                bucket: row["v_sum"] for bucket, row in now.items()
            }
            for bucket, row in now.items():
                group = must.get((bucket.astimezone(UTC),))
                if group is None:
                    assert row["v_max"] is None, (name, bucket)
                else:
                    assert row["v_max"] == max(raw["v"] for raw in group), (name, bucket)


def test_a_dropped_column_takes_its_metrics_along_on_request(db: psycopg.Connection) -> None:
    create_life(db)
    assert_live_and_stored(db, "raw.life")
    db.execute("ALTER TABLE raw.life DROP COLUMN x")
    db.execute("INSERT INTO raw.life (ts, device, v) VALUES ('2026-03-28 22:00:05+00', 'd1', 3)")
    for target in reversed(LEVELS):
        call(db, "drop_rollup_metric", target, {"x": ["avg"]})
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert_live_and_stored(db, "raw.life", *wanted_of({"v": ["sum", "max"]}))


def test_a_rollup_is_rebuilt_after_its_types_changed(db: psycopg.Connection) -> None:
    create_life(db)
    metrics = {"v": ["sum", "max"], "x": ["avg"]}
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
    db.execute("ALTER TABLE raw.life ALTER COLUMN v TYPE numeric USING v + 0.25")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    for target in LEVELS:
        call(db, "rebuild_rollup", target)
    assert_live_and_stored(db, "raw.life", *wanted_of(metrics))
