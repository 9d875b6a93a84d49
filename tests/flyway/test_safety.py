"""Where ours is safer than Flyway: one transaction for script and row, no endless wait, clean."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from servers import PostgresServer
from tsrollup import flyway
from tsrollup.flyway import Configuration, FlywayError, MigrateError


@pytest.fixture
def database(one_server: PostgresServer) -> Iterator[str]:
    name = one_server.create_database()
    yield name
    one_server.drop_database(name)


@pytest.fixture
def configuration(one_server: PostgresServer, database: str, tmp_path: Path) -> Configuration:
    return Configuration(url=one_server.url(database), locations=(f"filesystem:{tmp_path}",))


@pytest.fixture
def db(configuration: Configuration) -> Iterator[psycopg.Connection]:
    with psycopg.connect(configuration.url, autocommit=True) as connection:
        yield connection


def relations(db: psycopg.Connection) -> set[str]:
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    return {row[0] for row in db.execute(query)}


def test_a_lost_connection_leaves_neither_script_nor_row(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE a (i int);\n")
    (tmp_path / "V2__b.sql").write_text(
        "CREATE TABLE b (i int);\nSELECT pg_terminate_backend(pg_backend_pid());\n"
    )
    with pytest.raises(FlywayError):
        flyway.migrate(configuration)
    assert "a" in relations(db)
    assert "b" not in relations(db)
    states = [(str(i.version), i.state.shown) for i in flyway.info(configuration).migrations]
    assert states == [("1", "Success"), ("2", "Pending")]


def test_a_row_that_cannot_be_written_takes_its_script_back(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    flyway.migrate(configuration)
    db.execute("ALTER TABLE flyway_schema_history ADD CHECK (version <> '1')")
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE a (i int);\n")
    with pytest.raises(FlywayError):
        flyway.migrate(configuration)
    assert "a" not in relations(db)


def test_deferred_constraints_fail_with_their_script(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "V1__a.sql").write_text(
        "CREATE TABLE p (i int PRIMARY KEY);\n"
        "CREATE TABLE c (i int REFERENCES p DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO c VALUES (1);\n"
    )
    with pytest.raises(FlywayError, match="foreign key"):
        flyway.migrate(configuration)
    assert "c" not in relations(db)


def test_create_index_concurrently_does_not_hang(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    """In the default lock mode, in which Flyway waits for itself."""
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE a (i int);\n")
    (tmp_path / "V2__index.sql").write_text("CREATE INDEX CONCURRENTLY a_i ON a (i);\n")
    thread = threading.Thread(target=flyway.migrate, args=[configuration], daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "a_i" in relations(db)


def test_discard_all_does_not_fail_the_migration(
    configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "V1__discard.sql").write_text("DISCARD ALL;\n")
    (tmp_path / "V2__a.sql").write_text("CREATE TABLE a (i int);\n")
    assert flyway.migrate(configuration).migrations_executed == 2


def test_a_script_that_commits_is_warned_about(
    configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE a (i int); COMMIT;\n")
    result = flyway.migrate(configuration)
    assert any("ended its transaction itself" in warning for warning in result.warnings)


def test_clean_names_what_it_would_drop_and_refuses(
    configuration: Configuration,
    db: psycopg.Connection,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE precious (i int);\n")
    flyway.migrate(configuration)
    with caplog.at_level("INFO", "tsrollup.flyway"), pytest.raises(FlywayError, match="disabled"):
        flyway.clean(configuration)
    assert "would drop" in caplog.text
    assert "table public.precious" in caplog.text
    assert "precious" in relations(db)


def test_clean_is_all_or_nothing(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "V1__a.sql").write_text("CREATE TABLE a (i int);\n")
    (tmp_path / "beforeClean.sql").write_text("DROP TABLE a;\n")
    (tmp_path / "afterClean.sql").write_text("SELECT 1/0;\n")
    flyway.migrate(configuration)
    before = relations(db)
    with pytest.raises(FlywayError, match="division by zero"):
        flyway.clean(replace(configuration, clean_disabled=False))
    assert relations(db) == before


def test_clean_of_range_types(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    """Flyway stumbles over the multirange type that came with it."""
    (tmp_path / "V1__a.sql").write_text("CREATE TYPE r AS RANGE (subtype = int);\n")
    flyway.migrate(configuration)
    flyway.clean(replace(configuration, clean_disabled=False))
    assert relations(db) == set()


def test_repair_with_a_long_description(configuration: Configuration, tmp_path: Path) -> None:
    """Flyway writes it unabridged, which does not fit the column."""
    (tmp_path / f"V1__{'d' * 210}.sql").write_text("SELECT 1;\n")
    flyway.migrate(configuration)
    flyway.repair(configuration)
    flyway.validate(configuration)


def test_a_table_name_with_quotes(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "V1__a.sql").write_text("SELECT 1;\n")
    odd = replace(configuration, table='my "history"')
    assert flyway.migrate(odd).migrations_executed == 1
    flyway.validate(odd)


def test_failures_say_where(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "V1__a.sql").write_text(
        "CREATE TABLE a (i int);\n\n-- why\nINSERT INTO a\nVALUES (nonsense);\n"
    )
    with pytest.raises(MigrateError) as failure:
        flyway.migrate(configuration)
    text = failure.value.message
    for expected in ("V1__a.sql", "42703", "nonsense", "Line       : 5", "rolled back"):
        assert expected in text


def test_messages_are_given_back_whole(
    configuration: Configuration, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "V1__a.sql").write_text("DO $$ BEGIN RAISE NOTICE 'take note'; END $$;\n")
    with caplog.at_level("INFO", "tsrollup.flyway"):
        flyway.migrate(configuration)
    assert "take note" in caplog.text


def test_callbacks_from_a_folder_of_their_own(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    """callbackLocations came after 11.8: they take the place of the locations for callbacks."""
    (tmp_path / "main").mkdir()
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "main" / "V1__a.sql").write_text("CREATE TABLE a (i int);\n")
    (tmp_path / "main" / "afterMigrate.sql").write_text("CREATE TABLE not_made (i int);\n")
    (tmp_path / "callbacks" / "afterMigrate.sql").write_text("CREATE TABLE made (i int);\n")
    flyway.migrate(
        replace(
            configuration,
            locations=(f"filesystem:{tmp_path / 'main'}",),
            callback_locations=(f"filesystem:{tmp_path / 'callbacks'}",),
        )
    )
    assert {"a", "made"} <= relations(db)
    assert "not_made" not in relations(db)


def test_waiting_for_a_server_that_is_not_there_yet() -> None:
    configuration = Configuration(
        url="jdbc:postgresql://127.0.0.1:1/none", connect_retries=1, connect_retries_interval=0
    )
    with suppress(FlywayError):
        flyway.info(configuration)
    with pytest.raises(FlywayError, match="cannot connect"):
        flyway.info(replace(configuration, connect_retries=0))


def test_callbacks_of_info(
    configuration: Configuration, db: psycopg.Connection, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE told (event text)")
    for event in ("beforeInfo", "afterInfo", "afterInfoError", "afterInfoOperationFinish"):
        (tmp_path / f"{event}.sql").write_text(f"INSERT INTO told VALUES ('{event}');\n")
    flyway.info(configuration)
    with pytest.raises(FlywayError):
        flyway.info(replace(configuration, target="9"))
    told = [row[0] for row in db.execute("SELECT event FROM told")]
    assert told == [
        "beforeInfo", "afterInfo", "afterInfoOperationFinish", "beforeInfo", "afterInfoError"
    ]  # fmt: skip


def test_programs_are_refused_rather_than_passed_over(
    configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "V1__a.sql").write_text("SELECT 1;\n")
    (tmp_path / "V2__b.sh").write_text("echo 1\n")
    with pytest.raises(FlywayError, match=r"V2__b\.sh is a program"):
        flyway.migrate(configuration)
    states = [info.state.shown for info in flyway.info(configuration).migrations]
    assert states == ["Success", "Pending"]


def test_copy_to_stdout_is_refused(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "V1__a.sql").write_text("SELECT 1;\nCOPY (SELECT 1) TO STDOUT;\n")
    with pytest.raises(MigrateError, match="line 2: COPY TO STDOUT"):
        flyway.migrate(configuration)
