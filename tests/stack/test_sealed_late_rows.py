"""Promise f: late rows in sealed time are kept, counted and shown, and change no rollup."""

import psycopg
import pytest

from retained_days import day, maintain, make_source, sealed, total
from rollup_checks import assert_settled, refresh_everything
from scenes import scene

pytestmark = pytest.mark.partman


@scene
def source(db: psycopg.Connection) -> psycopg.Connection:
    return make_source(db)


def test_late_rows_are_kept_counted_and_shown_and_change_no_rollup(
    source: psycopg.Connection,
) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    maintain(source)
    source.execute(
        "INSERT INTO raw.readings SELECT '2026-03-02 10:30+00', n, n FROM generate_series(1, 7) n"
    )
    source.execute("INSERT INTO raw.readings VALUES ('1999-01-01 00:00+00', 1, 1)")
    assert total(source) == total(source, "gold.readings_1d") == 240
    refresh_everything(source)
    assert total(source) == total(source, "gold.readings_1d") == 240
    assert sealed(source) == {"readings_1h": (8, day(8)), "readings_1d": (8, day(8))}
    errors = source.execute(
        "SELECT error_message, detail FROM silver.error_log WHERE error_code = 'TR006'"
        " AND target_table = 'silver.readings_1h' ORDER BY id"
    ).fetchall()
    assert errors
    assert "1999-01-01" in errors[0][1]
    maintain(source)
    rows = source.execute(
        "SELECT tableoid::regclass::text, count(*) FROM raw.readings"
        " WHERE ts < '2026-03-08' GROUP BY 1"
    ).fetchall()
    assert rows == [("raw.readings_default", 8)]
    source.execute("UPDATE raw.readings SET level = 9 WHERE ts < '2026-03-08'")
    source.execute("DELETE FROM raw.readings WHERE ts < '2026-03-08'")
    refresh_everything(source)
    assert total(source) == 240
    assert_settled(source, "readings_1h")


def test_a_late_row_between_seal_and_drop_is_counted(source: psycopg.Connection) -> None:
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    source.execute("INSERT INTO raw.readings VALUES ('2026-03-02 10:30+00', 1, 1)")
    maintain(source)
    refresh_everything(source)
    assert total(source) == 240
    assert sealed(source)["readings_1h"] == (1, day(8))


def test_what_somebody_asks_for_in_sealed_time_is_not_late(source: psycopg.Connection) -> None:
    """Nobody has written there: a notice tells who asks, and the log of errors nobody."""
    source.execute("SELECT silver.set_retention('readings', '3 days')")
    refresh_everything(source)
    maintain(source)
    heard: list[str] = []
    source.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    source.execute("SELECT silver.mark_stale('readings', %s, %s)", [day(1), day(4)])
    assert len(heard) == 1
    refresh_everything(source)
    late = "SELECT count(*) FROM silver.error_log WHERE error_code = 'TR006'"
    assert source.execute(late).fetchone() == (0,)
    source.execute("DELETE FROM raw.readings WHERE ts < %s", [day(2)])
    refresh_everything(source)
    assert source.execute(late).fetchone() == (2,)
    assert total(source) == 240


def test_late_rows_of_a_source_that_is_kept_after_all_are_not_said_to_go(
    source: psycopg.Connection,
) -> None:
    refresh_everything(source)
    source.execute("SELECT silver.set_retention('raw.readings', '5 days')")
    assert ("raw.readings", "sealed") in maintain(source)
    source.execute("SELECT silver.set_retention('raw.readings', NULL)")
    source.execute("INSERT INTO raw.readings VALUES (%s, 1, 1)", [day(2)])
    refresh_everything(source)
    hints = source.execute("SELECT DISTINCT hint FROM silver.error_log").fetchall()
    assert len(hints) == 1
    assert hints[0][0].startswith("rows are in the source, which is kept for ever")
