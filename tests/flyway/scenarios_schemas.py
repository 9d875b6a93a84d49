"""Schemas that are missing or hold something already; baselines."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table


@scenario
def missing_schemas_are_created(w: World) -> None:
    w.defaults["schemas"] = "app1,app2"
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("app2.b"))
    assert w.run("info")
    assert w.run("migrate", target="1")
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")
    assert w.run("migrate")


@scenario
def one_schema_of_two_is_missing(w: World) -> None:
    w.sql("CREATE SCHEMA app1")
    w.write("V1__a.sql", table("a"))
    w.defaults["schemas"] = "app1,app2"
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def default_schema_outside_the_list(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.defaults |= {"schemas": "app1,app2", "defaultSchema": "app3"}
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def default_schema_inside_the_list(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.defaults |= {"schemas": "app1,app2", "defaultSchema": "app2"}
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def schemas_are_not_to_be_created(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.defaults |= {"schemas": "app1", "createSchemas": "false"}
    w.run("validate")
    w.run("migrate")
    w.sql("CREATE SCHEMA IF NOT EXISTS app1")
    assert w.run("migrate")


@scenario
def script_creates_the_default_schema(w: World) -> None:
    w.write("V1__a.sql", "CREATE SCHEMA app1; CREATE TABLE app1.a (i int);\n")
    w.defaults |= {"schemas": "public", "createSchemas": "false"}
    assert w.run("migrate")


@scenario
def schema_names_that_need_quotes(w: World) -> None:
    w.defaults |= {"schemas": "Odd Name,select", "table": "History Table"}
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def non_empty_schema_is_refused(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    w.write("V1__a.sql", table("a"))
    assert not w.run("migrate")
    assert w.run("info")
    assert w.run("baseline", baselineVersion="0")
    assert w.run("migrate")


@scenario
def baseline_on_migrate_skips_the_first(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate", baselineOnMigrate="true")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def baseline_on_migrate_of_an_empty_schema(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate", baselineOnMigrate="true")
    assert w.run("migrate", baselineOnMigrate="true")


@scenario
def a_missing_schema_beside_a_filled_one(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    w.defaults["schemas"] = "public,app1"
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def what_counts_as_empty(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    made = {
        "matviews": "CREATE MATERIALIZED VIEW matviews.m AS SELECT 1",
        "partitioned": "CREATE TABLE partitioned.p (i int) PARTITION BY RANGE (i)",
        "functions": "CREATE FUNCTION functions.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "enums": "CREATE TYPE enums.e AS ENUM ('a')",
        "domains": "CREATE DOMAIN domains.d AS int",
        "composites": "CREATE TYPE composites.c AS (i int)",
        "sequences": "CREATE SEQUENCE sequences.s",
        "views": "CREATE VIEW views.v AS SELECT 1",
        "extensions": "CREATE EXTENSION citext SCHEMA extensions",
        "collations": "CREATE COLLATION collations.c (locale = 'C')",
    }
    for schema, statement in made.items():
        w.sql(f"CREATE SCHEMA {schema}; {statement}")
        w.run("migrate", schemas=schema)


@scenario
def baseline_then_migrate(w: World) -> None:
    w.sql("CREATE TABLE theirs (i int)")
    for version in range(1, 6):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("baseline", baselineVersion="3", baselineDescription="as it was")
    assert w.run("info")
    assert w.run("validate", ignoreMigrationPatterns="*:pending")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def baseline_twice(w: World) -> None:
    assert w.run("baseline")
    assert w.run("baseline")
    assert not w.run("baseline", baselineVersion="2")
    assert not w.run("baseline", baselineDescription="another")


@scenario
def baseline_after_migrations(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    assert not w.run("baseline")


@scenario
def baseline_after_a_schema_was_created(w: World) -> None:
    w.defaults["schemas"] = "app1"
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("baseline")
    assert w.run("migrate")


@scenario
def baseline_when_the_history_has_only_a_schema_row(w: World) -> None:
    w.defaults["schemas"] = "app1"
    assert w.run("migrate")
    w.run("baseline", baselineVersion="2")
    w.write("V1__a.sql", table("a"))
    w.write("V3__c.sql", table("c"))
    assert w.run("migrate")


@scenario
def baseline_migration_on_an_empty_history(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    w.write("B1__old.sql", table("a"))
    w.write("B2__all.sql", table("a") + table("b"))
    w.write("V3__c.sql", table("c"))
    assert w.run("info")
    assert w.run("migrate")
    assert w.run("validate")
    w.write("B3__newer.sql", "SELECT 1;\n")
    assert w.run("migrate")


@scenario
def baseline_migration_on_a_filled_history(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.write("V2__b.sql", table("b"))
    w.write("B2__all.sql", table("a") + table("b"))
    w.write("B5__all.sql", table("a") + table("b"))
    assert w.run("info")
    w.run("migrate")
    w.run("validate")


@scenario
def baseline_migration_after_a_baseline(w: World) -> None:
    assert w.run("baseline", baselineVersion="1")
    w.write("B2__all.sql", table("a"))
    w.write("V3__c.sql", table("c"))
    w.run("migrate")
    w.run("validate")
