"""No expression runs somebody's code with the machinery's rights, today or once that has come."""

import secrets
from typing import Any

import psycopg
import pytest

from calls import EVIL, FILL, SOURCE, create, create_levels, make_levels
from conftest import Connect
from rollup_checks import assert_settled, refresh_everything
from servers import PostgresServer


@pytest.fixture
def levels(db: psycopg.Connection) -> tuple[str, ...]:
    return make_levels(db)


def test_extensions_of_a_superuser_are_trusted(db: psycopg.Connection) -> None:
    db.execute("CREATE SCHEMA ext")
    db.execute("CREATE EXTENSION citext SCHEMA ext")
    db.execute(SOURCE)
    db.execute(FILL)
    options: dict[str, Any] = {
        "dimensions": ["path"],
        "metrics": {"spent": ["sum"]},
        "expressions": {"path": "upper(host)::citext"},
        "filter": "host::citext = 'H1'::citext",
    }
    with pytest.raises(psycopg.Error, match="may not use schema ext") as caught:
        create(db, "c", "raw.calls", "1 hour", **options)
    db.execute((caught.value.diag.message_hint or "").encode())
    create(db, "c", "raw.calls", "1 hour", **options)
    assert db.execute("SELECT DISTINCT path::text FROM gold.c").fetchall() == [("H1",)]
    refresh_everything(db)
    assert db.execute("SELECT DISTINCT path::text FROM gold.c").fetchall() == [("H1",)]


