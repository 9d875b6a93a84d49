"""Callbacks, clean, repair and what else the commands take."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table

EVENTS = (
    "beforeMigrate", "beforeEachMigrate", "afterEachMigrate", "afterVersioned",
    "beforeRepeatables", "afterMigrateApplied", "afterMigrate", "afterMigrateError",
    "afterEachMigrateError", "beforeValidate", "afterValidate", "afterValidateError",
    "beforeBaseline", "afterBaseline", "beforeRepair", "afterRepair", "beforeClean", "afterClean",
    "createSchema",
)  # fmt: skip


def note_events(w: World) -> None:
    """Every event leaves a line in a table outside the schemas at work."""
    w.sql("CREATE TABLE told (at serial, event text)")
    w.defaults["schemas"] = "app1"
    for event in EVENTS:
        w.write(f"{event}.sql", f"INSERT INTO public.told (event) VALUES ('{event}');\n")


@scenario
def callbacks_of_migrate(w: World) -> None:
    note_events(w)
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    w.write("R__r.sql")
    w.write("R__s.sql")
    assert w.run("migrate")
    assert w.run("migrate")
    w.write("R__r.sql", "SELECT 2;\n")
    assert w.run("migrate")
    w.write("V3__c.sql", table("c"))
    assert w.run("migrate")


@scenario
def callbacks_of_versioned_migrations_only(w: World) -> None:
    note_events(w)
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def callbacks_of_a_failure(w: World) -> None:
    note_events(w)
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.write("V2__b.sql", table("b"))
    w.write("V1__a.sql", table("a") + " ")
    assert not w.run("validate")
    assert not w.run("migrate")


@scenario
def callbacks_of_the_other_commands(w: World) -> None:
    note_events(w)
    w.write("V2__b.sql", table("b"))
    assert w.run("baseline")
    assert w.run("baseline")
    assert w.run("migrate")
    assert w.run("validate")
    assert w.run("repair")
    assert w.run("clean", cleanDisabled="false")


@scenario
def callbacks_with_descriptions_in_order(w: World) -> None:
    w.sql("CREATE TABLE told (at serial, event text)")
    w.defaults["schemas"] = "app1"
    for name in ("afterMigrate__b", "afterMigrate", "afterMigrate__a_a", "afterMigrate__B"):
        w.write(f"{name}.sql", f"INSERT INTO public.told (event) VALUES ('{name}');\n")
    w.write("sub/afterMigrate__c.sql", "INSERT INTO public.told (event) VALUES ('c');\n")
    w.write("aftermigrate__x.sql", "INSERT INTO public.told (event) VALUES ('not run');\n")
    assert w.run("migrate")


@scenario
def duplicate_callbacks(w: World) -> None:
    w.write("afterMigrate.sql")
    w.write("sub/afterMigrate.sql")
    w.run("migrate")


@scenario
def failing_callbacks(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("afterEachMigrate.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.remove("afterEachMigrate.sql")
    w.write("beforeMigrate.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.remove("beforeMigrate.sql")
    w.write("afterMigrate.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.remove("afterMigrate.sql")
    assert w.run("migrate")


@scenario
def refusing_before_clean(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("beforeClean.sql", "DO $$ BEGIN RAISE 'not while ${reason}'; END $$;\n")
    w.defaults["placeholders.reason"] = "rollups exist"
    assert w.run("migrate")
    assert not w.run("clean", cleanDisabled="false")


@scenario
def callbacks_change_what_scripts_see(w: World) -> None:
    w.write("beforeEachMigrate.sql", "CREATE TABLE IF NOT EXISTS helper (i int);\n")
    w.write("V1__a.sql", "INSERT INTO helper VALUES (1);\n")
    assert w.run("migrate")


@scenario
def clean_is_disabled(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    assert not w.run("clean")


@scenario
def clean_everything(w: World) -> None:
    w.sql("CREATE SCHEMA app1; CREATE SCHEMA kept; CREATE TABLE kept.t (i int)")
    w.defaults["schemas"] = "app1"
    w.write(
        "V1__all.sql",
        "CREATE TYPE e AS ENUM ('a'); CREATE DOMAIN d AS int; CREATE TYPE c AS (i int);\n"
        "CREATE TABLE t (i serial PRIMARY KEY, e e, d d, c c);\n"
        "CREATE TABLE identity (g int GENERATED ALWAYS AS IDENTITY);\n"
        "CREATE TABLE child () INHERITS (t);\n"
        "CREATE TABLE p (i int) PARTITION BY RANGE (i);\n"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2);\n"
        "CREATE VIEW v AS SELECT * FROM t; CREATE VIEW kept.v AS SELECT * FROM t;\n"
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v;\n"
        "CREATE FUNCTION f(i int, VARIADIC t text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
        "CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';\n"
        "CREATE TRIGGER trig BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION trig();\n"
        "CREATE PROCEDURE pr(i int) LANGUAGE sql AS 'SELECT 1';\n"
        "CREATE AGGREGATE agg(int) (sfunc = int4pl, stype = int);\n"
        "CREATE SEQUENCE s; CREATE COLLATION co (locale = 'C');\n"
        "CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq);\n"
        "CREATE TEXT SEARCH CONFIGURATION tsc (COPY = simple);\n"
        'CREATE TABLE "odd "" name" (i int);\n',
    )
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")
    w.sql("DROP OPERATOR IF EXISTS app1.=== (int, int)")
    w.sql("DROP TEXT SEARCH CONFIGURATION IF EXISTS app1.tsc")
    assert w.run("migrate")


@scenario
def clean_with_extensions(w: World) -> None:
    w.sql("CREATE SCHEMA app1")
    w.defaults["schemas"] = "app1"
    w.write("V1__all.sql", "CREATE EXTENSION citext SCHEMA app1; CREATE TABLE t (c citext);\n")
    w.write("V2__more.sql", "CREATE EXTENSION hstore SCHEMA public;\n")
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def clean_of_what_does_not_exist(w: World) -> None:
    w.run("clean", cleanDisabled="false", schemas="nowhere")
    w.run("clean", cleanDisabled="false")


@scenario
def clean_of_two_schemas(w: World) -> None:
    w.defaults["schemas"] = "app1,app2"
    w.write("V1__a.sql", table("a") + "CREATE TABLE app2.b (i int);\n")
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false", schemas="app1")
    w.run("migrate")


@scenario
def repair_without_a_history(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.run("repair")
    w.run("repair", schemas="nowhere")


@scenario
def repair_of_several_faults(w: World) -> None:
    for version in range(1, 5):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    w.write("R__r.sql")
    assert w.run("migrate")
    w.write("V1__x.sql", table("t1") + "-- changed\n")
    w.remove("V2__x.sql")
    w.remove("V3__x.sql")
    w.write("V3__renamed.sql", table("t3"))
    w.write("R__r.sql", "SELECT 2;\n")
    assert not w.run("validate")
    assert w.run("repair")
    assert w.run("repair")
    assert w.run("migrate")


@scenario
def validate_without_a_history(w: World) -> None:
    w.run("validate")
    w.run("validate", schemas="nowhere")
    w.write("V1__a.sql", table("a"))
    w.run("validate")
    w.run("validate", schemas="nowhere")
    w.run("validate", schemas="nowhere", ignoreMigrationPatterns="*:pending")


@scenario
def who_installed_it(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate", installedBy="somebody")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def own_table_and_tablespace(w: World) -> None:
    w.defaults |= {"table": "My History", "tablespace": "pg_default"}
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def init_sql(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT current_setting('my.x') AS x;\n")
    assert w.run("migrate", initSql="SET my.x = 'set'; SELECT 1")


@scenario
def row_of_an_unknown_type(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.sql("UPDATE flyway_schema_history SET type = 'UNDO_SQL'")
    w.run("validate")
    w.run("migrate")


@scenario
def type_mismatch(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")
    w.sql("UPDATE flyway_schema_history SET type = 'JDBC' WHERE installed_rank = 1")
    w.run("validate")
    w.run("repair")
    w.run("validate")
