"""Live views that are made anew: one that somebody has dropped, one whose columns change types."""

from typing import Any

import psycopg
import pytest

from rollup_checks import (
    assert_equal_to_group_by,
    assert_settled,
    force_configuration,
    refresh_everything,
)
from scenes import scene

VIEWS = ("t_1h", "t_1d", "t_1w")
MADE_OF_IT = """
    SELECT relowner::regrole::text, reloptions, obj_description(oid, 'pg_class'),
        ARRAY(SELECT unnest(relacl)::text ORDER BY 1),
        ARRAY(SELECT ROW(attname, col_description(oid, attnum), attacl)::text
              FROM pg_attribute WHERE attrelid = oid AND attnum > 0 ORDER BY attnum LIMIT 4)
    FROM pg_class WHERE oid = 'gold.t_1h'::regclass
"""


@scene
def rolled_up(db: psycopg.Connection) -> psycopg.Connection:
    """Three levels, settled."""
    db.execute("CREATE TABLE raw.t (ts timestamptz NOT NULL, device text, v integer)")
    db.execute(
        "INSERT INTO raw.t SELECT timestamptz '2026-03-01 12:00+00' + make_interval(mins => 7 * i),"
        " 'd' || i % 3, i FROM generate_series(0, 499) AS i"
    )
    for source, view, width in (
        ("raw.t", "t_1h", "1 hour"),
        ("silver.t_1h", "t_1d", "1 day"),
        ("silver.t_1d", "t_1w", "7 days"),
    ):
        db.execute(
            "SELECT silver.create_rollup_table(%s, 'silver', %s, %s::interval)",
            [source, view, width],
        )
    refresh_everything(db)
    return db


def problems(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT target, problem, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
        " ORDER BY target"
    ).fetchall()


def test_a_live_view_that_is_gone_is_made_anew(rolled_up: psycopg.Connection) -> None:
    """With the rollup's rows, and those of sealed time that the source has no more."""
    sealed = "SELECT count(*), sum(v_sum) FROM silver.t_1h WHERE bucket < '2026-03-02 00:00+00'"
    before = rolled_up.execute(sealed).fetchone()
    force_configuration(rolled_up, "sealed_before = '2026-03-02 00:00+00'")
    rolled_up.execute("DELETE FROM raw.t WHERE ts < '2026-03-02 00:00+00'")
    rolled_up.execute("DROP VIEW gold.t_1h")
    hint = (
        "SELECT silver.rebuild_rollup('silver.t_1h') makes it anew;"
        " rights that were given on it must be given again"
    )
    above = "silver.t_1h, which it reads, is not valid: its live view is gone"
    assert problems(rolled_up) == [
        ("silver.t_1d", above, hint),
        ("silver.t_1h", "its live view is gone", hint),
        ("silver.t_1w", above, hint),
    ]
    rolled_up.execute("UPDATE raw.t SET v = v + 1")
    assert_equal_to_group_by(rolled_up, "t_1d", "t_1w")
    with pytest.raises(psycopg.Error, match=r"the live view of silver\.t_1h is gone") as raised:
        rolled_up.execute("""SELECT silver.add_rollup_metric('silver.t_1h', '{"v": ["first"]}')""")
    assert raised.value.diag.message_hint == (
        "SELECT silver.rebuild_rollup('silver.t_1h') makes it anew"
    )
    names = "{t_1h,gold.t_1h,silver.t_1h}"
    found = f"SELECT rollup_engine.rollup_id(t) FROM unnest('{names}'::text[]) AS t".encode()
    assert len(set(rolled_up.execute(found).fetchall())) == 1
    refresh_everything(rolled_up)

    rolled_up.execute("DROP VIEW gold.t_1d")
    notices: list[str] = []
    rolled_up.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    rolled_up.execute("SELECT silver.rebuild_rollup('silver.t_1h')")
    assert notices == [
        f"gold.{view} is made anew: rights that were given on it are gone with the old one"
        for view in ("t_1h", "t_1d")
    ]
    assert problems(rolled_up) == []
    assert_equal_to_group_by(rolled_up, *VIEWS)
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *VIEWS)
    assert rolled_up.execute(sealed).fetchone() == before
    row = rolled_up.execute(
        "SELECT has_table_privilege('tsrollup_reader', 'gold.t_1h', 'SELECT'),"
        " obj_description('gold.t_1h'::regclass)"
    ).fetchone()
    assert row
    assert row[0]
    assert row[1].startswith("Live view of silver.t_1h")
    assert rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []


def test_a_live_view_that_is_gone_and_types_that_changed(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("ALTER TABLE raw.t ALTER v TYPE numeric")
    rolled_up.execute("DROP VIEW gold.t_1h")
    rolled_up.execute("CREATE VIEW gold.t_1h AS SELECT 1")
    with pytest.raises(psycopg.Error, match=r"gold\.t_1h is in the way"):
        rolled_up.execute("SELECT silver.rebuild_rollup('silver.t_1h')")
    rolled_up.execute("DROP VIEW gold.t_1h")
    rolled_up.execute("DROP FUNCTION rollup_engine.live_1")
    rolled_up.execute("SELECT silver.rebuild_rollup('silver.t_1h')")
    rolled_up.execute("UPDATE raw.t SET v = v + 0.25")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *VIEWS)
    assert problems(rolled_up) == []


