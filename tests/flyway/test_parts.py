"""The parts of the runner without a database: checksums, names, files, statements, URLs."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tsrollup.flyway import Configuration, ConfigurationError, FlywayError, load_configuration
from tsrollup.flyway.callbacks import EVENTS
from tsrollup.flyway.checksum import checksum
from tsrollup.flyway.conf_files import parse_conf
from tsrollup.flyway.configuration import configuration_from
from tsrollup.flyway.database import conninfo
from tsrollup.flyway.history import lock_id, shorten_description, shorten_script
from tsrollup.flyway.locations import Location, parse_locations
from tsrollup.flyway.names import Naming, Version
from tsrollup.flyway.placeholders import replace
from tsrollup.flyway.sources import environment_name
from tsrollup.flyway.statements import split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 1;\nselect 2;\n", -593479011),
        ("select 1;\r\nselect 2;\r\n", -593479011),
        ("select 1;\rselect 2;", -593479011),
        ("\ufeff\nselect 1;\n\n\nselect 2;", -593479011),
        ("", 0),
        ("select 1; \nselect 2;\t\n", 990222677),
        ("select 'hé😀';\n", 2020505466),
        ("select 1; --\x0c\x0b\u0085\u2028select 2;\n", 376772600),
        ("select 'Bob';\n", 749731953),
        ("select '${who}';\n", 506862899),
    ],
)
def test_checksum(text: str, expected: int) -> None:
    assert checksum(text) == expected


def test_versions_compare_as_numbers() -> None:
    ordered = ["0.1", "1", "1.0.1", "1.1", "1.2", "1.10", "2", "10", "99999999999999999999.1"]
    versions = [Version.parse(text) for text in reversed(ordered)]
    assert [str(version) for version in sorted(versions)] == ordered


def test_versions_of_the_same_number() -> None:
    same = [Version.parse(text) for text in ("1", "01", "1.0", "1_0_0", "001.00")]
    assert len(set(same)) == 1
    assert [str(version) for version in same] == ["1", "01", "1.0", "1.0.0", "001.00"]


@pytest.mark.parametrize("text", ["", "a", "1.", "1..2", "1.a", "1.-1", "1-2", ".1", "१"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(FlywayError, match="not a version"):
        Version.parse(text)


NAMING = Naming("V", "R", "B", "__", (".sql", ".ddl"), EVENTS)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("V1__a.sql", ("versioned", "1", "a")),
        ("V1_2__a_b.ddl", ("versioned", "1.2", "a b")),
        ("V002.SQL", ("versioned", "002", "")),
        ("V6__a__b_c.sql", ("versioned", "6", "a  b c")),
        ("R__a.sql", ("repeatable", None, "a")),
        ("B2__a.sql", ("baseline", "2", "a")),
        ("beforeMigrate.sql", ("callback", None, "")),
        ("afterMigrateError__x_y.sql", ("callback", None, "x y")),
    ],
)
def test_names(filename: str, expected: tuple[str, str | None, str]) -> None:
    name = NAMING.parse(filename)
    assert name is not None
    assert name.problem is None
    version = None if name.version is None else str(name.version)
    assert (name.kind, version, name.description) == expected


@pytest.mark.parametrize("filename", ["U1__a.sql", "v1__a.sql", "notes.sql", "V1__a.txt"])
def test_names_that_nothing_claims(filename: str) -> None:
    assert NAMING.parse(filename) is None


@pytest.mark.parametrize("filename", ["V__a.sql", "V1a__b.sql", "R1__a.sql", "beforeCleanX.sql"])
def test_names_with_a_fault(filename: str) -> None:
    name = NAMING.parse(filename)
    assert name is not None
    assert name.problem is not None
    assert filename in name.problem


def test_lock_is_the_one_that_flyway_takes() -> None:
    assert lock_id("public", "flyway_schema_history") == 77433833903597
    assert lock_id("app1", "flyway_schema_history") == 77431057124230


def test_long_texts_are_shortened_as_flyway_does() -> None:
    assert shorten_description("d" * 201) == "d" * 197 + "..."
    assert shorten_description("d" * 200) == "d" * 200
    assert shorten_script("abc" + "s" * 998) == "..." + "s" * 997


def test_conf_dialect() -> None:
    text = (
        "\ufeff# comment\n! another\n\nflyway.url=jdbc:x\nflyway.user : me\nflyway.table  t\n"
        "flyway.password=C:\\new\\u0041\nflyway.locations=a,\\\n   b\nflyway.encoding=x\\\n"
        "flyway.installedBy=${NAME}!\nflyway.initSql=${MISSING}\nother.key=1\n"
        "flyway.placeholders.a.b=c = d\n"
    )
    assert parse_conf(text, {"NAME": "Ann"}) == {
        "url": "jdbc:x",
        "user": "me",
        "table": "t",
        "password": "C:\\new\\u0041",
        "locations": "a,b",
        "encoding": "x\\",
        "installedBy": "Ann!",
        "initSql": "",
        "placeholders.a.b": "c = d",
    }


def test_parameters_of_every_type() -> None:
    configuration = configuration_from(
        {
            "mixed": "TRUE",
            "connectRetries": "7",
            "schemas": " a, b ,,",
            "postgresql.transactional.lock": "false",
            "placeholders.Name": "value",
            "driver": "org.postgresql.Driver",
            "user": "",
        }
    )
    assert configuration == Configuration(
        mixed=True,
        connect_retries=7,
        schemas=("a", "b"),
        postgresql_transactional_lock=False,
        placeholders={"Name": "value"},
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nope", "1", "Unknown configuration property: flyway.nope"),
        ("group", "yes", "flyway.group must be true or false"),
        ("lockRetryCount", "many", "flyway.lockRetryCount must be a number"),
        ("dryRunOutput", "x.sql", "paid edition"),
        ("cherryPick", "2.0", "paid edition"),
    ],
)
def test_parameters_that_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configuration_from({key: value})


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("url", "FLYWAY_URL"),
        ("outOfOrder", "FLYWAY_OUT_OF_ORDER"),
        ("postgresql.transactional.lock", "FLYWAY_POSTGRESQL_TRANSACTIONAL_LOCK"),
    ],
)
def test_names_of_variables(key: str, variable: str) -> None:
    assert environment_name(key) == variable


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """Flyway warns and goes on with what it finds elsewhere: perhaps another database."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.conf"):
        load_configuration([tmp_path / "nowhere.conf"], environ={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ${x} b", "a 1 b"),
        ("${X}${x}", "11"),
        ("$ {x} {x} $", "$ {x} {x} $"),
        ("$${x}", "$${x}"),
        ("$$${x}", "$$1"),
        ("$x$${x}$x$", "$x$${x}$x$"),
    ],
)
def test_placeholders(text: str, expected: str) -> None:
    assert replace(text, {"x": "1"}, "${", "}") == expected


