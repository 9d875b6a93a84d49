"""Rollups of expressions and filters equal the GROUP BY, whatever is written and changed."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calls import FILL, SOURCE, create
from conftest import Connect
from rollup_checks import assert_equal_to_group_by, assert_settled, refresh_everything

CONDITIONS = st.sampled_from(
    [None, "status = 200", "host <> 'h1' OR status IS NULL", "payload ? 'region'", "spent < 9"]
)
KEYS = st.sampled_from(
    ["payload->>'region'", "status / 100", "host || coalesce(status, 0)", "left(host, 1)", "NULL"]
)
VALUES = st.sampled_from(
    ["CASE WHEN status >= 500 THEN 1 END", "spent * 2.5", "-status", "length(host)", "1"]
)
CHANGES = st.lists(
    st.sampled_from(
        [
            "UPDATE raw.calls SET status = coalesce(status, 100) + 100 WHERE host = 'h2'",
            "UPDATE raw.calls SET ts = ts - interval '3 hours' WHERE status = 200",
            "DELETE FROM raw.calls WHERE random() < 0.1",
            "INSERT INTO raw.calls (ts, host, spent) VALUES ('2026-03-01 09:59+00', 'h9', 1)",
            "INSERT INTO raw.calls SELECT ts + interval '1 h', host, '{}', 200 FROM raw.calls"
            " LIMIT 9",
            "ALTER TABLE raw.calls RENAME status TO status2;"
            "ALTER TABLE raw.calls RENAME status2 TO status",
            "SELECT * FROM silver.perform_rollup(as_of => 'infinity', max_batches => 1)",
            "TRUNCATE raw.calls",
        ]
    ),
    max_size=5,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CONDITIONS, KEYS, VALUES, CONDITIONS, CHANGES)
def test_histories(
    connect: Connect,
    wanted: str | None,
    key: str,
    value: str,
    child: str | None,
    changes: list[str],
) -> None:
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS raw.calls CASCADE")
        db.execute(SOURCE)
        db.execute(FILL)
        try:
            create(
                db,
                "c",
                "raw.calls",
                "15 minutes",
                dimensions=["key", "host"],
                metrics={"value": ["count", "sum", "avg", "max"]},
                expressions={"key": key, "value": value},
                filter=wanted,
            )
            create(db, "d", "c", "1 hour", filter="host <> 'h0'" if child else None)
            create(
                db,
                "e",
                "d",
                "1 day",
                dimensions=["short"],
                expressions={"short": "right(host, 1)"},
                filter="key IS NULL OR bucket > '2026-03-01 21:00'",
            )
            for change in changes:
                db.execute(change)
                assert_equal_to_group_by(db, "c", "d", "e")
            refresh_everything(db)
            assert_settled(db, "c", "d", "e")
        finally:
            for name in ("e", "d", "c"):
                db.execute(
                    "SELECT silver.drop_rollup(target_table::text) FROM silver.rollup_config"
                    " WHERE target_name = %s",
                    [f"silver.{name}"],
                )
