"""What every function of the machinery has to be, asked of pg_proc."""

import re

import psycopg

from raw_tables import create_hierarchy

# Without a SET clause: what commits (it pins the path itself, again after each COMMIT), what only
# calls that, and what hands on its caller's path.
LOOSE = {
    "rollup_engine.run_within_budget(text,interval,timestamp with time zone)",
    "silver.run_rollups(text,interval,timestamp with time zone)",
    "silver.suggest_indexes(text,text[])",
}

FUNCTIONS = """
    SELECT oid::regprocedure::text, proname, pronamespace::regnamespace::text, prosecdef,
        proparallel = 's', prosqlbody IS NOT NULL, coalesce(proconfig, '{}'), prosrc
    FROM pg_proc
    WHERE pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
        AND prokind <> 'a'
"""


def test_promise_k_what_a_function_means_is_fixed_when_it_is_made(db: psycopg.Connection) -> None:
    """Its search_path is pinned, or its body was parsed once: so is what inlines. A constant, which
    inlines as well, is told by a text that dumps take along."""
    create_hierarchy(db)
    rows = db.execute(FUNCTIONS).fetchall()
    assert len(rows) > 100
    loose = [
        row[0]
        for row in rows
        if not row[5]
        and row[0] not in LOOSE
        and not re.fullmatch(r"SELECT '[^']*'::pg_catalog\.tstzrange", row[7])
        and not any(re.fullmatch(r"search_path=(.*, )?pg_catalog, pg_temp", s) for s in row[6])
    ]
    assert loose == []


def test_promise_k_ways_in_pin_every_setting(db: psycopg.Connection) -> None:
    """Public functions, those that act as the owner, and those that compute live buckets."""
    create_hierarchy(db)
    (clauses,) = db.execute("SELECT rollup_engine.pinned_settings()").fetchone() or ("",)
    wanted = {_folded(line.replace("SET ", "")) for line in clauses.split("\n")}
    assert len(wanted) > 5
    for signature, name, schema, definer, parallel, parsed, config, _ in db.execute(FUNCTIONS):
        live = re.fullmatch("live_(group_)?[0-9]+", name) and definer
        hot = parallel and definer and not live  # looks at the machinery's own tables only
        way_in = (schema == "silver" or definer) and not parsed and not hot
        if (way_in or name == "data_extent") and not name.startswith("capture_"):
            missing = wanted - {_folded(setting) for setting in config}
            assert not missing or signature in LOOSE, (signature, missing)


def test_promise_k_no_body_has_a_backslash_that_a_setting_reads(db: psycopg.Connection) -> None:
    """With standard_conforming_strings off it would be gone; an E'' string means the same."""
    for signature, *_, config, source in db.execute(FUNCTIONS):
        if "standard_conforming_strings=on" not in config:
            assert "\\" not in re.sub(r"E'[^']*'", "", source), signature


def _folded(setting: str) -> str:
    return re.sub("[ '\"]", "", setting).lower()
