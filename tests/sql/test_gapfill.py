"""Rows of a live view without its gaps, compared with the same done in Python."""

import secrets
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from conftest import Connect
from rollup_checks import refresh_everything
from scenes import scene
from servers import PostgresServer

START = datetime(2026, 3, 1, tzinfo=UTC)
VALUES = {
    "f": "double precision",
    "r": "real",
    "n": "numeric",
    "i": "integer",
    "t": "text",
    "w": "timestamptz",
    "l": "interval",
    "d": "date",
    "a": "integer[]",
}
LINEAR = [f"{x}_last" for x in "frniwld"]
FILLED = [*(f"{x}_last" for x in VALUES), "f_avg", "row_count"]
Row = dict[str, Any]


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    columns = ", ".join(f"{name} {kind}" for name, kind in VALUES.items())
    db.execute(
        f"CREATE TABLE raw.g (ts timestamptz NOT NULL, k text, s integer, {columns})".encode()
    )
    metrics = {name: ["last"] for name in VALUES} | {"f": ["last", "avg"]}
    db.execute(
        "SELECT silver.create_rollup_table('raw.g', 'silver', 'g_1h', '1 hour', 'ts', '{k,s}', %s)",
        [Jsonb(metrics)],
    )
    return db


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """At most one in an hour for a group, now and then without a value."""
    hours = draw(
        st.sets(st.tuples(st.integers(-40, 60), st.sampled_from("ab-"), st.integers(0, 1)))
    )
    made: list[tuple[Any, ...]] = []
    for hour, key, number in sorted(hours):
        if draw(st.integers(0, 5)) == 0:
            made.append((hour, key, number, None))
        else:
            made.append((hour, key, number, draw(st.integers(-1000, 1000))))
    return made


