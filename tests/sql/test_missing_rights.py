"""What the machinery may not read or use stops its own rollups alone, and says what to grant."""

import psycopg
import pytest

from rollup_checks import assert_settled, refresh_everything


def test_a_source_that_the_machinery_may_not_read_any_more_says_what_to_grant(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute("CREATE SCHEMA app; ALTER TABLE raw.readings SET SCHEMA app")
    rows = db.execute(
        "SELECT hint FROM silver.validate_rollup_config() WHERE problem LIKE '% may not read %'"
    ).fetchall()
    assert len(rows) == 1
    db.execute(rows[0][0].encode())
    db.execute("SELECT * FROM silver.perform_rollup()")
    assert db.execute(
        "SELECT bool_and(is_valid) FROM silver.validate_rollup_config()"
    ).fetchone() == (True,)


def test_a_schema_that_the_machinery_may_not_use_stops_its_own_rollups_alone(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE SCHEMA app")
    for table, name in (("raw.readings", "ours"), ("app.theirs", "theirs")):
        db.execute(f"CREATE TABLE {table} (ts timestamptz, n integer)".encode())
        db.execute("SELECT silver.create_rollup_table(%s, 'silver', %s, '1 hour')", [table, name])
    refresh_everything(db)
    db.execute("REVOKE USAGE ON SCHEMA app FROM tsrollup_owner")
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01', 1)")
    db.execute("CALL silver.run_rollups()")
    assert_settled(db, "ours")
    healths = "SELECT target_table::text, health FROM silver.timeseries_operations_monitor"
    assert set(db.execute(healths)) == {("silver.ours", "ok"), ("silver.theirs", "invalid")}
    hints = db.execute(
        "SELECT target, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    ).fetchall()
    assert {target for target, _ in hints} == {"silver.theirs"}
    db.execute(hints[0][1].encode())
    refresh_everything(db)
    assert_settled(db, "ours", "theirs")


def test_types_that_the_machinery_may_not_use_say_what_to_grant(db: psycopg.Connection) -> None:
    """A sum of them it may store; adding a metric asks as creating does."""
    db.execute(
        'CREATE SCHEMA "my app"; CREATE TYPE "my app".mood AS ENUM (\'sad\');'
        'CREATE DOMAIN "my app".pos AS integer; REVOKE USAGE ON TYPE "my app".mood FROM PUBLIC;'
        'CREATE TABLE raw.t (ts timestamptz, m "my app".mood, p "my app".pos);'
        "SELECT silver.create_rollup_table('t', 'silver', 't_1h', '1 hour',"
        " dimensions => '{}', metrics => '{\"p\": [\"sum\"]}')"
    )
    create = "SELECT silver.create_rollup_table('t', 'silver', 't_1d', '1 day', dimensions => "
    add = "SELECT silver.add_rollup_metric('t_1h', "
    in_schema, of_type = 'SCHEMA "my app"', 'TYPE "my app".mood'
    for statement, *refusals in (
        (create + "'{m}')", ("TR004", in_schema), ("TR004", of_type)),
        (add + '\'{"m": ["last"]}\')', ("TR004", in_schema), ("TR004", of_type)),
        (
            create + "'{x}', expressions => '{\"x\": \"ARRAY[m]\"}')",
            ("TR001", in_schema),
            ("TR004", of_type),
        ),
        (
            add + """'{"x": ["last"]}', '{"x": "coalesce(m)"}')""",
            ("TR001", of_type),
            ("TR001", in_schema),
        ),
    ):
        with db.transaction(force_rollback=True):
            for code, missing in refusals:
                with pytest.raises(psycopg.Error) as failure, db.transaction():
                    db.execute(statement.encode())
                assert failure.value.sqlstate == code
                hint = failure.value.diag.message_hint
                assert hint == f"GRANT USAGE ON {missing} TO tsrollup_owner"
                db.execute(hint.encode())
            db.execute(statement.encode())
    # Its next partition, too.
    for right in (in_schema, of_type):
        hint = f"GRANT USAGE ON {right} TO tsrollup_owner"
        db.execute(hint.encode())
    db.execute((create + "'{m}')").encode())
    db.execute(f"REVOKE USAGE ON {of_type} FROM tsrollup_owner".encode())
    db.execute("INSERT INTO raw.t VALUES ('1900-03-01', 'sad')")
    db.execute("CALL silver.run_rollups()")
    assert db.execute("SELECT hint FROM silver.error_log").fetchall() == [(hint,)]


def test_what_expressions_take_from_a_schema_that_is_closed_says_what_to_grant(
    db: psycopg.Connection,
) -> None:
    """When it is created, and when the right is lost later, which stops no other rollup."""
    grant = 'GRANT USAGE ON SCHEMA "my app" TO tsrollup_owner'
    db.execute(
        "CREATE SCHEMA \"my app\"; CREATE TYPE \"my app\".mood AS ENUM ('sad', 'ok');"
        'CREATE COLLATION "my app".c FROM "C"; CREATE TABLE raw.other (ts timestamptz, n integer);'
        'CREATE TABLE raw.t (ts timestamptz, m "my app".mood, h text COLLATE "my app".c);'
        "SELECT silver.create_rollup_table('other', 'silver', 'other_1h', '1 hour')"
    )
    create = (
        "SELECT silver.create_rollup_table('t', 'silver', 't_1h', '1 hour', dimensions => %s,"
        " metrics => '{}', expressions => %s, filter => %s)"
    )
    for dimensions, expressions, condition in (
        ("{h}", None, None),
        ("{x}", '{"x": "m::text COLLATE \\"my app\\".c"}', None),
        ("{x}", '{"x": "h || h"}', None),
        ("{}", None, "m = 'sad'"),
    ):
        with pytest.raises(psycopg.Error, match="may not use") as failure:
            db.execute(create, [dimensions, expressions, condition])
        assert failure.value.diag.message_hint == grant
    db.execute(grant.encode())
    db.execute(create, ["{m}", None, "m = 'sad'"])
    refresh_everything(db)
    db.execute(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM ").encode())
    validate = "SELECT target, hint FROM silver.validate_rollup_config() WHERE NOT is_valid"
    for change in (
        "INSERT INTO raw.t VALUES ('2026-03-01', 'sad');"
        "INSERT INTO raw.other VALUES ('2026-03-01', 1)",
        "ALTER TABLE raw.t RENAME m TO mood",
    ):
        db.execute(change.encode())
        db.execute("CALL silver.run_rollups()")
        assert_settled(db, "other_1h")
        hints: dict[str, str] = dict(db.execute(validate).fetchall())
        assert [target for target in hints if hints[target].startswith(grant)] == ["silver.t_1h"]
    ((message, hint),) = db.execute("SELECT error_message, hint FROM silver.error_log")
    assert (message, hint) == (
        'tsrollup_owner may not use "my app".mood, which columns of raw.t are of',
        grant,
    )
    for statement in (
        "SELECT silver.rebuild_rollup('t_1h')",
        "SELECT silver.add_rollup_metric('t_1h', '{\"mood\": [\"count\"]}')",
    ):
        with pytest.raises(psycopg.Error, match="may not use") as failure:
            db.execute(statement.encode())
        assert failure.value.diag.message_hint == grant
    db.execute("ALTER TABLE raw.t RENAME mood TO m")
    db.execute(f"{grant}; SELECT silver.rebuild_rollup('t_1h')".encode())
    refresh_everything(db)
    assert_settled(db, "t_1h")
    assert db.execute(validate).fetchall() == []


def test_a_rollup_in_a_schema_that_the_machinery_may_not_use_says_what_to_grant(
    db: psycopg.Connection,
) -> None:
    db.execute("CREATE TABLE raw.readings (ts timestamptz, n integer)")
    db.execute("SELECT silver.create_rollup_table('readings', 'silver', 'readings_1h', '1 hour')")
    db.execute("SELECT silver.create_rollup_table('readings_1h', 'silver', 'readings_1d', '1 day')")
    refresh_everything(db)
    db.execute("CREATE SCHEMA app; ALTER TABLE silver.readings_1h SET SCHEMA app")
    db.execute("INSERT INTO raw.readings VALUES ('2026-03-01 00:00+00', 1)")
    rows = db.execute(
        "SELECT reason, next_step FROM silver.timeseries_operations_monitor"
    ).fetchall()
    assert [reason for reason, _ in rows if "may not use schema app" not in reason] == []
    ((next_step,),) = {(row[1],) for row in rows}
    db.execute("GRANT USAGE ON SCHEMA app TO tsrollup_owner")
    db.execute("INSERT INTO raw.readings VALUES ('2046-03-01 00:00+00', 1)")  # for a new partition
    db.execute("SELECT * FROM silver.perform_rollup(as_of => '2047-01-01')")
    hints = db.execute("SELECT DISTINCT error_code, hint FROM silver.error_log").fetchall()
    assert hints == [("TR004", next_step)]
    db.execute(next_step.encode())
    db.execute("SELECT silver.reset_rollup_retry('app.readings_1h')")
    refresh_everything(db)
    assert_settled(db, "app.readings_1h", "readings_1d")
    healths = db.execute("SELECT health FROM silver.timeseries_operations_monitor").fetchall()
    assert healths == [("ok",), ("ok",)]