def test_placeholders_without_value_tell_their_line() -> None:
    with pytest.raises(FlywayError, match=r"\$\{y\} \(line 3\)"):
        replace("a\n\n-- ${y}", {"x": "1"}, "${", "}")


def test_locations_inside_others_are_dropped() -> None:
    kept = parse_locations(["filesystem:a/b", "filesystem:a", "filesystem:a/", "filesystem:ab"])
    assert [location.path for location in kept] == ["a", "ab"]
    with pytest.raises(ConfigurationError, match="s3:bucket"):
        Location.parse("s3:bucket")


def texts(script: str) -> list[str]:
    return [statement.text for statement in split(script)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (";; -- only\n/* comments; */", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ; SELECT E'\\';' ;", ["SELECT ';'", "SELECT E'\\';'"]),
        ("SELECT e'a\\';b'", ["SELECT e'a\\';b'"]),
        ("SELECT $$;$$, $a$;$$;$a$", ["SELECT $$;$$, $a$;$$;$a$"]),
        ("SELECT a$b$c; SELECT $1", ["SELECT a$b$c", "SELECT $1"]),
        ('SELECT ";"";" x', ['SELECT ";"";" x']),
        ("SELECT (1; 2); SELECT 3", ["SELECT (1; 2)", "SELECT 3"]),
        ("/* /* ; */ ; */ SELECT 1 -- ;\n;", ["SELECT 1 -- ;"]),
        ("BEGIN; SELECT 1; END;", ["BEGIN", "SELECT 1", "END"]),
        ("SELECT 'never ends; SELECT 2;", ["SELECT 'never ends; SELECT 2;"]),
    ],
)
def test_statements(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


def test_bodies_of_standard_sql() -> None:
    body = (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC\n"
        "SELECT CASE WHEN true THEN 1 END; SELECT 2; END"
    )
    assert texts(f"{body}; SELECT 3;") == [body, "SELECT 3"]


def test_copy_takes_its_data_along() -> None:
    first, second = split("COPY t FROM STDIN; -- rest\n1;\n2\n\\.\nSELECT 1;")
    assert (first.text, first.copy_data) == ("COPY t FROM STDIN", "1;\n2\n")
    assert (second.text, second.line) == ("SELECT 1", 5)


@pytest.mark.parametrize(
    "statement",
    [
        "VACUUM t",
        "create database d",
        "DROP INDEX CONCURRENTLY i",
        "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
        "ALTER SYSTEM SET x = 1",
        "DISCARD ALL",
        "REINDEX DATABASE d",
    ],
)
def test_statements_outside_transactions(statement: str) -> None:
    (only,) = split(f"-- why\n{statement};")
    assert not only.transactional


def test_statements_inside_transactions() -> None:
    script = "CREATE INDEX i ON t (a); REINDEX TABLE t; DISCARD TEMP; SELECT 'VACUUM'; ANALYZE;"
    assert all(statement.transactional for statement in split(script))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "jdbc:postgresql://h:5433/d?user=u&password=p%26&ssl=true&ApplicationName=me",
            {"host": "h", "port": "5433", "dbname": "d", "user": "u", "password": "p&",
             "sslmode": "verify-full", "application_name": "me"},
        ),
        (
            "jdbc:postgresql://a,b:1,[::1]:2/d?targetServerType=primary",
            {"host": "a,b,::1", "port": "5432,1,2", "target_session_attrs": "primary"},
        ),
        ("jdbc:postgresql:d", {"host": "localhost", "port": "5432", "dbname": "d"}),
        ("jdbc:postgresql://h/", {"host": "h", "port": "5432"}),
        ("jdbc:postgresql://h/d?currentSchema=x,y", {"options": "-c search_path=x,y"}),
        ("postgresql:///d?host=/run/pg", {"host": "/run/pg", "dbname": "d"}),
        ("host=h dbname=d", {"host": "h", "dbname": "d"}),
    ],
)  # fmt: skip
def test_urls(url: str, expected: dict[str, str]) -> None:
    read = conninfo_to_dict(conninfo(Configuration(url=url)))
    assert {key: read[key] for key in expected} == expected


def test_user_and_password_beat_those_of_the_url() -> None:
    url = "jdbc:postgresql://h/d?user=u&password=p"
    read = conninfo_to_dict(conninfo(Configuration(url=url, user="me", password="secret")))
    assert (read["user"], read["password"]) == ("me", "secret")


@pytest.mark.parametrize("url", ["", "jdbc:mysql://h/d", "jdbc:postgresql//h", "postgresql://[x"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError):
        conninfo(Configuration(url=url))
