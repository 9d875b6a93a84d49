"""A source with a key, rollups of it that have the key and such that lack it, and what may befall
them: late rows written in every way, and runs between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg

from blackbox.calendar_reference import Buckets
from blackbox.rollup_reference import Wanted, column, create

Connection = psycopg.Connection[Any]

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOURS = 40
METRICS = {"v": ["count", "sum", "min", "max"], "x": ["avg"]}
EXPRESSION = "CASE WHEN device IS NOT NULL THEN v % 3 END"
SITES = ["north", "south", None]
SCHEMA = """
    CREATE TABLE raw.devices (device {type} PRIMARY KEY);
    CREATE TABLE raw.late (
        ts timestamptz, device {type} {references}, site text, v integer, x float8, id bigint,
        UNIQUE (id, ts)
    ) PARTITION BY RANGE (ts);
    CREATE TABLE raw.late_1 PARTITION OF raw.late
        FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-03-02 00:00+00');
    CREATE TABLE raw.late_2 PARTITION OF raw.late
        FOR VALUES FROM ('2026-03-02 00:00+00') TO ('2026-03-02 18:00+00');
    CREATE TABLE raw.late_rest PARTITION OF raw.late DEFAULT;
    CREATE INDEX late_device ON raw.late (device, ts)
"""
MERGE = """
    MERGE INTO raw.late AS t USING (VALUES {rows}) AS n (ts, device, site, v, x, id) ON t.id = n.id
    WHEN MATCHED AND n.v % 5 = 0 THEN DELETE
    WHEN MATCHED AND n.v % 5 = 1 THEN UPDATE SET v = n.v
    WHEN MATCHED AND n.v % 5 = 2 THEN UPDATE SET ts = n.ts
    WHEN MATCHED THEN UPDATE SET ts = n.ts, {key} = n.device, v = n.v
    WHEN NOT MATCHED THEN INSERT (ts, {key}, site, v, x, id)
        VALUES (n.ts, n.device, n.site, n.v, n.x, n.id)
