"""What a worker says of the refreshes of a database, whoever made them."""

import logging
import time
from collections import Counter, defaultdict
from typing import Any

import psycopg

from tsrollup.newcomers import Newcomers

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]


class Refreshed:
    """What all runs on the database did since it was last told, by its refresh_log."""

    def __init__(self, connection: Connection) -> None:
        self.log = Newcomers(
            "refresh_log",
            "target_table AS target, from_time::text, to_time::text, buckets,"
            " rows_written, rows_deleted,"
            " extract(epoch FROM finished_at - started_at)::float8 AS seconds",
        )
        self.log.read(connection)
        self.told_at = time.monotonic()

    def say_all(self, connection: Connection) -> None:
        """A line for each rollup; where there is none, that the worker is alive."""
        since = self.told_at
        if not self.say_last(connection):
            log.info("alive; nothing was to be refreshed in the last %.0f s", self.told_at - since)

    def say_last(self, connection: Connection) -> bool:
        """A line for each rollup; whether there was one."""
        done: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self.log.read(connection):
            counts = {name: row[name] for name in ("buckets", "rows_written", "rows_deleted")}
            done[row["target"]].update(batches=1, **counts)
        seconds, self.told_at = time.monotonic() - self.told_at, time.monotonic()
        for target, sums in sorted(done.items()):
            facts = {"target": target, **sums}
            log.info(
                "%s: %s batches, %s buckets, %s rows written, %s deleted in the last %.0f s",
                *facts.values(),
                seconds,
                extra=facts,
            )
        return bool(done)

    def say_each(self, connection: Connection) -> None:
        """A line for each batch."""
        for row in self.log.read(connection):
            log.debug(
                "%s: [%s, %s): %s buckets, %s rows written, %s deleted in %.3f s",
                *row.values(),
                extra=row,
            )
