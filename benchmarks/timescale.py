"""The same work with TimescaleDB: hypertables and continuous aggregates."""

from collections.abc import Callable, Mapping
from datetime import datetime

from benchmarks.workbench import START, Workbench

STATES = (
    "count(*) AS row_count, count(temp) AS temp_count, sum(temp) AS temp_sum,"
    " min(temp) AS temp_min, max(temp) AS temp_max"
)
COMBINED = (
    "sum(row_count) AS row_count, sum(temp_count) AS temp_count, sum(temp_sum) AS temp_sum,"
    " min(temp_min) AS temp_min, max(temp_max) AS temp_max"
)
IN_ONE_PIECE = '{"buckets_per_batch": 0}'


class TimescaleWorkbench(Workbench):
    system = "TimescaleDB"
    has_groups = False

    def prepare(self) -> None:
        self.session.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        self.session.execute("CREATE SCHEMA raw")
        self.session.execute("CREATE SCHEMA gold")

    def version(self) -> str:
        query = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
        return str(self.session.value(query))

    def create_table(
        self,
        table: str,
        days: int,  # noqa: ARG002
        start: datetime = START,  # noqa: ARG002
        chunk: int = 1,
    ) -> None:
        """Chunks come with the rows."""
        self.session.execute(
            f"CREATE TABLE {table} (ts timestamptz NOT NULL, device integer NOT NULL,"
            " temp double precision)"
        )
        self.session.execute(
            f"SELECT create_hypertable('{table}', 'ts', create_default_indexes => false,"
            f" chunk_time_interval => interval '{chunk} days')"
        )
        self.session.execute(f"CREATE INDEX ON {table} (ts)")

    def create_rollup(self, name: str, source: str, width: str) -> None:
        self._create_aggregate(name, source, width, "ts", STATES)

    def create_child(self, name: str, parent: str, width: str) -> None:
        self._create_aggregate(name, f"gold.{parent}", width, "bucket", COMBINED)

    def _create_aggregate(self, name: str, source: str, width: str, time: str, what: str) -> None:
        self.session.execute(
            f"CREATE MATERIALIZED VIEW gold.{name}"
            " WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS"
            f" SELECT time_bucket('{width}', {time}) AS bucket, device, {what}"
            f" FROM {source} GROUP BY 1, 2 WITH NO DATA"
        )

    def drop_rollup(self, name: str) -> None:
        self.session.execute(f"DROP MATERIALIZED VIEW gold.{name}")

    def refresh(self, name: str, until: datetime | None = None) -> None:
        """In one piece, since by default it takes ten buckets at a time."""
        self._refresh(name, None, until or self.end, IN_ONE_PIECE)

    def refresh_part(self, name: str, start: datetime, end: datetime) -> None:
        self._refresh(name, start, end, IN_ONE_PIECE)

    def longest_wait(self) -> str | None:
        return None

    def refreshes(self) -> Mapping[str, Callable[[str], None]]:
        return {
            "default options": lambda name: self._refresh(name, None, self.end, None),
            IN_ONE_PIECE: self.refresh,
        }

    def _refresh(
        self, name: str, start: datetime | None, end: datetime, options: str | None
    ) -> None:
        self.session.execute(
            f"CALL refresh_continuous_aggregate('gold.{name}', %s::timestamptz, %s::timestamptz,"
            " options => %s::jsonb)",
            start,
            end,
            options,
        )

    def stored(self, name: str) -> str:
        return str(
            self.session.value(
                "SELECT format('%%I.%%I', materialization_hypertable_schema,"
                " materialization_hypertable_name)"
                " FROM timescaledb_information.continuous_aggregates WHERE view_name = %s",
                name,
            )
        )
