"""What scripts contain: transactions, placeholders, statements of every kind."""

from flyway.scenario import World, scenario
from flyway.scenarios_states import table

# Flyway's default lock keeps a transaction open, in which CREATE INDEX CONCURRENTLY waits for ever.
SESSION_LOCK = {"postgresql__transactional__lock": "false"}


@scenario
def failure_in_the_middle(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b") + "SELECT 1/0;\n")
    w.write("V3__c.sql", table("c"))
    assert not w.run("migrate")
    assert not w.run("migrate")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def failing_repeatable(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("R__r.sql", "SELECT nothing FROM nowhere;\n")
    assert not w.run("migrate")
    w.write("R__r.sql", "SELECT 1;\n")
    assert w.run("migrate")


@scenario
def failure_outside_transactions_with_a_session_lock(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b") + "SELECT 1/0;\n")
    w.write("V2__b.sql.conf", "executeInTransaction=false\n")
    assert not w.run("migrate", **SESSION_LOCK)
    assert not w.run("migrate", **SESSION_LOCK)
    assert not w.run("validate")
    assert w.run("repair")
    w.write("V2__b.sql", "DROP TABLE b;" + table("b"))
    assert w.run("migrate")


@scenario
def failure_outside_transactions(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", table("b") + "SELECT 1/0;\n")
    w.write("V2__b.sql.conf", "executeInTransaction=false\n")
    assert not w.run("migrate")
    w.write("V2__b.sql", "DROP TABLE b;" + table("b"))
    assert w.run("migrate")


@scenario
def failed_migration_without_script(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", "SELECT 1/0;\n")
    w.write("V2__b.sql.conf", "executeInTransaction=false\n")
    assert not w.run("migrate", **SESSION_LOCK)
    w.remove("V2__b.sql")
    w.remove("V2__b.sql.conf")
    w.run("validate")
    w.run("migrate")
    w.write("V3__c.sql", table("c"))
    w.run("validate")
    w.run("migrate")
    w.run("migrate", ignoreMigrationPatterns="*:missing")
    assert w.run("repair")
    assert w.run("migrate")


@scenario
def failed_repeatable_row(w: World) -> None:
    w.write("R__r.sql", "SELECT 1/0;\n")
    w.write("R__r.sql.conf", "executeInTransaction=false\n")
    assert not w.run("migrate", **SESSION_LOCK)
    w.write("R__r.sql", "SELECT 1;\n")
    w.run("validate")
    w.run("migrate")
    assert w.run("repair")
    assert w.run("migrate")


@scenario
def statements_outside_transactions(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__index.sql", "CREATE INDEX CONCURRENTLY a_i ON a (i);\n")
    w.write("V3__vacuum.sql", "VACUUM a;\n")
    w.write("V4__index.sql", "DROP INDEX CONCURRENTLY a_i;\n")
    w.write("V5__reindex.sql", "CREATE UNIQUE INDEX CONCURRENTLY a_u ON a (i);\n")
    w.write("V7__b.sql", table("b"))
    assert w.run("migrate", target="3", **SESSION_LOCK)
    assert w.run("migrate", **SESSION_LOCK)


@scenario
def statements_that_only_fail_inside_transactions(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a (i int PRIMARY KEY);\n")
    w.write("V2__reindex.sql", "REINDEX TABLE CONCURRENTLY a;\n")
    assert not w.run("migrate")
    w.write("V2__reindex.sql.conf", "executeInTransaction=false\n")
    assert w.run("migrate", **SESSION_LOCK)


@scenario
def new_enum_value(w: World) -> None:
    w.write("V1__e.sql", "CREATE TYPE e AS ENUM ('a');\n")
    w.write("V2__e.sql", "ALTER TYPE e ADD VALUE 'b';\n" + table("t"))
    assert w.run("migrate")


@scenario
def mixed_statements(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__mixed.sql", table("b") + "VACUUM a;\n")
    assert not w.run("migrate")
    assert w.run("migrate", mixed="true")


@scenario
def one_group(w: World) -> None:
    w.defaults["group"] = "true"
    for version in range(1, 4):
        w.write(f"V{version}__x.sql", table(f"t{version}"))
    w.write("R__r.sql")
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def failing_group(w: World) -> None:
    w.defaults["group"] = "true"
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", "SELECT 1/0;\n")
    assert not w.run("migrate")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate")


@scenario
def mixed_group(w: World) -> None:
    w.defaults |= {"group": "true", "postgresql.transactional.lock": "false"}
    w.write("V1__a.sql", table("a"))
    w.write("V2__b.sql", "VACUUM a;\n")
    assert not w.run("migrate")
    assert w.run("migrate", mixed="true")


@scenario
def placeholders_in_scripts(w: World) -> None:
    w.write(
        "V1__a.sql",
        "-- ${comment}\nCREATE TABLE ${Name} (i int DEFAULT ${number});\n"
        "COPY a FROM STDIN;\n${number}\n\\.\n",
    )
    assert not w.run("migrate", placeholders__name="a")
    assert w.run(
        "migrate",
        placeholders__name="a",
        placeholders__number="42",
        placeholders__comment="x\ny"[:1],
    )


@scenario
def placeholders_that_nothing_ends(w: World) -> None:
    w.write("V1__a.sql", table("a") + "-- ${never\n")
    w.run("migrate")
    w.write("V1__a.sql", table("a") + "SELECT '$' || '{}' || '$ {x}' || '$$';\n")
    w.run("migrate")
    w.write("V1__a.sql", table("a") + "SELECT '${}';\n")
    w.run("migrate")


@scenario
def placeholders_of_another_form(w: World) -> None:
    w.defaults |= {"placeholderPrefix": "<<", "placeholderSuffix": ">>"}
    w.write("V1__a.sql", "CREATE TABLE <<name>> AS SELECT '${kept}' AS t;\n")
    assert w.run("migrate", placeholders__name="a")


@scenario
def placeholders_left_alone(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT '${kept}' AS t;\n")
    w.write("R__r.sql", "CREATE OR REPLACE VIEW v AS SELECT '${kept}' AS t;\n")
    assert w.run("migrate", placeholderReplacement="false")
    assert w.run("validate", placeholderReplacement="false")


@scenario
def placeholder_values_are_not_replaced_again(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT $x$${one}$x$ AS t;\n")
    assert w.run("migrate", placeholders__one="${two}", placeholders__two="2")


@scenario
def built_in_placeholders(w: World) -> None:
    w.defaults["schemas"] = "app1"
    names = ("defaultSchema", "user", "filename", "table", "environment")
    columns = ", ".join(f"'${{flyway:{name}}}' AS \"{name}\"" for name in names)
    w.write("V1__a.sql", f"CREATE TABLE a AS SELECT {columns};\n")
    w.write(
        "V2__b.sql", "CREATE TABLE b AS SELECT '${flyway:database}' = current_database() AS same;\n"
    )
    w.write("sub/V3__c.sql", "CREATE TABLE c AS SELECT '${flyway:filename}' AS name;\n")
    w.write(
        "V4__d.sql",
        "CREATE TABLE d AS SELECT '${flyway:timestamp}' ~ '^20..-..-.. ..:..:..$' AS y;\n",
    )
    assert w.run("migrate")


@scenario
def repeatable_with_a_timestamp_runs_each_time(w: World) -> None:
    w.write("R__r.sql", "-- ${flyway:filename} ${flyway:user}\nSELECT 1;\n")
    assert w.run("migrate")
    assert w.run("migrate")


@scenario
def copy_from_stdin(w: World) -> None:
    w.write(
        "V1__copy.sql",
        "CREATE TABLE a (i int, t text);\n"
        "COPY a (i, t) FROM stdin;\n1\tone; -- no comment\n2\t'quote\n\\.\n"
        'copy a from STDIN WITH (FORMAT csv);\n3,"th;ree"\n\\.\nCREATE TABLE b (i int);\n',
    )
    w.write("V2__empty.sql", "COPY a FROM STDIN;\n\\.\n")
    w.write("V3__crlf.sql", "COPY a FROM STDIN;\r\n4\tfour\r\n\\.\r\nCREATE TABLE c (i int);\r\n")
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def statements_of_every_kind(w: World) -> None:
    w.write(
        "V1__lexing.sql",
        "/* a /* nested; */ comment; */ CREATE TABLE a (t text); -- ; not here\n"
        "INSERT INTO a VALUES ('semi;colon'), (E'back\\'slash;');\n"
        "INSERT INTO a VALUES ($$dollar;'$$), ($x$ $$;$$ $x$);\n"
        'CREATE TABLE "odd;""name" (a$b int);\n'
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN 1; END; $f$;\n"
        "DO $$ BEGIN PERFORM f(); END $$;\n"
        'CREATE RULE r AS ON INSERT TO "odd;""name" DO ALSO (SELECT 1; SELECT 2);\n'
        "INSERT INTO a VALUES (U&'d\\0061t;a'), (N'n;'), ('it''s;');\n"
        "SELECT 1 AS \"a;b\" ;;; \n SELECT '$' || '$' || 2",
    )
    w.write(
        "V2__atomic.sql",
        "CREATE FUNCTION g(i int) RETURNS text BEGIN ATOMIC\n"
        "  SELECT CASE WHEN i > 1 THEN 'big;' ELSE 'small' END;\nEND;\n"
        "CREATE OR REPLACE PROCEDURE p(i int) LANGUAGE sql BEGIN ATOMIC\n"
        "  INSERT INTO a VALUES (g(i)); INSERT INTO a VALUES ('x');\nEND;\n"
        "CALL p(2);\nCREATE TABLE b (i int);\n",
    )
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def psql_commands_are_no_sql(w: World) -> None:
    w.write("V1__a.sql", "\\set x 1\nSELECT 1;\n")
    assert not w.run("migrate")


@scenario
def empty_scripts(w: World) -> None:
    w.write("V1__empty.sql", "")
    w.write("V2__comment.sql", "-- nothing; yet\n/* here */\n")
    w.write("V3__semicolons.sql", " ; ;;\n")
    assert w.run("migrate")
    assert w.run("validate")


@scenario
def script_that_commits_by_itself(w: World) -> None:
    w.write("V1__a.sql", "BEGIN;\n" + table("a") + "COMMIT;\n")
    w.write("V2__b.sql", table("b"))
    assert w.run("migrate", target="1")
    assert w.run("migrate")


@scenario
def script_that_changes_its_session(w: World) -> None:
    w.sql("DO $$ BEGIN CREATE ROLE flyway_other; EXCEPTION WHEN duplicate_object THEN END $$")
    w.sql("CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO flyway_other")
    w.defaults["schemas"] = "app1"
    w.write("V1__a.sql", "SET ROLE flyway_other; SET search_path TO other;\n" + table("a"))
    w.write("V2__b.sql", table("b"))
    w.write("V3__c.sql", "SET search_path TO other; CREATE TABLE c AS SELECT current_user AS u;\n")
    assert w.run("migrate", target="2")
    assert w.run("migrate")


@scenario
def search_path_of_scripts(w: World) -> None:
    w.sql("CREATE SCHEMA app1")
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT current_setting('search_path') AS path;\n")
    assert w.run("migrate", schemas="app1")
    assert w.run("migrate", schemas="app2")
    assert w.run("migrate")


@scenario
def skipped_execution(w: World) -> None:
    w.write("V1__a.sql", table("a"))
    w.write("V2__broken.sql", "SELECT nothing FROM nowhere;\n")
    assert w.run("migrate", skipExecutingMigrations="true")
    w.write("V3__c.sql", table("c"))
    assert w.run("migrate")


@scenario
def results_are_shown_or_not(w: World) -> None:
    w.write("V1__a.sql", "SELECT 1 AS one, NULL AS nothing;\n")
    w.write("V2__b.sql", "SELECT 2 AS two;\n")
    assert w.run("migrate", outputQueryResults="true", target="1")
    assert w.run("migrate", outputQueryResults="false")


@scenario
def percent_signs(w: World) -> None:
    w.write("V1__a.sql", "CREATE TABLE a AS SELECT '100 %' AS t, 7 % 4 AS n, '%s %(x)s' AS f;\n")
    assert w.run("migrate")
