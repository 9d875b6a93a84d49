"""Corners of versions, names, encodings and states that once told ours from Flyway."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table


@scenario
def signed_versions(w: World) -> None:
    for version in ("-1", "0", "0.0.1", "+2", "1_2_3_4"):
        w.write(f"V{version}__x.sql")
    assert w.run("migrate")
    assert w.run("migrate", target="-1")


@scenario
def target_current_of_an_empty_history(w: World) -> None:
    w.write("V0__a.sql", table("a"))
    w.write("R__r.sql")
    assert w.run("migrate", target="current")
    assert w.run("migrate")


@scenario
def nothing_is_resolved_or_called(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("beforeMigrate.sql", "CREATE TABLE IF NOT EXISTS told (i int);\n")
    assert w.run("migrate", skipDefaultCallbacks="true")
    assert not w.run("validate", skipDefaultResolvers="true", ignoreMigrationPatterns="*:missing")
    assert w.run("migrate", skipDefaultResolvers="true")


@scenario
def long_description_of_a_repeatable(w: World) -> None:
    """It never looks applied, and still runs once only."""
    w.write(f"R__{'d' * 230}.sql")
    assert w.run("migrate")
    assert not w.run("migrate")


@scenario
def clean_and_baseline_read_no_migration(w: World) -> None:
    w.write("V1__a.sql", "SELECT '${unknown}';\n")
    w.write("V1__b.sql", b"SELECT '\xe9';\n")
    assert w.run("baseline")
    assert w.run("clean", cleanDisabled="false")
    assert not w.run("repair")


@scenario
def utf_16_without_a_mark(w: World) -> None:
    text = "CREATE TABLE a AS SELECT 'é' AS letter;\r\n"
    w.write("V1__a.sql", text.encode("utf-16-be"))
    assert w.run("migrate", encoding="UTF-16")
    assert w.run("validate", encoding="UTF-16BE")
    w.write("V1__a.sql", b"\xff\xfe" + text.encode("utf-16-le"))
    assert w.run("validate", encoding="UTF-16")


@scenario
def byte_order_marks_in_the_middle(w: World) -> None:
    w.write("V1__a.sql", table("a") + "\ufeff" + table("b"))
    w.write("R__r.sql", "SELECT 1;\n\ufeffSELECT 2;\n")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def placeholders_that_cannot_be(w: World) -> None:
    w.write("V1__a.sql", "SELECT '${flyway:user}';\n")
    assert not w.run("migrate", **{"placeholders__flyway:user": "me"})
    assert not w.run("migrate", placeholderPrefix="")
    assert not w.run("migrate", placeholderSuffix="")


@scenario
def skipped_execution_calls_nothing(w: World) -> None:
    w.sql("CREATE SCHEMA logs; CREATE TABLE logs.told (at serial, event text)")
    w.defaults["schemas"] = "app1"
    for event in ("beforeEachMigrate", "afterEachMigrate", "afterVersioned", "afterMigrate",
                  "afterMigrateOperationFinish"):  # fmt: skip
        w.write(f"{event}.sql", f"INSERT INTO logs.told (event) VALUES ('{event}');\n")
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate", skipExecutingMigrations="true")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")
    w.write("V3__c.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")


@scenario
def schemas_created_in_two_runs(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate", schemas="s1")
    assert w.run("migrate", schemas="s1,s2,s3")
    assert w.run("clean", schemas="s1,s2", cleanDisabled="false")


@scenario
def schema_with_quotes_in_its_name(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.defaults["defaultSchema"] = 'A "q"'
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def current_schema_that_does_not_exist(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.defaults["url"] = w.parameters({})["url"] + "?currentSchema=app9"
    assert w.run("migrate")
    assert w.run("clean", cleanDisabled="false")


@scenario
def targets_do_not_hold_baseline_migrations_back(w: World) -> None:
    w.write("B3__b.sql", table("b3"))
    for version in (1, 3, 4):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("info", target="1")
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def missing_baseline_migration(w: World) -> None:
    w.write("B3__b.sql", table("b3"))
    w.write("V1__a.sql", table("a"))
    w.write("V4__d.sql", table("d"))
    assert w.run("migrate", target="3")
    w.remove("B3__b.sql")
    assert not w.run("validate")
    assert w.run("repair")
    w.write("V3__x.sql", table("x"))
    w.run("migrate")
    w.write("B3__b.sql", table("b3b"))
    w.run("migrate", outOfOrder="true")


@scenario
def baseline_migration_after_all_was_deleted(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.remove("V1__a.sql")
    w.write("V0__z.sql")
    assert w.run("repair", ignoreMigrationPatterns="")
    w.write("B2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def patterns_that_ignore_everything(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("R__r.sql")
    assert w.run("migrate")
    w.write("V1__a.sql", table("edited"))
    for patterns in ("*:*", "versioned:*", "repeatable:*"):
        w.run("validate", ignoreMigrationPatterns=patterns)
    w.sql(
        "INSERT INTO flyway_schema_history SELECT 3, '2', 'b', type, 'V2__b.sql', 1,"
        " installed_by, installed_on, 0, false FROM flyway_schema_history WHERE version = '1'"
    )
    for patterns in ("*:*", "versioned:*", "versioned:future,repeatable:future"):
        w.run("validate", ignoreMigrationPatterns=patterns)
        w.run("migrate", ignoreMigrationPatterns=patterns)


@scenario
def validation_before_there_is_a_schema(w: World) -> None:
    w.defaults["schemas"] = "app1"
    w.write("V1__a.sql", table("a"))
    for patterns in ("repeatable:pending", "versioned:pending,repeatable:pending", "*:*"):
        w.run("validate", ignoreMigrationPatterns=patterns)


@scenario
def rows_without_a_checksum(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("R__r.sql")
    assert w.run("migrate")
    w.sql("UPDATE flyway_schema_history SET checksum = NULL")
    assert not w.run("validate")
    assert w.run("migrate")
    assert w.run("repair")