def test_an_extensions_function_that_needs_the_sessions_path_is_refused(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    """Those of earthdistance name their types without a schema before PostgreSQL 16."""
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION earthdistance CASCADE")
    db.execute(SOURCE)
    options = {
        "metrics": {"far": ["max"]},
        "expressions": {"far": "latitude(ll_to_earth(spent, 2))"},
    }
    if db.info.server_version >= 160000:
        create(db, "c", "raw.calls", "1 hour", **options)
        refresh_everything(db)
        return
    with pytest.raises(psycopg.Error, match="expression far: a function in it looks for") as caught:
        create(db, "c", "raw.calls", "1 hour", **options)
    assert caught.value.sqlstate == "TR001"
    assert "generated column" in (caught.value.diag.message_hint or "")


def test_an_extensions_function_that_somebody_owns_is_refused(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    role = f"somebody_{secrets.token_hex(4)}"
    db.execute(SOURCE)
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION IF NOT EXISTS ltree")
        superuser.execute(f"CREATE ROLE {role}")
        superuser.execute(f"ALTER FUNCTION nlevel(ltree) OWNER TO {role}")
        try:
            with pytest.raises(psycopg.Error, match=r"it uses function public\.nlevel"):
                create(db, "c", "raw.calls", "1 hour", filter="nlevel(text2ltree(host)) = 1")
        finally:
            superuser.execute("ALTER FUNCTION nlevel(ltree) OWNER TO current_user")
            superuser.execute(f"DROP ROLE {role}")


def test_what_a_stranger_could_take_the_place_of_is_refused_or_not_looked_for(
    db: psycopg.Connection, server: PostgresServer, database: str
) -> None:
    role = f"stranger_{secrets.token_hex(4)}"
    db.execute("CREATE TYPE raw.mood AS ENUM ('good', 'bad')")
    db.execute("CREATE TABLE raw.moods (ts timestamptz, name text, mood raw.mood, tags text[])")
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        # A type of his that is found first may run his code while a text is parsed.
        # Who inherits nothing is no member.
        superuser.execute(
            f"""
            CREATE ROLE {role} NOINHERIT; GRANT tsrollup_owner TO {role};
            GRANT CREATE ON SCHEMA public TO {role}; CREATE SCHEMA own AUTHORIZATION {role};
            GRANT CREATE ON DATABASE {database} TO {role};
            SET ROLE {role};
            GRANT USAGE ON SCHEMA own TO PUBLIC;
            CREATE FUNCTION own.ran(text) RETURNS boolean LANGUAGE plpgsql
                AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$;
            CREATE DOMAIN public.mood AS text CHECK (own.ran(value));
            CREATE EXTENSION hstore SCHEMA own;
            """.encode()
        )
        try:
            create(db, "m", "raw.moods", "1 hour", filter="mood = 'bad'::mood")
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,)]
            path = "SELECT rollup_engine.expression_path('raw.moods', true)"
            closed = "SELECT rollup_engine.expression_path('raw.moods', false)"
            assert "public" not in str(db.execute(closed).fetchall())
            (schemas,) = db.execute(path).fetchall()[0]
            assert schemas.endswith(", raw, public, pg_temp")
            assert "own" not in schemas
            with pytest.raises(psycopg.Error, match=r"it uses .*function own\.hstore"):
                create(db, "c", "raw.moods", "1 hour", filter="own.hstore(name, 'x') IS NULL")
            superuser.execute("RESET ROLE; DROP EXTENSION hstore")
            # The owner of a schema may create in it what the list of rights says that he may not.
            superuser.execute(
                f"CREATE SCHEMA aab AUTHORIZATION {role}; CREATE EXTENSION hstore SCHEMA aab;"
                " GRANT USAGE ON SCHEMA aab TO PUBLIC;"
                f" REVOKE CREATE ON SCHEMA aab FROM {role}".encode()
            )
            (schemas,) = db.execute(path).fetchall()[0]
            assert schemas.endswith(", raw, public, aab, pg_temp")
            superuser.execute("DROP EXTENSION hstore; CREATE EXTENSION hstore")
            # Functions of PostgreSQL stay what they were, whoever has others of their names.
            create(db, "l", "raw.moods", "1 hour", filter="left(name, 2) = 'ab'")
            superuser.execute(
                f"SET ROLE {role}; CREATE FUNCTION public.left(varchar, int) RETURNS text"
                " IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$; RESET ROLE".encode()
            )
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar(9)")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,), (None,)]
            db.execute("SELECT silver.rebuild_rollup('l')")
            create(db, "s", "raw.moods", "1 hour", filter="left(name, 3) = 'abc'")
            # A member's is found, where no stranger may put one.
            db.execute(
                "CREATE FUNCTION raw.left(varchar, int) RETURNS text"
                " IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$"
            )
            with pytest.raises(psycopg.Error, match="it uses function raw") as caught:
                create(db, "n", "raw.moods", "1 hour", filter="left(name, 3) = 'abc'")
            assert "as in pg_catalog.left" in (caught.value.diag.message_hint or "")
            create(db, "n", "raw.moods", "1 hour", filter="pg_catalog.left(name, 3) = 'abc'")
            # An operator of his that matches better would read a constant as a type of his.
            create(db, "a", "raw.moods", "1 hour", filter="name = ANY ('{a,b}')")
            superuser.execute(
                f"""
                CREATE EXTENSION citext;
                SET ROLE {role};
                CREATE FUNCTION public.same(varchar, public.mood) RETURNS boolean
                    IMMUTABLE LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR public.= (
                    LEFTARG = varchar, RIGHTARG = public.mood, FUNCTION = public.same);
                CREATE FUNCTION public.meet(text[], public.mood[]) RETURNS boolean
                    IMMUTABLE LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR public.&& (
                    LEFTARG = text[], RIGHTARG = public.mood[], FUNCTION = public.meet);
                RESET ROLE;
                """.encode()
            )
            create(db, "b", "raw.moods", "1 hour", filter="tags && '{a,b}'")
            db.execute("ALTER TABLE raw.moods ALTER name TYPE varchar(8), ADD code public.citext")
            db.execute("SELECT * FROM silver.perform_rollup()")
            told = db.execute("SELECT problem FROM silver.validate_rollup_config()").fetchall()
            assert told == [(None,)] * 6
            # Those of an extension's type are in its schema, where PostgreSQL's would do, too.
            for name, text in (("d", "code = 'ABC'"), ("e", "name::public.citext = 'ABC'")):
                create(db, name, "raw.moods", "1 hour", filter=text)
                used = "SELECT row_sql::text FROM silver.rollup_config ORDER BY id DESC LIMIT 1"
                assert "OPERATOR(public.=)" in str(db.execute(used).fetchone())
            # His function of the very types would be the better match.
            for text, refused in (
                ("hstore(ROW(name)) ? name", r"it uses function public\.hstore\(record\)"),
                ("(name #= hstore('f1', name)) = name", r"it uses operator public\.#="),
            ):
                with pytest.raises(psycopg.Error, match=refused):
                    create(db, "c", "raw.moods", "1 hour", filter=text)
            create(db, "c", "raw.moods", "1 hour", filter="hstore(name, 'x') ? name")
            # A domain is of no function's very type.
            superuser.execute("CREATE EXTENSION IF NOT EXISTS ltree")
            db.execute("CREATE DOMAIN raw.place AS ltree")
            db.execute("CREATE TABLE raw.places (ts timestamptz, place raw.place, v integer)")
            db.execute("INSERT INTO raw.places VALUES ('2026-03-01', 'a.b', 1)")
            db.execute("INSERT INTO silver.dimension_config VALUES ('raw.places', 'place')")
            db.execute("UPDATE silver.dimension_config SET ltree_level = '{1,2}'")
            create(db, "p", "raw.places", "1 hour", dimensions=["place"])
            db.execute(
                "CREATE FUNCTION public.nlevel(raw.place) RETURNS integer IMMUTABLE"
                " LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it ran'; END $$"
            )
            assert db.execute("SELECT count(*) FROM gold.p").fetchone() == (2,)
            refresh_everything(db)
            assert db.execute("SELECT count(*) FROM gold.p").fetchone() == (2,)
        finally:
            superuser.execute("RESET ROLE")
            superuser.execute(f"DROP OWNED BY {role} CASCADE")
            superuser.execute(f"DROP ROLE {role}")