def insert(connection: psycopg.Connection[Any], made: list[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO raw.g SELECT %s::timestamptz + make_interval(hours => h, mins => 7), k, s,"
            " v / 8.0, v / 4.0, v / 7.0, v, 'v' || v, timestamptz '2020-01-01 00:00+00'"
            " + make_interval(mins => v), make_interval(secs => v), date '2020-01-01' + v,"
            " CASE WHEN v IS NOT NULL THEN ARRAY[v, NULL] END"
            " FROM (VALUES (%s::integer, %s::text, %s::integer, %s::integer)) AS x (h, k, s, v)",
            [(START, h, None if k == "-" else k, s or None, v) for h, k, s, v in made],
        )


def reference(
    stored: list[Row],
    start: datetime,
    end: datetime,
    fill: dict[str, str],
    only: dict[str, list[Any]],
) -> list[Row]:
    def asked(row: Row) -> bool:
        return all(row[name] in values for name, values in only.items())

    stored = [row for row in stored if asked(row)]
    inside = {(row["bucket"], row["k"], row["s"]): row for row in stored}
    groups = {(row["k"], row["s"]) for row in stored if start <= row["bucket"] < end}
    if set(only) == {"k", "s"}:
        groups = set(product(only["k"], only["s"]))
    bucket = datetime.fromtimestamp(-(-start.timestamp() // 3600) * 3600, UTC)
    found = []
    while bucket < end:
        for key, number in groups:
            row = dict(
                inside.get((bucket, key, number)) or {"bucket": bucket, "k": key, "s": number}
            )
            for column, how in fill.items():
                if row.get(column) is None:
                    row[column] = between(
                        [x for x in stored if (x["k"], x["s"]) == (key, number)],
                        bucket,
                        column,
                        how,
                    )
            found.append(row)
        bucket += timedelta(hours=1)
    return found


def between(group: list[Row], at: datetime, column: str, how: str) -> Any:
    known = [row for row in group if row[column] is not None]
    before = max((x for x in known if x["bucket"] < at), key=lambda x: x["bucket"], default=None)
    after = min((x for x in known if x["bucket"] > at), key=lambda x: x["bucket"], default=None)
    if before is None or how == "locf":
        return before and before[column]
    if after is None:
        return None
    share = (at - before["bucket"]) / (after["bucket"] - before["bucket"])
    low, high = before[column], after[column]
    if isinstance(low, Decimal):
        return low + (high - low) * Decimal(share)
    if isinstance(low, date) and not isinstance(low, datetime):
        return low + timedelta(days=round_half_away((high - low).days * share))
    if isinstance(low, int):
        return round_half_away(low + (high - low) * share)
    return low + (high - low) * share


def round_half_away(number: float) -> int:
    return int(abs(number) + 0.5 + 1e-9) * (1 if number >= 0 else -1)


def is_near(left: Any, right: Any) -> bool:
    if isinstance(left, float | Decimal) and isinstance(right, float | Decimal):
        return abs(float(left) - float(right)) <= 1e-5 * max(1.0, abs(float(left)))
    if isinstance(left, datetime) and isinstance(right, datetime):
        return abs(left - right) < timedelta(milliseconds=1)
    if isinstance(left, timedelta) and isinstance(right, timedelta):
        return abs(left - right) < timedelta(milliseconds=1)
    return bool(left == right)


def sort_key(row: Row) -> tuple[Any, ...]:
    """NULL is the largest, as PostgreSQL has it."""
    return (row["k"] is None, row["k"] or "", row["s"] is None, row["s"] or 0, row["bucket"])


def read(connection: psycopg.Connection[Any], arguments: str, *values: Any) -> list[Row]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(f"SELECT * FROM silver.gapfill({arguments})".encode(), values).fetchall()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=rows(),
    refreshed=st.integers(0, 2),
    start=st.integers(-20, 30),
    hours=st.integers(1, 30),
    odd=st.booleans(),
    fill=st.dictionaries(st.sampled_from(FILLED), st.sampled_from(["locf", "linear"]), max_size=4),
    keys=st.none() | st.lists(st.sampled_from(["a", "b", "c", None]), unique=True),
    numbers=st.none() | st.lists(st.sampled_from([1, 2, None]), unique=True),
)
@example(
    made=[(1, "a", 0, None)],
    refreshed=0,
    start=1,
    hours=1,
    odd=False,
    fill={"f_last": "linear"},
    keys=None,
    numbers=None,
)
def test_it_is_what_python_makes_of_the_view(
    source: psycopg.Connection,
    made: list[tuple[Any, ...]],
    refreshed: int,
    start: int,
    hours: int,
    odd: bool,
    fill: dict[str, str],
    keys: list[str | None] | None,
    numbers: list[int | None] | None,
) -> None:
    fill = {x: how for x, how in fill.items() if how == "locf" or x in LINEAR or x == "f_avg"}
    source.execute("DELETE FROM raw.g")
    insert(source, made[: len(made) // 2])
    if refreshed:
        refresh_everything(source)
    insert(source, made[len(made) // 2 :])
    if refreshed == 2:
        refresh_everything(source)
    only = {x: values for x, values in (("k", keys), ("s", numbers)) if values is not None}
    since = START + timedelta(hours=start, minutes=20 if odd else 0)
    until = since + timedelta(hours=hours)
    stored = source.cursor(row_factory=dict_row).execute("SELECT * FROM gold.g_1h").fetchall()
    expected = sorted(reference(stored, since, until, fill, only), key=sort_key)
    found = read(source, "NULL::gold.g_1h, %s, %s, %s, %s", since, until, Jsonb(fill), Jsonb(only))
    assert [sort_key(x) for x in found] == [sort_key(x) for x in expected]
    for row, wanted in zip(found, expected, strict=True):
        for column, value in row.items():
            assert is_near(value, wanted.get(column)), (column, row, wanted)


@scene
def device(db: psycopg.Connection) -> psycopg.Connection:
    db.execute("CREATE TABLE raw.r (ts timestamptz NOT NULL, device text, temp double precision)")
    db.execute(
        "INSERT INTO raw.r SELECT timestamptz '2026-03-01 00:10+00' + make_interval(hours => i),"
        " 'd' || i % 2, i FROM generate_series(0, 48) AS i WHERE i % 8 < 4"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.r', 'silver', 'r_1h', '1 hour', 'ts', '{device}')"
    )
    return db


RANGE = "'2026-03-01 04:00+00', '2026-03-01 06:00+00'"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (f"NULL::silver.r_1h, {RANGE}", r"type silver\.r_1h, which is no row", "NULL::gold.r_1h"),
        (f"1, {RANGE}", "type integer, which is no row", "name a live view"),
        (f"NULL::text, {RANGE}", "type text", "name a live view"),
        (f"NULL::raw.r, {RANGE}", r"type raw\.r", "name a live view"),
        ("NULL::gold.r_1h, NULL, now()", "from NULL", "from_time before to_time"),
        ("NULL::gold.r_1h, '-infinity', now()", "from -infinity", "from_time before to_time"),
        ("NULL::gold.r_1h, now(), 'infinity'", "to infinity", "from_time before to_time"),
        ("NULL::gold.r_1h, now(), now()", "no range", "from_time before to_time"),
        ("NULL::gold.r_1h, now(), now() - interval '1 day'", "no range", "from_time before"),
        ("NULL::gold.r_1h, '0044-03-15 BC', now()", "years 1 to 9999", "years that have buckets"),
        ("NULL::gold.r_1h, '1800-01-01', '2026-01-01'", "buckets of 01:00:00", "1000000 at most"),
        (f"NULL::gold.r_1h, {RANGE}, '[]'", "fill is a JSON array", "write an object"),
        (f"NULL::gold.r_1h, {RANGE}, '1'", "fill is a JSON number", "write an object"),
        (f'NULL::gold.r_1h, {RANGE}, \'{{"temp_ave": "locf"}}\'', "temp_ave", "temp_avg?"),
        (f'NULL::gold.r_1h, {RANGE}, \'{{"temp_avg": "lcf"}}\'', "fill 'lcf'", "'locf'"),
        (f"NULL::gold.r_1h, {RANGE}, '{{\"temp_avg\": null}}'", "fill 'null'", "'locf'"),
        (f'NULL::gold.r_1h, {RANGE}, \'{{"device": "locf"}}\'', "a dimension", "leave it out"),
        (f'NULL::gold.r_1h, {RANGE}, \'{{"bucket": "linear"}}\'', "the bucket", "leave it out"),
        (f"NULL::gold.r_1h, {RANGE}, '{{}}', '[]'", "only is a JSON array", "write an object"),
        (f"NULL::gold.r_1h, {RANGE}, '{{}}', '{{\"devise\": 1}}'", "devise", "did you mean device"),
        (f"NULL::gold.r_1h, {RANGE}, '{{}}', '{{\"temp_avg\": 1}}'", "no dimension", "device"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    device: psycopg.Connection, arguments: str, message: str, hint: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as raised:
        read(device, arguments.replace("%", "%%"))
    assert (raised.value.sqlstate or "").startswith("TR")
    assert hint in (raised.value.diag.message_hint or "")


def test_nothing_lies_between_two_texts(source: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error, match="t_last is of type text"):
        read(source, f'NULL::gold.g_1h, {RANGE}, \'{{"t_last": "linear"}}\'')


@pytest.mark.parametrize(
    ("column", "low", "high", "middle"),
    [
        ("w", "4713-01-01 BC", "294276-12-31", None),
        ("w", "4713-01-01 BC", "280484-01-01", "137886-01-01 00:00:00+00"),
        ("w", "-infinity", "2026-01-01", None),
        ("l", "-178000000 years", "178000000 years", None),
        ("l", "-2147483647 days", "2147483647 days", None),
        ("l", "-2500000000 hours", "2500000000 hours", None),
        ("l", "-88000000 years -999999999 days", "88000000 years 999999999 days", "00:00:00"),
    ],
)
def test_no_line_leads_further_than_an_interval_reaches(
    source: psycopg.Connection, column: str, low: str, high: str, middle: str | None
) -> None:
    source.execute("SET timezone = 'UTC'")
    source.execute(
        f"INSERT INTO raw.g (ts, {column}) VALUES (%s, %s), (%s, %s)".encode(),
        [START, low, START + timedelta(hours=2), high],
    )
    found = source.execute(
        f"SELECT {column}_last::text FROM silver.gapfill(NULL::gold.g_1h, %s, %s, %s)".encode(),
        [START, START + timedelta(hours=2), Jsonb({f"{column}_last": "linear"})],
    ).fetchall()
    assert found[1:] == [(middle,)]


def test_a_rollup_without_dimensions_is_one_group(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.r (ts timestamptz NOT NULL, v integer)")
    db.execute("SELECT silver.create_rollup_table('raw.r', 'silver', 'r_1mon', '1 month')")
    arguments = "NULL::gold.r_1mon, '2026-01-01 00:00+00', '2026-07-01 00:00+00'"
    found = read(db, arguments + """, '{"v_sum": "linear"}'""")
    assert [row["bucket"].month for row in found] == [1, 2, 3, 4, 5, 6]
    db.execute("INSERT INTO raw.r VALUES ('2025-10-05', 1), ('2026-04-02', 1183)")
    found = read(db, arguments + """, '{"v_sum": "linear", "v_max": "locf"}'""")
    # By time, not by months: of the 182 days, 92 have passed on January 1.
    assert [row["v_sum"] for row in found] == [598, 800, 982, 1183, None, None]
    assert [row["v_max"] for row in found] == [1, 1, 1, 1183, 1183, 1183]


@pytest.mark.parametrize("name", ['q"uo"te', "Capital %s", "g", "c1", "{view}", "x" * 63, "only"])
def test_any_names(db: psycopg.Connection, name: str) -> None:
    column = sql.Identifier(name)
    db.execute(
        sql.SQL("CREATE TABLE raw.r (ts timestamptz NOT NULL, {} text, v integer)").format(column)
    )
    db.execute("INSERT INTO raw.r VALUES ('2026-03-01 00:10+00', 'a', 1)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.r', 'silver', %s, '1 hour', 'ts', %s::text[])",
        [name, [name]],
    )
    cursor = db.execute(
        sql.SQL(
            "SELECT {}, v_sum FROM silver.gapfill(NULL::{}, '2026-03-01 02:00+00',"
            " '2026-03-01 04:00+00', '{{\"v_sum\": \"locf\"}}', {})"
        ).format(column, sql.Identifier("gold", name), sql.Literal(Jsonb({name: ["a"]})))
    )
    assert cursor.fetchall() == [("a", 1), ("a", 1)]


def test_values_given_are_compared_as_their_type_does(db: psycopg.Connection) -> None:
    """By the equality of GROUP BY, wherever the type of an extension has its own."""
    db.execute("CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC")
    for extension in ("citext", "ltree"):
        try:
            db.execute(f"CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA ext".encode())
        except psycopg.Error:
            pytest.skip(f"there is no {extension} here")
    db.execute("SET search_path = public, ext")
    db.execute("CREATE DOMAIN raw.called AS citext")
    db.execute("CREATE TABLE raw.r (ts timestamptz NOT NULL, c raw.called, p ltree, v integer)")
    db.execute(
        "INSERT INTO raw.r SELECT '2026-03-01 00:00+00'::timestamptz + i * interval '20 min',"
        " (ARRAY['Abc', 'aBC', NULL, 'd'])[1 + i % 4], (ARRAY['a.b', 'a'])[1 + i % 2]::ltree, i"
        " FROM generate_series(0, 11) AS i"
    )
    for name, dimension in (("c", "c"), ("p", "p"), ("both", "c,p")):
        db.execute(
            "SELECT silver.create_rollup_table('raw.r', 'silver', %s, '4 hours', 'ts', %s)",
            [name, f"{{{dimension}}}"],
        )
    rest = "'2026-03-01 00:00+00', '2026-03-01 08:00+00', NULL"
    statement = f"SELECT v_sum FROM silver.gapfill(NULL::gold.%s, {rest}, '%s')"
    for view, only, sums in (
        ("c", '{"c": ["ABC"]}', [0 + 1 + 4 + 5 + 8 + 9, None]),
        ("c", '{"c": ["ABC", null]}', [27, None, 2 + 6 + 10, None]),
        ("p", '{"p": ["a.b", "a.c"]}', [30, None, None, None]),
        ("both", '{"p": ["a"], "c": "abC"}', [1 + 5 + 9, None]),
        ("both", '{"c": "abC"}', [1 + 5 + 9, None, 0 + 4 + 8, None]),
    ):
        found = db.execute((statement % (view, only)).encode()).fetchall()
        assert [row[0] for row in found] == sums, (view, only)


def test_who_reads_the_view_needs_no_right_to_name_its_types(
    db: psycopg.Connection, connect: Connect, server: PostgresServer, database: str
) -> None:
    db.execute("CREATE SCHEMA closed")
    db.execute("CREATE TYPE closed.mood AS ENUM ('sad', 'well')")
    db.execute("CREATE DOMAIN public.amount AS numeric(7, 2)")
    db.execute("GRANT USAGE ON SCHEMA closed TO tsrollup_owner")
    db.execute("CREATE TABLE raw.people (ts timestamptz, mood closed.mood, v public.amount)")
    db.execute(
        "INSERT INTO raw.people VALUES ('2026-03-01', 'sad', 1), ('2026-03-01 04:00', 'sad', 5)"
    )
    db.execute(
        "SELECT silver.create_rollup_table('raw.people', 'silver', 'p', '1 hour', dimensions =>"
        ' \'{mood}\', metrics => \'{"v": ["max"], "mood": ["last"]}\')'
    )
    role = f"reader_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN")
        superuser.execute(f"GRANT tsrollup_reader TO {role}")
        gapfill = (
            "SELECT mood::text, mood_last::text, v_max FROM silver.gapfill(NULL::gold.p,"
            " '2026-03-01 00:00+00', '2026-03-01 02:00+00',"
            ' \'{"v_max": "linear", "mood_last": "locf"}\''
        )
        with connect(user=role) as reader:
            found = [("sad", "sad", 1), ("sad", "sad", 2)]
            assert reader.execute(f"{gapfill})").fetchall() == found
            only = """'{"mood": ["sad", "well"]}'"""
            absent = [("well", None, None)] * 2
            assert reader.execute(f'{gapfill}, "only" => {only})').fetchall() == found + absent
        superuser.execute(f"DROP OWNED BY {role}")
        superuser.execute(f"DROP ROLE {role}")


def test_domains_that_are_not_null_may_stand_beside(db: psycopg.Connection) -> None:
    db.execute("CREATE DOMAIN public.known AS text NOT NULL")
    db.execute("CREATE TYPE public.mood AS ENUM ('sad', 'well')")
    db.execute("CREATE TABLE raw.people (ts timestamptz, who known, mood mood, k text)")
    db.execute("INSERT INTO raw.people VALUES ('2026-03-01', 'a', 'sad', 'b')")
    db.execute(
        "SELECT silver.create_rollup_table('raw.people', 'silver', 'p', '1 hour', dimensions =>"
        " '{who, mood, k}', metrics => '{\"who\": [\"last\"]}')"
    )
    for only in ({"mood": ["sad"]}, {"k": ["b"]}, {"who": ["a"], "mood": ["sad"], "k": ["b"]}):
        assert db.execute(
            "SELECT who, mood::text, k, who_last FROM silver.gapfill(NULL::gold.p,"
            " '2026-03-01 00:00+00', '2026-03-01 02:00+00', \"only\" => %s)",
            [Jsonb(only)],
        ).fetchall() == [("a", "sad", "b", "a"), ("a", "sad", "b", None)], only


def test_renamed_columns_of_a_view(device: psycopg.Connection) -> None:
    device.execute("ALTER VIEW gold.r_1h RENAME COLUMN temp_avg TO mean")
    device.execute("ALTER VIEW gold.r_1h RENAME COLUMN device TO which")
    found = read(device, f"""NULL::gold.r_1h, {RANGE}, '{{"mean": "locf"}}', '{{"which": "d1"}}'""")
    assert [row["mean"] for row in found] == [3, 3]


def test_promise_b_in_one_snapshot(device: psycopg.Connection, connect: Connect) -> None:
    statement = f"""NULL::gold.r_1h, {RANGE}, '{{"temp_avg": "locf"}}', '{{"device": ["d1"]}}'"""
    old = connect(autocommit=False)
    old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    assert [row["temp_avg"] for row in read(old, statement)] == [3, 3]
    device.execute("UPDATE raw.r SET temp = temp + 100")
    refresh_everything(device)
    assert [row["temp_avg"] for row in read(old, statement)] == [3, 3]
    assert [row["temp_avg"] for row in read(device, statement)] == [103, 103]


def test_promise_k_no_setting_changes_anything(device: psycopg.Connection) -> None:
    statement = (
        f"SELECT extract(epoch FROM bucket), temp_avg FROM silver.gapfill(NULL::gold.r_1h, {RANGE},"
        """ '{"temp_avg": "linear"}', "only" => '{"device": ["d1"]}')"""
    ).encode()
    before = device.execute(statement).fetchall()
    assert [row[1] for row in before] == [4, 5]
    for setting in (
        "timezone = 'Australia/Lord_Howe'",
        "search_path = raw, public",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'iso_8601'",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
    ):
        device.execute(f"SET {setting}".encode())
        assert device.execute(statement).fetchall() == before


def test_a_long_one_can_be_cancelled(device: psycopg.Connection) -> None:
    device.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        read(device, "NULL::gold.r_1h, '1930-01-01', '2030-01-01', '{\"temp_avg\": \"linear\"}'")


@pytest.mark.parametrize(
    ("zone", "since", "lengths"),
    [
        ("Europe/Berlin", date(2026, 3, 27), [24, 24, 23, 24]),
        ("Europe/Berlin", date(2026, 10, 23), [24, 24, 25, 24]),
        ("Australia/Lord_Howe", date(2026, 4, 3), [24, 24, 24.5, 24]),
        ("Asia/Kathmandu", date(2026, 4, 3), [24, 24, 24, 24]),
    ],
)
def test_local_days(db: psycopg.Connection, zone: str, since: date, lengths: list[float]) -> None:
    """Of 23 and 25 hours; a straight line goes by the time that passes, not by days."""
    midnights = [
        datetime.combine(since + timedelta(days=i), time(), ZoneInfo(zone)).astimezone(UTC)
        for i in range(len(lengths) + 1)
    ]
    passed = [midnight - midnights[0] for midnight in midnights]
    assert [(x - y) / timedelta(hours=1) for x, y in pairwise(reversed(passed))][::-1] == lengths
    db.execute("CREATE TABLE raw.z (ts timestamptz NOT NULL, v double precision)")
    db.execute(
        "SELECT silver.create_rollup_table('raw.z', 'silver', 'z_1d', '1 day',"
        ' metrics => \'{"v": ["avg", "last"]}\', timezone => %s)',
        [zone],
    )
    last = passed[-1] / timedelta(hours=1)
    for midnight, value in ((midnights[0], 0), (midnights[-1], last)):
        db.execute("INSERT INTO raw.z VALUES (%s, %s)", [midnight + timedelta(hours=5), value])
    found = read(
        db,
        """NULL::gold.z_1d, %s, %s, '{"v_avg": "linear", "v_last": "locf"}'""",
        midnights[0] - timedelta(hours=3),
        midnights[-1] + timedelta(hours=3),
    )
    assert [row["bucket"] for row in found] == midnights
    hours = [x / timedelta(hours=1) for x in passed]
    assert [round(row["v_avg"], 6) for row in found] == [round(x, 6) for x in hours]
    assert [row["v_last"] for row in found] == [0] * len(lengths) + [last]