"""
CHANGES = [
    "v = v + 1",
    "v = v",
    "ts = ts + interval '1 hour'",
    "ts = ts - interval '7 hours', v = v + 2",
    "ts = NULL",
    "{key} = {other}",
    "{key} = NULL",
    "{key} = {other}, ts = ts + interval '13 hours'",
    "site = 'east'",
]
RUNS = [
    "CALL silver.run_rollups()",
    "CALL silver.run_rollups('late_1h')",
    "SELECT * FROM silver.perform_rollup(max_batches => 1)",
    "SELECT * FROM silver.perform_rollup('late_6h')",
    "SELECT * FROM silver.perform_rollup(as_of => 'infinity')",
    "SELECT silver.mark_stale('raw.late', {low}, {high})",
    "SELECT silver.refresh_rollup('late_1h', {low}, {high})",
    "SELECT silver.maintain_timeseries_tables()",
]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Key:
    """The type of the key column, values of it, and what becomes of it later."""

    type: str
    values: Sequence[Any]
    later: str
    references: str = ""


@dataclass
class History:
    db: Connection
    key_type: Key
    chance: Random
    values: list[Any] = field(default_factory=list)
    key: str = "device"
    type: str = ""
    last_id: int = 0

    def __post_init__(self) -> None:
        self.type = self.key_type.type
        self.has_parent = bool(self.key_type.references)
        self.values = self.chance.sample(self.key_type.values, min(9, len(self.key_type.values)))

    def begin(self, **options: Any) -> list[Wanted]:
        """The source, filled, and its rollups: each as it must be."""
        texts = {"type": self.type, "references": self.key_type.references}
        self.db.execute(SCHEMA.format(**texts).encode())
        self.insert(self.db, 90)
        both = ["device", "site"]
        create(
            self.db, "raw.late", "late_1h", "1 hour", dimensions=both, metrics=METRICS, **options
        )
        create(self.db, "late_1h", "late_6h", "6 hours")
        create(self.db, "late_6h", "late_1d", "1 day", dimensions=["site"])
        create(self.db, "raw.late", "late_site", "1 hour", dimensions=["site"], metrics=METRICS)
        create(
            self.db, "raw.late", "late_kind", "1 hour", dimensions=["kind", "device"],
            metrics=METRICS, expressions={"kind": EXPRESSION}, filter="v > 3",
        )  # fmt: skip
        create(self.db, "late_kind", "late_kinds", "1 day", dimensions=["kind"])
        return self.wanted()

    def wanted(self) -> list[Wanted]:
        device = {"device": lambda row: row[self.key]}
        site = {"site": column("site")}
        kind = {"kind": lambda row: None if row[self.key] is None else row["v"] % 3}
        hour, six, day = Buckets("1 hour"), Buckets("6 hours"), Buckets("1 day")
        return [
            Wanted("late_1h", hour, device | site, METRICS),
            Wanted("late_6h", six, device | site, METRICS),
            Wanted("late_1d", day, site, METRICS),
            Wanted("late_site", hour, site, METRICS),
            Wanted("late_kind", hour, kind | device, METRICS, keep=lambda row: row["v"] > 3),
            Wanted("late_kinds", day, kind, METRICS, keep=lambda row: row["v"] > 3),
        ]

    @property
    def quoted(self) -> str:
        return quoted(self.key)

    # What is written

    def rows(self, number: int) -> list[tuple[Any, ...]]:
        """New ones, of few keys or of many; no two have one time."""
        values = [*self.values, None] if self.chance.random() < 0.7 else [self.any_key()]
        found = []
        for _ in range(number):
            self.last_id += 1
            device, v = self.chance.choice(values), self.chance.randrange(12)
            row = (self.time(self.last_id), device, self.chance.choice(SITES), v, v / 8)
            found.append((*row, self.last_id))
        return found

    def time(self, number: int) -> datetime:
        minutes = self.chance.randrange(HOURS * 60)
        return START + timedelta(minutes=minutes, microseconds=number)

    def any_key(self) -> Any:
        return self.chance.choice([*self.values, None])

    def place(self) -> tuple[datetime, datetime]:
        low = START + timedelta(hours=self.chance.randrange(HOURS))
        return low, low + timedelta(hours=self.chance.choice([1, 3, 9]))

    def write(self, connection: Connection) -> None:
        ways: list[Callable[[Connection], None]] = [
            self.insert, self.insert, self.copy, self.merge, self.change, self.change, self.change,
            self.delete, self.on_conflict, self.cascade,
        ]  # fmt: skip
        way = self.chance.choice(ways)
        print("  ", way.__name__)
        way(connection)

    def insert(self, connection: Connection, number: int = 0) -> None:
        rows = self.rows(number or self.chance.choice([1, 1, 2, 7]))
        self.execute(connection, "INSERT INTO raw.late ({columns}) VALUES {rows}", rows)

    def copy(self, connection: Connection) -> None:
        rows = self.rows(self.chance.choice([1, 5, 20]))
        self.register(connection, rows)
        table = self.chance.choice(["late", "late", "late_1"])
        if table == "late_1":
            rows = [row for row in rows if row[0].day == 1] or rows[:0]
        text = f"COPY raw.{table} (ts, {self.quoted}, site, v, x, id) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(text.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def merge(self, connection: Connection) -> None:
        """Of rows that are there and such that are not, in any order."""
        rows = self.rows(self.chance.choice([2, 6]))
        old = self.chance.sample(range(1, self.last_id), self.chance.choice([1, 4]))
        rows += [(*row[:5], number) for row, number in zip(self.rows(4), old, strict=False)]
        self.chance.shuffle(rows)
        self.execute(connection, MERGE.replace("%", "%%"), rows)

    def on_conflict(self, connection: Connection) -> None:
        there = connection.execute(
            "SELECT ts, site, v, x, id FROM raw.late WHERE ts IS NOT NULL ORDER BY id DESC LIMIT 9"
        ).fetchall()
        rows = [(ts, self.any_key(), *others) for ts, *others in there]
        rows = self.rows(2) + self.chance.sample(rows, min(3, len(rows)))
        what = self.chance.choice(["NOTHING", "UPDATE SET {key} = excluded.{key}, v = late.v + 3"])
        text = "INSERT INTO raw.late ({columns}) VALUES {rows} ON CONFLICT (id, ts) DO " + what
        self.execute(connection, text, rows)

    def change(self, connection: Connection) -> None:
        other = self.any_key()
        self.register(connection, [(None, other)])
        change = self.chance.choice(CHANGES)
        self.execute(connection, f"UPDATE raw.late SET {change} WHERE {self.some()}", other=other)

    def delete(self, connection: Connection) -> None:
        self.execute(connection, "DELETE FROM raw.late WHERE " + self.some())

    def some(self) -> str:
        """A condition that few rows, or those of a key, or those of some hours meet."""
        low, high = self.place()
        within = f"ts >= '{low}' AND ts < '{high}'"
        part = f"id %% {self.chance.choice([3, 17, 41])} = {self.chance.randrange(3)}"
        of_key = "{key} IS NOT DISTINCT FROM {any}"
        return self.chance.choice(
            [within, part, f"{within} AND {part}", f"{of_key} AND {part}", f"{of_key} AND {within}"]
        )

    def cascade(self, connection: Connection) -> None:
        """A key is another one, or gone, for all rows that have it."""
        if not self.has_parent:
            return
        rows = connection.execute("SELECT device FROM raw.devices").fetchall()
        known = [device for (device,) in rows]
        free = [value for value in self.key_type.values if value not in known]
        old = self.chance.choice(known)
        if free and self.chance.random() < 0.7:
            new = self.chance.choice(free)
            connection.execute("UPDATE raw.devices SET device = %s WHERE device = %s", [new, old])
        else:
            connection.execute("DELETE FROM raw.devices WHERE device = %s", [old])

    def register(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        keys = list({row[1] for row in rows} - {None})
        if self.has_parent and keys:
            connection.cursor().executemany(
                "INSERT INTO raw.devices VALUES (%s) ON CONFLICT DO NOTHING", [[k] for k in keys]
            )

    def execute(
        self,
        connection: Connection,
        text: str,
        rows: Sequence[Sequence[Any]] = (),
        other: Any = None,
    ) -> None:
        """With the marks {key}, {columns}, {rows}, {other} and {any} filled in."""
        self.register(connection, rows)
        one = f"(%s::timestamptz, %s::{self.type}, %s::text, %s::integer, %s::float8, %s::bigint)"
        parts = text.replace("{other}", "\0").replace("{any}", "\1")
        values = [value for row in rows for value in row]
        for mark in (character for character in parts if character in "\0\1"):
            values.append(other if mark == "\0" else self.any_key())
        parts = parts.replace("\0", f"%s::{self.type}").replace("\1", f"%s::{self.type}")
        key = self.quoted
        columns = f"ts, {key}, site, v, x, id"
        filled = parts.format(key=key, columns=columns, rows=", ".join([one] * len(rows)))
        connection.execute(filled.encode(), values, prepare=False)

    # What else happens

    def run(self) -> None:
        low, high = self.place()
        text = self.chance.choice(RUNS).format(low=f"'{low}'", high=f"'{high}'")
        print("  ", text)
        self.db.execute(text.encode())

    def rename(self) -> None:
        name = 'the "new" key'
        self.db.execute(f"ALTER TABLE raw.late RENAME {self.quoted} TO {quoted(name)}".encode())
        self.key = name

    def retype(self) -> None:
        """A column of another type that holds the same."""
        if self.has_parent:
            self.db.execute("ALTER TABLE raw.late DROP CONSTRAINT late_device_fkey")
            self.has_parent = False
        self.type = self.key_type.later
        text = "ALTER TABLE raw.late ALTER {key} TYPE {type} USING {key}::{type}"
        self.db.execute(text.format(key=self.quoted, type=self.type).encode())

    def move_index(self) -> None:
        """Gone where it is there, and the other way round."""
        if self.db.execute("SELECT to_regclass('raw.late_device')").fetchone() != (None,):
            self.db.execute("DROP INDEX raw.late_device")
        else:
            self.db.execute(f"CREATE INDEX late_device ON raw.late ({self.quoted}, ts)".encode())

    def empty_partition(self) -> None:
        self.db.execute(f"TRUNCATE raw.{self.chance.choice(['late_1', 'late_2'])}".encode())
