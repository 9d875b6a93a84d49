-- The tail of a source: time that is stale anyway, whose writers log nothing.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.change_log,rollup_engine.stale_range}');

ALTER TABLE rollup_engine.source ADD COLUMN inserts_by_row boolean, ADD COLUMN bulk_at timestamptz;
COMMENT ON COLUMN rollup_engine.source.inserts_by_row IS 'Whether a row trigger captures what is inserted, and not a statement trigger; NULL where none ever did.';
COMMENT ON COLUMN rollup_engine.source.bulk_at IS 'When a drain last found that many rows were inserted behind its tail at once, to some minutes.';
-- A check is read anew from its text by each statement that writes.
ALTER TABLE rollup_engine.change_log ADD COLUMN is_bulk boolean, ADD COLUMN is_found boolean, DROP CONSTRAINT change_log_check;
COMMENT ON COLUMN rollup_engine.change_log.is_bulk IS 'Whether a statement trigger is the better one for what it speaks of: many rows, inserted behind the tail.';
COMMENT ON COLUMN rollup_engine.change_log.is_found IS 'True for what nobody wrote: a run has found a partition that it did not know, or that a restore has brought, or somebody has asked for it. False where nobody knows what was written: capture triggers need not have fired.';

ALTER TABLE rollup_engine.stale_range DROP CONSTRAINT stale_range_check,
    ADD CHECK (isfinite(from_time) AND isfinite(to_time) AND from_time < to_time AND (cell <= from_time OR cell = 'infinity'));
COMMENT ON COLUMN rollup_engine.stale_range.cell IS 'The cell that it lies in; infinity for one that lies in many, and is divided once nobody writes there without logging it.';

CREATE TABLE rollup_engine.tail (
    source_id integer PRIMARY KEY,
    range tstzrange NOT NULL DEFAULT 'empty',
    barred tstzmultirange NOT NULL DEFAULT '{}' CHECK (tstzmultirange(range) <@ barred),
    moved_by xid8,
    writers text[],
    waits_since timestamptz
);
COMMENT ON TABLE rollup_engine.tail IS 'The tail of a source that has one, or may have one soon.';
COMMENT ON COLUMN rollup_engine.tail.range IS 'What is written here is not logged: the function tail_1 of source 1 says the same.';
COMMENT ON COLUMN rollup_engine.tail.barred IS 'Buckets that reach into this are stale in every rollup of the source, and not stored: the range, and what was its range until lately.';
COMMENT ON COLUMN rollup_engine.tail.moved_by IS 'The transaction that gave it its range.';
COMMENT ON COLUMN rollup_engine.tail.writers IS 'Who may write to what was its range without logging it; NULL until they were looked for, after that transaction.';
COMMENT ON COLUMN rollup_engine.tail.waits_since IS 'Since when more is barred than its range; NULL when no more is.';

RESET ROLE;