def test_who_creates_rollups_needs_no_superuser_and_gains_no_rights(
    db: psycopg.Connection, connect: Connect, server: PostgresServer, database: str
) -> None:
    role = f"creator_{secrets.token_hex(4)}"
    db.execute(SOURCE)
    db.execute(FILL)
    db.execute(EVIL)
    with psycopg.connect(server.superuser_url(database), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN")
        superuser.execute(f"GRANT USAGE, CREATE ON SCHEMA raw, evil TO {role}")
        superuser.execute(f"ALTER TABLE raw.calls OWNER TO {role}")
        with connect(user=role) as creator:
            with pytest.raises(psycopg.Error):
                create(creator, "c", "raw.calls", "1 hour", filter="status = 200")
            superuser.execute(f"GRANT tsrollup_owner TO {role}")
            levels = create_levels(creator)
            creator.execute(
                "CREATE FUNCTION evil.own() RETURNS integer IMMUTABLE LANGUAGE sql RETURN 1"
            )
            with pytest.raises(psycopg.Error, match=r"it uses function evil\.own"):
                create(creator, "c", "raw.calls", "1 hour", filter="evil.own() = status")
            refresh_everything(creator)
            assert_settled(creator, *levels)
        for name in reversed(levels):
            superuser.execute("SELECT silver.drop_rollup(%s)", [name])
        superuser.execute(f"DROP OWNED BY {role}")
        superuser.execute(f"DROP ROLE {role}")


def test_an_overload_that_comes_later_does_not_run(db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE raw.t (ts timestamptz, name varchar(9), v integer)")
    db.execute("INSERT INTO raw.t VALUES ('2026-03-01', 'A', 1)")
    create(
        db,
        "c",
        "raw.t",
        "1 hour",
        dimensions=["low"],
        metrics={"v": ["sum"]},
        expressions={"low": "lower(name) || repeat('x'::varchar, 2)"},
    )
    refresh_everything(db)
    db.execute(
        "CREATE FUNCTION public.repeat(varchar, integer) RETURNS text IMMUTABLE LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'it ran as %', current_user; END $$"
    )
    db.execute("UPDATE raw.t SET v = 2")
    refresh_everything(db)
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 2)]
    db.execute("ALTER TABLE raw.t ALTER name TYPE varchar(12)")
    db.execute("UPDATE raw.t SET v = 3")
    db.execute("SELECT * FROM silver.perform_rollup(as_of => 'infinity')")
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 3)]
    # It goes on with what the text meant at first; a new text means the other one.
    told = "SELECT target, problem FROM silver.validate_rollup_config()"
    assert db.execute(told).fetchall() == [("silver.c", None)]
    db.execute("UPDATE raw.t SET v = 4")
    assert db.execute("SELECT low, v_sum FROM gold.c").fetchall() == [("axx", 4)]
    with pytest.raises(psycopg.Error, match=r"expression low: it uses function public\.repeat"):
        create(db, "d", "raw.t", "1 hour", expressions={"low": "repeat('x'::varchar, 2)"})
