"""Transactions, and what a session may have set."""

from model.script import Session
from model.world import Choices, Operation, World

SETTINGS = [
    "TimeZone TO 'America/New_York'",
    "TimeZone TO 'Asia/Kathmandu'",
    "DateStyle TO 'SQL, DMY'",
    "DateStyle TO 'German'",
    "IntervalStyle TO 'iso_8601'",
    "IntervalStyle TO 'sql_standard'",
    "standard_conforming_strings TO off",
    "extra_float_digits TO -10",
    "search_path TO silver, gold, raw",
    "search_path TO ''",
    "row_security TO off",
    "transform_null_equals TO on",
    "bytea_output TO 'escape'",
    "default_transaction_isolation TO 'repeatable read'",
    "enable_partition_pruning TO off",
    "plan_cache_mode TO force_generic_plan",
    "default_tablespace TO ''",
    "work_mem TO '64kB'",
    "enable_hashagg TO off",
    "enable_sort TO off",
    "enable_indexscan TO off",
    "enable_partitionwise_aggregate TO on",
    "parallel_setup_cost TO 0; SET parallel_tuple_cost TO 0; SET min_parallel_table_scan_size TO 0",
    "plan_cache_mode TO force_custom_plan",
    "constraint_exclusion TO off",
    "check_function_bodies TO off",
    "array_nulls TO off",
    "backslash_quote TO off",
    "xmloption TO document",
    "lc_numeric TO 'C'",
    "client_encoding TO 'LATIN1'",
    "TimeZone TO '-13:30'",
    "default_transaction_deferrable TO on",
    "quote_all_identifiers TO on",
]
ENDED = ("23", "40", "55")


def begin(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if not session.in_transaction:
        session.begin(choices.pick(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]))


def end(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if not session.in_transaction:
        return
    how = choices.pick(["COMMIT", "COMMIT", "ROLLBACK", "PREPARE"])
    if how == "PREPARE":
        prepare(world, session)
    else:
        session.end(how, ENDED)


def savepoint(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if session.in_transaction:
        if session.savepoint and choices.chance(60):
            session.run("ROLLBACK TO SAVEPOINT s")
        else:
            session.end("SAVEPOINT s")


def end_prepared(world: World, choices: Choices) -> None:
    session = world.session(choices)
    if world.prepared and not session.in_transaction:
        end_one(world, session, choices.pick(["COMMIT", "ROLLBACK"]))


def prepare(world: World, session: Session) -> None:
    with world.script.one_event("prepare", session.name):
        # The server knows these names, whatever the database.
        name = world.new_name(f"model_{session.connection.info.dbname}_")
        if session.end(f"PREPARE TRANSACTION '{name}'", (*ENDED, "0A000")):
            world.prepared.append(name)


def end_one(world: World, session: Session, how: str) -> None:
    if world.prepared:
        with world.script.one_event("end_one", session.name, how):
            session.run(f"{how} PREPARED '{world.prepared.pop(0)}'")


def setting(world: World, choices: Choices) -> None:
    session = world.session(choices)
    session.run("RESET ALL" if choices.chance(20) else f"SET {choices.pick(SETTINGS)}")


TRANSACTIONS: dict[str, Operation] = {
    "begin": begin,
    "end": end,
    "savepoint": savepoint,
    "end_prepared": end_prepared,
    "setting": setting,
}
