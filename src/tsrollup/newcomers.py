"""The rows of a log that came into sight since the last look.

Numbers are given in the order of INSERT, and rows come into sight in that of COMMIT: a number that
is missing below one that is there may still come, until whoever was at work then has ended.
"""

from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from tsrollup.connection import pinned

FIRST_LOOK = 1000  # as far back, numbers that are missing at the first look are waited for


class Newcomers:
    """`columns` of the rows of a log of schema silver, each given once; what is there at the first
    look is not new, nor where numbers begin anew: in a database that was restored."""

    def __init__(self, log: LiteralString, columns: LiteralString) -> None:
        self.query = (
            f"SELECT id, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest,"
            f" pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS following, {columns}"
            f" FROM silver.{log} WHERE id > %s OR id = ANY (%s) ORDER BY id"
        )
        self.newest = f"SELECT coalesce(max(id), 0) AS id FROM silver.{log}"
        self.last: int | None = None
        self.missing: dict[int, int] = {}
        """Each may come until all transactions before one have ended."""

    def read(self, connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
        with pinned(connection), connection.cursor(row_factory=dict_row) as cursor:
            (newest,) = cursor.execute(self.newest).fetchall()
            last, missing = self.last, self.missing
            is_first = last is None or newest["id"] < last
            if last is None or is_first:
                last, missing = max(newest["id"] - FIRST_LOOK, 0), {}
            found = cursor.execute(self.query, [last, [*missing]]).fetchall()
        rows = {row.pop("id"): row for row in found}
        self.last = max([last, *rows])
        oldest = following = 0
        for row in found:
            oldest, following = row.pop("oldest"), row.pop("following")
        missing |= dict.fromkeys(range(last + 1, self.last), following)
        self.missing = {
            number: until
            for number, until in missing.items()
            if number not in rows and until > oldest
        }
        return [] if is_first else found
