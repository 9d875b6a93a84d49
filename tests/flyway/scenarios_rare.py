"""What few people set, and fewer set together."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table


@scenario
def callbacks_of_connections_and_statements(w: World) -> None:
    w.sql("CREATE TABLE told (at serial, event text)")
    w.defaults["schemas"] = "app1"
    for event in ("beforeConnect", "afterConnect", "beforeEachMigrateStatement",
                  "afterEachMigrateStatement", "afterEachMigrateStatementError",
                  "createSchema", "beforeCreateSchema"):  # fmt: skip
        w.write(f"{event}.sql", f"INSERT INTO public.told (event) VALUES ('{event}');\n")
    w.write("V1__a.sql", table("a") + "SELECT 1;\n")
    w.run("migrate")
    w.write("V2__b.sql", table("b") + "SELECT 1/0;\n")
    w.run("migrate")


@scenario
def own_placeholder_separator(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT '${flyway.user}' AS u;\n")
    w.run("migrate", placeholderSeparator=".")


@scenario
def no_ignore_patterns(w: World) -> None:
    for version in (1, 2):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("migrate")
    w.remove("V2__x.sql")
    w.run("validate", ignoreMigrationPatterns="")
    w.run("migrate", ignoreMigrationPatterns="")
    w.run("repair", ignoreMigrationPatterns="")
    w.run("migrate", ignoreMigrationPatterns="")


@scenario
def never_in_a_transaction(w: World) -> None:
    w.defaults |= {"executeInTransaction": "false", "postgresql.transactional.lock": "false"}
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b") + "SELECT 1/0;\n")
    w.write("R__r.sql")
    assert not w.run("migrate")
    w.run("repair")
    w.write("V2__b.sql", "SELECT 1;\n")
    assert w.run("migrate")


@scenario
def a_script_forced_into_a_transaction(w: World) -> None:
    w.write("V1__a.sql", "VACUUM;\n")
    w.write("V1__a.sql.conf", "executeInTransaction=true\n")
    w.run("migrate")


@scenario
def a_failed_row_and_no_validation(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", "SELECT 1/0;\n")
    w.write("V2__b.sql.conf", "executeInTransaction=false\n")
    assert not w.run("migrate", postgresql__transactional__lock="false")
    w.write("V2__b.sql", table("b"))
    w.run("migrate", validateOnMigrate="false")


@scenario
def a_view_has_the_history_tables_name(w: World) -> None:
    w.sql("CREATE VIEW flyway_schema_history AS SELECT 1 AS one")
    w.write("V1__a.sql", table("a"))
    w.run("migrate")


@scenario
def baseline_versions_with_zeros(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    for version in ("1", "1.0.1", "2"):
        w.write(f"V{version}__x.sql", table(f"t{version.replace('.', '_')}"))
    assert w.run("baseline", baselineVersion="01.0")
    assert w.run("migrate")
    w.run("baseline", baselineVersion="1")


@scenario
def baseline_version_without_a_script(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    w.write("V1__a.sql", table("a"))
    w.write("V3__c.sql", table("c"))
    assert w.run("migrate", baselineOnMigrate="true", baselineVersion="2")
    w.write("V2_5__late.sql", table("late"))
    w.run("migrate")
    w.run("migrate", outOfOrder="true")


@scenario
def out_of_order_below_the_baseline(w: World) -> None:
    assert w.run("baseline", baselineVersion="5")
    w.write("V1__a.sql", table("a"))
    w.write("V6__f.sql", table("f"))
    assert w.run("migrate", outOfOrder="true")


@scenario
def checksums_below_the_baseline_do_not_matter(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")
    w.sql(
        "INSERT INTO flyway_schema_history (installed_rank, version, description, type, script,"
        " installed_by, execution_time, success)"
        " VALUES (3, '2', 'b', 'BASELINE', 'b', 'me', 0, true)"
    )
    w.write("V1__a.sql", table("a") + "-- edited\n")
    w.run("validate")
    w.run("migrate")


@scenario
def repeatable_in_a_failing_group(w: World) -> None:
    w.defaults["group"] = "true"
    w.write("V1__a.sql", table("a"))
    w.write("R__r.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.write("R__r.sql", "SELECT 1;\n")
    assert w.run("migrate")


@scenario
def repeatable_deleted_twice(w: World) -> None:
    w.write("R__r.sql")
    assert w.run("migrate")
    for text in ("SELECT 2;\n", "SELECT 3;\n"):
        w.remove("R__r.sql")
        w.run("repair")
        w.write("R__r.sql", text)
        w.run("migrate")


@scenario
def versioned_deleted_twice(w: World) -> None:
    w.write("V1__a.sql", "SELECT 1;\n")
    w.write("V2__b.sql", "SELECT 1;\n")
    assert w.run("migrate")
    for _ in range(2):
        w.remove("V1__a.sql")
        w.run("repair")
        w.write("V1__a.sql", "SELECT 1;\n")
        w.run("migrate", outOfOrder="true")
    w.run("validate")


@scenario
def validate_of_files_only_in_the_history(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")
    w.remove("V1__a.sql")
    w.remove("V2__b.sql")
    for patterns in ("*:future", "*:missing", "versioned:missing,versioned:future", "repeatable:*"):
        w.run("validate", ignoreMigrationPatterns=patterns)


@scenario
def sequences_and_identity_after_clean(w: World) -> None:
    w.sql("CREATE SCHEMA app1")
    w.defaults["schemas"] = "app1"
    w.write(
        "V1__a.sql",
        "CREATE SEQUENCE s; CREATE TABLE t (i int DEFAULT nextval('s'), j serial);\n"
        "CREATE TABLE other (r t, a t[]); CREATE TYPE pair AS (x t, y int);\n"
        "CREATE FUNCTION f(t) RETURNS t LANGUAGE sql AS 'SELECT $1';\n"
        "CREATE FUNCTION g() RETURNS SETOF pair LANGUAGE sql AS 'SELECT NULL::app1.pair';\n"
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE d (p positive);\n"
        "CREATE VIEW v1 AS SELECT 1 AS one; CREATE VIEW v2 AS SELECT * FROM v1;\n"
        "CREATE UNLOGGED TABLE u (i int); CREATE MATERIALIZED VIEW m AS SELECT * FROM v2;\n"
        "CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0');\n",
    )
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")
    assert w.run("migrate")


@scenario
def clean_leaves_partitions_of_other_schemas(w: World) -> None:
    w.sql("CREATE SCHEMA app1; CREATE SCHEMA kept")
    w.sql("CREATE TABLE kept.p (i int) PARTITION BY RANGE (i)")
    w.defaults["schemas"] = "app1"
    w.write("V1__a.sql", "CREATE TABLE p1 PARTITION OF kept.p FOR VALUES FROM (1) TO (2);\n")
    assert w.run("migrate")
    w.run("clean", cleanDisabled="false")


@scenario
def foreign_tables_and_clean(w: World) -> None:
    w.sql("CREATE SCHEMA app1; CREATE EXTENSION file_fdw")
    w.sql("CREATE SERVER s FOREIGN DATA WRAPPER file_fdw")
    w.defaults["schemas"] = "app1"
    w.write("V1__a.sql", "CREATE FOREIGN TABLE f (t text) SERVER s OPTIONS (filename '/x');\n")
    assert w.run("migrate")
    w.run("clean", cleanDisabled="false")


@scenario
def programs_among_the_migrations(w: World) -> None:
    """Ours does not run them, but knows them in info, validate and the history."""
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sh", "echo ${nothing}\n")
    w.write("R__c.py", "print(1)\n")
    w.write("V3_d.sh", "not named well")
    assert not w.run("validate")
    assert w.run("migrate", skipExecutingMigrations="true")
    w.write("V2__b.sh", "echo 2\n")
    assert not w.run("validate")
    assert w.run("repair")
    assert w.run("validate")


@scenario
def unknown_encoding(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.run("migrate", encoding="no-such-encoding")


@scenario
def descriptions_with_odd_characters(w: World) -> None:
    w.write('V1__it\'s "quoted" %s.sql', table("a"))
    w.write("V2__tab\there.sql", table("b"))
    w.write("R__50% of it's.sql")
    assert w.run("migrate")
    assert w.run("validate")
    assert w.run("repair")


@scenario
def callbacks_around_a_script_share_its_session(w: World) -> None:
    w.sql("CREATE SCHEMA other")
    w.write("beforeEachMigrate.sql", "SET search_path TO other;\n")
    w.write("afterEachMigrate.sql", "CREATE TABLE IF NOT EXISTS after (i int);\n")
    w.write("beforeEachMigrateStatement.sql", "CREATE TABLE IF NOT EXISTS before (i int);\n")
    w.write("V1__a.sql", table("a") + "SET search_path TO public;\n" + table("b"))
    w.write("V2__b.sql", table("c"))
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def callbacks_that_fail_call_no_error_callback(w: World) -> None:
    w.sql("CREATE TABLE told (event text)")
    w.defaults["schemas"] = "app1"
    for event in ("afterMigrateError", "afterValidateError", "afterRepairError", "afterCleanError"):
        w.write(f"{event}.sql", f"INSERT INTO public.told VALUES ('{event}');\n")
    w.write("V1__a.sql", table("a"))
    for command, event in (
        ("migrate", "beforeMigrate"),
        ("migrate", "afterMigrate"),
        ("migrate", "beforeValidate"),
        ("validate", "afterValidate"),
        ("repair", "beforeRepair"),
        ("clean", "beforeClean"),
    ):
        w.write(f"{event}.sql", "SELECT 1/0;\n")
        w.run(command, cleanDisabled="false")
        w.remove(f"{event}.sql")


@scenario
def current_schema_of_the_url(w: World) -> None:
    w.sql("CREATE SCHEMA app1")
    w.write("V1__a.sql", table("a"))
    w.defaults["url"] = w.parameters({})["url"] + "?currentSchema=app1"
    assert w.run("migrate")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def url_properties(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT current_setting('application_name') AS n;\n")
    w.defaults["url"] = w.parameters({})["url"] + "?ApplicationName=mine&connectTimeout=10"
    assert w.run("migrate")
