"""Names, folders, encodings, line endings, checksums."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table


@scenario
def odd_names(w: World) -> None:
    w.write("V1.sql", table("a"))
    w.write("V2__.sql", table("b"))
    w.write("V3__a__b_c.sql", table("c"))
    w.write("V4___leading underscore.sql", table("d"))
    w.write("V5__UPPER.SQL", table("e"))
    w.write("V6__dots.in.name.sql", table("f"))
    w.write("V7__ümläut.sql", table("g"))
    w.write("V8_d.sql", table("not_run"))
    w.write("V_9__x.sql", table("not_run"))
    w.write("V1.a__x.sql", table("not_run"))
    w.write("v10__x.sql", table("not_run"))
    w.write("README.sql", table("not_run"))
    w.write("R1__x.sql", table("not_run"))
    w.write("R.sql")
    w.write("R__.sql")
    w.write("R__.sql.txt")
    w.write("U1__x.sql", table("not_run"))
    w.write("beforeMigrateX.sql", table("not_run"))
    w.write("notes.txt")
    assert w.run("migrate")
    assert w.run("validate")
    assert not w.run("validate", validateMigrationNaming="true")
    assert not w.run("migrate", validateMigrationNaming="true")


@scenario
def names_without_fault(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("R__r.sql")
    w.write("beforeMigrate.sql")
    w.write("afterMigrate__note.sql")
    assert w.run("migrate", validateMigrationNaming="true")


@scenario
def own_prefixes_separator_and_suffixes(w: World) -> None:
    w.defaults |= {
        "sqlMigrationPrefix": "Ver",
        "repeatableSqlMigrationPrefix": "Rep",
        "sqlMigrationSeparator": "--",
        "sqlMigrationSuffixes": ".ddl,.dml",
    }
    w.write("Ver1--a_b.ddl", table("a"))
    w.write("Ver2--b.dml", table("b"))
    w.write("Rep--view.ddl")
    w.write("V3__c.sql", table("not_run"))
    assert w.run("migrate")


@scenario
def long_names(w: World) -> None:
    w.write(f"V1__{'d' * 230}.sql", table("a"))
    folder = "/".join(["f" * 200] * 6)
    w.write(f"{folder}/V2__deep.sql", table("b"))
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def duplicate_versions(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("sub/V1.0__b.sql", table("b"))
    assert not w.run("migrate")
    assert not w.run("info")
    assert not w.run("validate")


@scenario
def duplicate_repeatables(w: World) -> None:
    w.write("R__a.sql")
    w.write("sub/R__a.sql")
    assert not w.run("migrate")


@scenario
def folders(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("one/V2__b.sql", table("b"))
    w.write("one/two/V3__c.sql", table("c"))
    w.write(".hidden/V4__d.sql", table("not_run"))
    w.write(".V5__e.sql", table("not_run"))
    assert w.run("migrate")


@scenario
def several_locations(w: World) -> None:
    w.write("one/V1__a.sql", table("a"))
    w.write("two/V2__b.sql", table("b"))
    w.write("two/inner/V3__c.sql", table("c"))
    w.defaults["locations"] = (
        "filesystem:{folder}/two/inner,filesystem:{folder}/one,"
        " filesystem:{folder}/two/,filesystem:{folder}/nowhere"
    )
    assert w.run("migrate", target="1")
    assert w.run("migrate")
    assert not w.run("migrate", failOnMissingLocations="true")


@scenario
def wildcard_locations(w: World) -> None:
    for number, folder in enumerate(["m1/sql", "m2/sql", "m1/other", "x/m3/sql/deep", "n1/sql"], 1):
        w.write(f"{folder}/V{number}__x.sql", table(f"t{number}"))
    for pattern in (
        "{folder}/m?/sql",
        "{folder}/*/sql",
        "{folder}/**/sql",
        "{folder}/**",
        "{folder}/*",
    ):
        assert w.run("info", locations=f"filesystem:{pattern}")
    assert w.run("migrate", locations="filesystem:{folder}/m*/sql")
    assert w.run("migrate", locations="filesystem:{folder}/**/sql")


@scenario
def location_without_a_scheme(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate", locations="{folder}")


@scenario
def line_endings_do_not_matter(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a (i int);\nSELECT 1;\n")
    w.write(
        "V2__crlf.sql",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$\r\nSELECT 'a'\r\n$$;\r\n",
    )
    w.write("V3__cr.sql", "CREATE TABLE c (i int);\rSELECT 1;\r")
    w.write("V4__bom.sql", b"\xef\xbb\xbfCREATE TABLE d (i int);\n")
    assert w.run("migrate")
    w.write("V1__a.sql", b"\xef\xbb\xbfCREATE TABLE a (i int);\r\n\r\nSELECT 1;")
    w.write("V3__cr.sql", "CREATE TABLE c (i int);\nSELECT 1;\n")
    assert w.run("validate")


@scenario
def spaces_matter(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a (i int);\n")
    assert w.run("migrate")
    w.write("V1__a.sql", "CREATE TABLE a (i int); \n")
    assert not w.run("validate")
    assert not w.run("migrate")
    assert w.run("migrate", validateOnMigrate="false")
    assert w.run("repair")
    assert w.run("validate")


@scenario
def unicode_separators_are_text(w: World) -> None:
    w.write(
        "V1__a.sql",
        "CREATE TABLE a (i int); --\x0c\x0b\u0085\u2028\nCOMMENT ON TABLE a IS 'hé😀';\n",
    )
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def encodings(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT 'é' AS letter;\n".encode("latin-1"))
    assert not w.run("migrate")
    assert w.run("migrate", encoding="ISO-8859-1")
    w.write("V2__b.sql", "CREATE TABLE b AS SELECT 'é' AS letter;\n".encode("utf-16"))
    w.write("V2__b.sql.conf", "encoding=UTF-16\n")
    assert w.run("migrate", encoding="ISO-8859-1")


@scenario
def renamed_script(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.remove("V1__a.sql")
    w.write("V1__b.sql", table("a"))
    assert not w.run("validate")
    assert w.run("repair")
    assert w.run("validate")


@scenario
def moved_script(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    assert w.run("migrate")
    w.remove("V1__a.sql")
    w.write("sub/V1__a.sql", table("a"))
    assert w.run("validate")
    assert w.run("repair")


@scenario
def script_configuration(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT '${not}' AS t;\n")
    w.write("V1__a.sql.conf", "# literal\nplaceholderReplacement=false\n")
    w.write("V2__b.sql", "VACUUM a;\nCREATE TABLE b (i int);\n")
    w.write("V2__b.sql.conf", "executeInTransaction=false\n")
    assert w.run("migrate", target="1")
    assert w.run("migrate")
    w.write("V3__c.sql", table("c"))
    w.write("V3__c.sql.conf", "nonsense=true\n")
    w.run("migrate")