def test_what_a_refresh_stores_by_is_put_together_anew_where_it_is_gone(
    rolled_up: psycopg.Connection,
) -> None:
    rolled_up.execute("DROP FUNCTION rollup_engine.upsert_1")
    rolled_up.execute("UPDATE raw.t SET v = v + 1")
    rolled_up.execute("DELETE FROM raw.t WHERE ts < '2026-03-02 00:00+00'")
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *VIEWS)
    rolled_up.execute("SELECT silver.drop_rollup('silver.t_1w')")
    left = "SELECT proname FROM pg_proc WHERE proname ~ '^(upsert|live)_3'"
    assert rolled_up.execute(left).fetchall() == []


def test_a_rollup_whose_table_is_gone_is_said_to_be_dropped(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute("DROP TABLE silver.t_1w CASCADE")
    (problem,) = [problem for problem in problems(rolled_up) if "table is gone" in problem[1]]
    statement, _, _ = problem[2].partition(" removes what is left")
    target = statement.split("'")[1]
    for change in ("SELECT", "UPDATE raw.t SET v = v + 1"):
        rolled_up.execute(change.encode())
        rows = rolled_up.execute(
            "SELECT status, error_message FROM silver.perform_rollup(%s, as_of => 'infinity')",
            [target],
        ).fetchall()
        assert rows == [("failed", "the table of silver.t_1w is gone")]
    actions = rolled_up.execute("SELECT * FROM silver.maintain_timeseries_tables()").fetchall()
    assert "failed" not in {action for _, action, _ in actions}
    with pytest.raises(psycopg.Error, match=r"the table of silver\.t_1w is gone"):
        rolled_up.execute("SELECT silver.rebuild_rollup('silver.t_1d')")
    rolled_up.execute(statement.encode())
    assert problems(rolled_up) == []


def test_a_view_made_anew_is_as_people_have_it(rolled_up: psycopg.Connection) -> None:
    """By a new metric, a migrate and a rebuild; rights that were taken away stay away."""
    for statement in (
        'ALTER VIEW gold.t_1h RENAME COLUMN v_sum TO "Total, all"',
        "ALTER VIEW gold.t_1h SET (security_barrier = true)",
        'GRANT SELECT (bucket, "Total, all") ON gold.t_1h TO tsrollup_writer',
        "GRANT SELECT (v_count) ON gold.t_1h TO tsrollup_operator WITH GRANT OPTION",
        "REVOKE ALL ON gold.t_1h FROM tsrollup_reader",
        "GRANT SELECT, REFERENCES ON gold.t_1h TO PUBLIC",
        "COMMENT ON VIEW gold.t_1h IS 'ours'",
        "COMMENT ON COLUMN gold.t_1h.\"Total, all\" IS 'a \\ of it''s sum'",
    ):
        rolled_up.execute(statement.encode())
    before = rolled_up.execute(MADE_OF_IT).fetchone()
    rolled_up.execute("""SELECT silver.add_rollup_metric('t_1h', '{"v": ["first"]}')""")
    assert rolled_up.execute(MADE_OF_IT).fetchone() == before
    rolled_up.execute("UPDATE rollup_engine.generated_text SET digest = ''")
    rolled_up.execute("SELECT rollup_engine.regenerate()")
    assert rolled_up.execute(MADE_OF_IT).fetchone() == before
    rolled_up.execute("ALTER TABLE raw.t ALTER v TYPE numeric")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    assert rolled_up.execute(MADE_OF_IT).fetchone() == before
    assert rolled_up.execute("SELECT rollup_engine.outdated_texts()").fetchall() == []
    refresh_everything(rolled_up)
    assert_settled(rolled_up, "t_1d", "t_1w")


def test_what_would_go_with_a_view_keeps_it(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'"
    )
    rolled_up.execute(
        "CREATE TRIGGER refuse INSTEAD OF DELETE ON gold.t_1h"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    rolled_up.execute("CREATE RULE nothing AS ON INSERT TO gold.t_1h DO INSTEAD NOTHING")
    rolled_up.execute("ALTER TABLE raw.t ALTER v TYPE numeric")
    with pytest.raises(psycopg.Error, match=r"rule nothing .* trigger refuse .* rests on it"):
        rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")
    rolled_up.execute("DROP TRIGGER refuse ON gold.t_1h")
    rolled_up.execute("DROP RULE nothing ON gold.t_1h")
    rolled_up.execute("SELECT silver.rebuild_rollup('t_1h')")


def test_a_trigger_that_changes_what_is_stored_is_named(rolled_up: psycopg.Connection) -> None:
    rolled_up.execute(
        "CREATE FUNCTION public.change() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN NEW.v_sum := 7; RETURN NEW; END'"
    )
    rolled_up.execute(
        "CREATE TRIGGER change BEFORE INSERT ON silver.t_1h"
        " FOR EACH ROW EXECUTE FUNCTION public.change()"
    )
    rolled_up.execute("INSERT INTO raw.t VALUES ('2026-03-20 12:00+00', 'new', 1)")
    refresh_everything(rolled_up)
    (_, problem, hint) = problems(rolled_up)[1]
    assert problem == "trigger change of silver.t_1h may change what refreshes store there"
    for statement in hint.removesuffix(" if it has").split("; and "):
        rolled_up.execute(statement.encode())
    assert problems(rolled_up) == []
    refresh_everything(rolled_up)
    assert_settled(rolled_up, *VIEWS)
