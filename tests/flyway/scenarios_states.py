"""Every state of info: versions, order, targets, repeatables, missing and future migrations."""

from flyway.scenario import World, scenario


def table(name: str) -> str:
    return f"CREATE TABLE {name} (i int);\n"


@scenario
def fresh_database(w: World) -> None:
    w.write("V1__first.sql", table("a"))
    w.write("V2__second.sql", table("b"))
    assert w.run("info")
    assert w.run("migrate")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def versions_sort_as_numbers(w: World) -> None:
    for version in ("1", "1_1", "1.9", "1.10", "02", "10", "2.0.1", "99999999999999999999"):
        w.write(f"V{version}__x.sql")
    assert w.run("migrate", target="2")
    assert w.run("migrate")


@scenario
def leading_and_trailing_zeros_name_the_same_version(w: World) -> None:
    w.write("V01__a.sql", table("a"))
    w.write("V002.0__b.sql", table("b"))
    assert w.run("migrate")
    w.remove("V01__a.sql")
    w.remove("V002.0__b.sql")
    w.write("V1.0.0__a.sql", table("a"))
    w.write("V2__b.sql", table("b"))
    assert w.run("validate")
    assert w.run("migrate")


@scenario
def out_of_order(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V3__c.sql", table("c"))
    assert w.run("migrate")
    w.write("V2__b.sql", table("b"))
    assert not w.run("validate")
    assert not w.run("migrate")
    assert w.run("migrate", ignoreMigrationPatterns="*:ignored")
    assert w.run("migrate", outOfOrder="true")
    w.write("V4__d.sql", table("d"))
    assert w.run("migrate")


@scenario
def targets(w: World) -> None:
    for version in range(1, 6):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    w.write("R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT 1 AS one;\n")
    assert w.run("migrate", target="2")
    assert w.run("migrate", target="current")
    assert w.run("migrate", target="next")
    assert w.run("validate", target="3")
    assert not w.run("validate", target="4")
    assert w.run("migrate", target="latest")


@scenario
def target_that_does_not_exist(w: World) -> None:
    w.write("V1__x.sql", table("a"))
    w.write("V3__x.sql", table("c"))
    assert not w.run("migrate", target="2")
    assert not w.run("validate", target="2")
    w.run("repair", target="2")
    assert w.run("migrate", target="3")
    assert not w.run("migrate", target="9")


@scenario
def optional_target(w: World) -> None:
    w.write("V1__x.sql", table("a"))
    assert w.run("migrate", target="2?")
    assert w.run("migrate", target="0?")


@scenario
def target_below_what_is_applied(w: World) -> None:
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("migrate")
    assert w.run("migrate", target="1")
    assert w.run("validate", target="1")


@scenario
def missing_migration(w: World) -> None:
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("migrate")
    w.remove("V2__x.sql")
    assert not w.run("validate")
    assert w.run("validate", ignoreMigrationPatterns="*:missing")
    assert not w.run("migrate")
    assert w.run("repair")
    assert w.run("validate")


@scenario
def deleted_migration_comes_back(w: World) -> None:
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", f"CREATE TABLE IF NOT EXISTS t{version} (i int);\n")
    assert w.run("migrate")
    w.remove("V2__x.sql")
    assert w.run("repair")
    w.write("V2__x.sql", "CREATE TABLE IF NOT EXISTS t2 (i int);\n")
    w.run("validate")
    w.run("migrate")
    assert w.run("migrate", outOfOrder="true")
    assert w.run("validate")


@scenario
def newest_deleted_migration_comes_back(w: World) -> None:
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", f"CREATE TABLE IF NOT EXISTS t{version} (i int);\n")
    assert w.run("migrate")
    w.remove("V3__x.sql")
    assert w.run("repair", ignoreMigrationPatterns="*:pending")
    w.write("V3__x.sql", "CREATE TABLE IF NOT EXISTS t3 (i int, j int);\n")
    assert w.run("migrate")
    assert w.run("migrate")


@scenario
def future_migration(w: World) -> None:
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    assert w.run("migrate")
    w.remove("V3__x.sql")
    assert w.run("validate")
    assert w.run("migrate")
    assert not w.run("validate", ignoreMigrationPatterns="*:missing")
    assert w.run("repair")
    w.write("V2_1__late.sql", table("late"))
    w.run("migrate")


@scenario
def no_local_migration_is_left(w: World) -> None:
    w.write("V1__x.sql", table("a"))
    w.write("R__r.sql")
    assert w.run("migrate")
    w.remove("V1__x.sql")
    w.remove("R__r.sql")
    w.run("validate")
    w.run("migrate")
    w.run("repair")


@scenario
def repeatables(w: World) -> None:
    w.write("R__b_view.sql", "CREATE OR REPLACE VIEW b AS SELECT 1 AS one;\n")
    w.write("R__a_view.sql", "CREATE OR REPLACE VIEW a AS SELECT 1 AS one FROM t;\n")
    w.write("V1__t.sql", table("t"))
    assert w.run("migrate")
    original = "CREATE OR REPLACE VIEW b AS SELECT 1 AS one;\n"
    w.write("R__b_view.sql", "CREATE OR REPLACE VIEW b AS SELECT 2 AS one;\n")
    assert not w.run("validate")
    assert w.run("migrate")
    w.write("R__b_view.sql", original)
    assert w.run("info")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def missing_repeatable(w: World) -> None:
    w.write("R__a.sql")
    w.write("R__b.sql")
    w.write("V1__t.sql", table("t"))
    assert w.run("migrate")
    w.write("R__a.sql", "SELECT 2;\n")
    assert w.run("migrate")
    w.remove("R__a.sql")
    w.run("validate")
    w.run("migrate")
    assert w.run("repair")
    assert w.run("validate")
    w.write("R__a.sql", "SELECT 2;\n")
    w.run("validate")
    assert w.run("migrate")


@scenario
def repeatable_with_a_checksum_of_the_raw_text(w: World) -> None:
    w.write("R__r.sql", "select '${who}';\n")
    assert w.run("migrate", placeholders__who="Bob")
    w.sql("UPDATE flyway_schema_history SET checksum = 506862899")
    assert w.run("validate", placeholders__who="Bob")
    assert not w.run("migrate", placeholders__who="Bob")
    assert w.run("repair", placeholders__who="Bob")
    assert w.run("migrate", placeholders__who="Bob")


@scenario
def repeatable_follows_its_placeholders(w: World) -> None:
    w.write("R__r.sql", "CREATE OR REPLACE VIEW v AS SELECT '${who}' AS who;\n")
    assert w.run("migrate", placeholders__who="Bob")
    assert w.run("migrate", placeholders__who="Ann")
    assert w.run("migrate", placeholders__WHO="Ann")


@scenario
def ignore_patterns(w: World) -> None:
    for version in (1, 3, 5):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    w.write("R__r.sql")
    assert w.run("migrate")
    w.remove("V3__x.sql")
    w.remove("V5__x.sql")
    w.remove("R__r.sql")
    w.write("V4__x.sql", table("t4"))
    w.write("V6__x.sql", table("t6"))
    w.write("R__s.sql")
    for patterns in (
        "*:*",
        "versioned:*",
        "repeatable:*",
        "*:missing",
        "*:pending",
        "*:ignored",
        "*:future",
        "*:missing,*:pending,*:ignored",
        "repeatable:missing,versioned:missing,versioned:ignored,*:pending",
        "nonsense",
        "*:success",
    ):
        w.run("validate", ignoreMigrationPatterns=patterns)
