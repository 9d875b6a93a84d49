-- Every table and type of the system, and the catalogue of aggregates.
--
-- silver holds what people configure and read, rollup_engine what only the
-- machinery touches. Tables are named by regclass, so a rename, or a dump and
-- restore, changes nothing; logs keep plain names and outlive their rollup.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

-- Configuration ---------------------------------------------------------------

CREATE TABLE silver.dimension_config (
    source_table regclass NOT NULL,
    dimension_column name NOT NULL,
    description text,
    is_active boolean NOT NULL DEFAULT true,
    ltree_level integer[]
        CHECK (cardinality(ltree_level) > 0 AND array_position(ltree_level, NULL) IS NULL AND 0 < ALL (ltree_level)),
    PRIMARY KEY (source_table, dimension_column)
);
COMMENT ON TABLE silver.dimension_config IS 'Default dimensions of a source: used by create_rollup_table when none are named.';
COMMENT ON COLUMN silver.dimension_config.source_table IS 'The source table.';
COMMENT ON COLUMN silver.dimension_config.dimension_column IS 'Column of the source to group by.';
COMMENT ON COLUMN silver.dimension_config.description IS 'What the dimension means, for people.';
COMMENT ON COLUMN silver.dimension_config.is_active IS 'Inactive rows are kept but not used.';
COMMENT ON COLUMN silver.dimension_config.ltree_level IS
'For a column of type ltree: the levels that rollups have rows for, such as {1,2}. NULL: the whole path. Rollups keep what they were created with.';

CREATE TABLE rollup_engine.source (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    relation_oid oid NOT NULL,
    relation_name text NOT NULL,
    time_column name NOT NULL,
    time_type regtype NOT NULL,
    change_tracking text NOT NULL CHECK (change_tracking IN ('trigger', 'window')),
    grain interval NOT NULL,
    partitioning text,
    window_read_at timestamptz NOT NULL DEFAULT now(),
    trace text,
    UNIQUE (relation, time_column, change_tracking)
);
COMMENT ON TABLE rollup_engine.source IS 'Tables whose changes are tracked, each with the grain that changed times are coalesced at.';
COMMENT ON COLUMN rollup_engine.source.relation_oid IS 'The table as a plain number: after a dump and restore it is another than that of relation.';
COMMENT ON COLUMN rollup_engine.source.relation_name IS 'Its name when it was last looked at: what is gone has none.';
COMMENT ON COLUMN rollup_engine.source.trace IS 'Digest of the catalogue rows behind source_shape: while it is the same, nothing else is looked at.';
COMMENT ON COLUMN rollup_engine.source.window_read_at IS 'As of when the windows of its rollups were last marked to be read, with window tracking; all that came before is stored or stale.';
COMMENT ON COLUMN rollup_engine.source.partitioning IS 'Fingerprint of the partitions and their bounds that the last drain found.';

CREATE TABLE rollup_engine.source_partition (
    source_id integer NOT NULL REFERENCES rollup_engine.source ON DELETE CASCADE,
    partition regclass NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    PRIMARY KEY (source_id, partition)
);
COMMENT ON TABLE rollup_engine.source_partition IS 'Partitions that the drain knows of; the difference to pg_inherits is what was attached, detached or dropped by hand.';

CREATE TABLE rollup_engine.source_column (
    source_id integer NOT NULL REFERENCES rollup_engine.source ON DELETE CASCADE,
    column_name name NOT NULL,
    current_name name NOT NULL,
    attnum smallint NOT NULL,
    PRIMARY KEY (source_id, column_name)
);
COMMENT ON TABLE rollup_engine.source_column IS
'Columns of a source that its rollups use: the name that they know, the name and number of the column that is read for it. Where nothing has the name any more, the column of that number was renamed.';

CREATE TABLE rollup_engine.source_shape (
    source_id integer NOT NULL REFERENCES rollup_engine.source ON DELETE CASCADE,
    member oid NOT NULL,
    kind text NOT NULL,
    columns jsonb NOT NULL,
    attributes jsonb NOT NULL,
    numbers jsonb NOT NULL,
    file oid NOT NULL,
    triggers text[] NOT NULL,
    server integer NOT NULL,
    PRIMARY KEY (source_id, member)
);
COMMENT ON TABLE rollup_engine.source_shape IS
'What answers depend on besides rows, as the last drain found it, for a source and each table below it: kind and persistence, the columns in use and their numbers, traces of a rewrite, the state of the capture triggers.';

CREATE TABLE silver.rollup_config (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_table regclass NOT NULL UNIQUE,
    target_view regclass NOT NULL UNIQUE,
    target_name text NOT NULL,
    source_table regclass NOT NULL,
    source_id integer NOT NULL REFERENCES rollup_engine.source,
    parent_id integer REFERENCES silver.rollup_config,
    depth integer NOT NULL,
    time_column name NOT NULL,
    bucket_width interval NOT NULL,
    timezone text NOT NULL DEFAULT 'UTC',
    origin timestamptz,
    dimensions name[] NOT NULL,
    metrics jsonb NOT NULL,
    chunk_interval interval NOT NULL,
    cell_width interval NOT NULL,
    settle_delay interval NOT NULL CHECK (settle_delay >= '0'),
    processing_window interval CHECK (processing_window > '0'),
    target_batch_duration interval NOT NULL CHECK (target_batch_duration > '0'),
    change_tracking text NOT NULL,
    look_back_window interval CHECK (look_back_window > '0'),
    retention interval CHECK (retention > '0'),
    query_shape text NOT NULL DEFAULT 'auto' CHECK (query_shape IN ('auto', 'grouped', 'per_bucket')),
    is_active boolean NOT NULL DEFAULT true,
    sealed_before timestamptz CHECK (isfinite(sealed_before)),
    sealed_late_rows bigint NOT NULL DEFAULT 0,
    current_window interval NOT NULL,
    rows_per_second double precision,
    source_rows double precision NOT NULL DEFAULT 0,
    last_run_at timestamptz,
    last_success_at timestamptz,
    retry_count integer NOT NULL DEFAULT 0,
    next_retry_at timestamptz,
    parked_at timestamptz,
    status text NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN NOT is_active THEN 'paused'
            WHEN parked_at IS NOT NULL THEN 'parked'
            WHEN retry_count > 0 THEN 'retrying'
            ELSE 'active'
        END
    ) STORED,
    refresh_sql text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE silver.rollup_config IS 'One row per rollup: what it computes, how it is refreshed, and how that goes.';
COMMENT ON COLUMN silver.rollup_config.id IS 'Number of the rollup.';
COMMENT ON COLUMN silver.rollup_config.target_table IS 'Table of partial states.';
COMMENT ON COLUMN silver.rollup_config.target_view IS 'Live view in gold.';
COMMENT ON COLUMN silver.rollup_config.target_name IS 'Name of the table when a run last saw it; the logs go by it.';
COMMENT ON COLUMN silver.rollup_config.source_table IS 'What it reads: a raw table, or the table of another rollup.';
COMMENT ON COLUMN silver.rollup_config.source_id IS 'The tracked raw table at the root of its hierarchy.';
COMMENT ON COLUMN silver.rollup_config.parent_id IS 'The rollup that it reads, NULL when it reads raw data.';
COMMENT ON COLUMN silver.rollup_config.depth IS 'Rollups between it and the raw table.';
COMMENT ON COLUMN silver.rollup_config.time_column IS 'Time column of the source table.';
COMMENT ON COLUMN silver.rollup_config.bucket_width IS 'Width of a bucket.';
COMMENT ON COLUMN silver.rollup_config.timezone IS 'Time zone of the buckets.';
COMMENT ON COLUMN silver.rollup_config.origin IS 'Origin of the buckets, NULL for that of time_bucket.';
COMMENT ON COLUMN silver.rollup_config.dimensions IS 'Columns it groups by, besides the bucket.';
COMMENT ON COLUMN silver.rollup_config.metrics IS 'Aggregates by source column.';
COMMENT ON COLUMN silver.rollup_config.chunk_interval IS 'Width of the partitions to come.';
COMMENT ON COLUMN silver.rollup_config.cell_width IS 'Width of the cells that workers lock; fixed for the life of the rollup.';
COMMENT ON COLUMN silver.rollup_config.settle_delay IS 'How long after its end a bucket is stored.';
COMMENT ON COLUMN silver.rollup_config.processing_window IS 'Most time a batch covers, NULL for a cell.';
COMMENT ON COLUMN silver.rollup_config.target_batch_duration IS 'How long a batch should take; the window adapts to it.';
COMMENT ON COLUMN silver.rollup_config.change_tracking IS 'trigger: every change is captured. window: the last look_back_window is read again on every run.';
COMMENT ON COLUMN silver.rollup_config.look_back_window IS 'What change_tracking window reads again.';
COMMENT ON COLUMN silver.rollup_config.retention IS 'How long its rows are kept, NULL for ever.';
COMMENT ON COLUMN silver.rollup_config.query_shape IS 'grouped: one GROUP BY over the range. per_bucket: one per bucket, for many rows a bucket and a btree on time. auto: chosen by estimate.';
COMMENT ON COLUMN silver.rollup_config.is_active IS 'False while paused.';
COMMENT ON COLUMN silver.rollup_config.sealed_before IS 'Buckets before this time can no longer be recomputed and never change; NULL when none is sealed.';
COMMENT ON COLUMN silver.rollup_config.sealed_late_rows IS 'Rows that came too late, for sealed buckets, and were kept out.';
COMMENT ON COLUMN silver.rollup_config.current_window IS 'Window of the next batch.';
COMMENT ON COLUMN silver.rollup_config.rows_per_second IS 'Rows written per second by the last batch.';
COMMENT ON COLUMN silver.rollup_config.source_rows IS 'Rows of its source, as estimated after the last batch.';
COMMENT ON COLUMN silver.rollup_config.last_run_at IS 'When a batch last ran.';
COMMENT ON COLUMN silver.rollup_config.last_success_at IS 'When a batch last ended well.';
COMMENT ON COLUMN silver.rollup_config.retry_count IS 'Failures in a row.';
COMMENT ON COLUMN silver.rollup_config.next_retry_at IS 'When a failed rollup is tried again.';
COMMENT ON COLUMN silver.rollup_config.parked_at IS 'When it was given up; reset_rollup_retry takes it up again.';
COMMENT ON COLUMN silver.rollup_config.status IS 'active, paused, retrying or parked.';
COMMENT ON COLUMN silver.rollup_config.refresh_sql IS 'The GROUP BY that the rollup stands for, for people to read.';
COMMENT ON COLUMN silver.rollup_config.created_at IS 'When it was created.';

-- No foreign keys to silver from here on: pg_restore -a loads one schema after the other, by name.
-- They would take row locks, too, that make writers wait.

CREATE TABLE rollup_engine.rollup_column (
    rollup_id integer NOT NULL,
    position integer NOT NULL,
    column_name name NOT NULL,
    kind text NOT NULL CHECK (kind IN ('bucket', 'dimension', 'state', 'finished')),
    data_type text,
    source_column name,
    state text,
    expression text NOT NULL,
    outgrown_by text,
    PRIMARY KEY (rollup_id, column_name),
    UNIQUE (rollup_id, position)
);
COMMENT ON TABLE rollup_engine.rollup_column IS 'Columns of a rollup: dimensions and states as expressions over its source, finished ones as expressions over its states.';
COMMENT ON COLUMN rollup_engine.rollup_column.outgrown_by IS 'Type that the expression has since its source was changed, where data_type may not hold it: rebuild_rollup mends that.';

CREATE TABLE rollup_engine.ltree_dimension (
    rollup_id integer NOT NULL,
    dimension name NOT NULL,
    levels integer[] NOT NULL,
    PRIMARY KEY (rollup_id, dimension)
);
COMMENT ON TABLE rollup_engine.ltree_dimension IS 'Dimensions of rollups that hold ancestors at some levels.';

-- Metrics are added with the owner's rights, so what is added must be the caller's to publish. A
-- function with the owner's rights cannot tell who called it; a default is evaluated as who inserts.
CREATE TABLE rollup_engine.metric_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollup_id integer NOT NULL,
    metrics jsonb NOT NULL,
    requested_by name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE rollup_engine.metric_request IS 'Metrics to add, each for as long as add_rollup_metric runs; nobody else writes who asked.';

-- Logs --------------------------------------------------------------------------

CREATE TABLE silver.refresh_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_table text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    buckets bigint NOT NULL,
    rows_written bigint NOT NULL,
    rows_deleted bigint NOT NULL
);
CREATE INDEX refresh_log_target_idx ON silver.refresh_log (target_table, finished_at);
CREATE INDEX refresh_log_finished_idx ON silver.refresh_log (finished_at);
COMMENT ON TABLE silver.refresh_log IS 'One row per batch that was refreshed. Kept 30 days.';
COMMENT ON COLUMN silver.refresh_log.id IS 'Number of the batch.';
COMMENT ON COLUMN silver.refresh_log.target_table IS 'The rollup''s table.';
COMMENT ON COLUMN silver.refresh_log.started_at IS 'When the batch began.';
COMMENT ON COLUMN silver.refresh_log.finished_at IS 'When the batch ended.';
COMMENT ON COLUMN silver.refresh_log.from_time IS 'Start of the oldest bucket in it.';
COMMENT ON COLUMN silver.refresh_log.to_time IS 'End of the newest bucket in it.';
COMMENT ON COLUMN silver.refresh_log.buckets IS 'Buckets recomputed.';
COMMENT ON COLUMN silver.refresh_log.rows_written IS 'Rows inserted or changed; unchanged rows are not written.';
COMMENT ON COLUMN silver.refresh_log.rows_deleted IS 'Rows whose group is gone from the source.';

CREATE TABLE silver.error_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_table text NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error_code text NOT NULL,
    error_message text NOT NULL,
    detail text,
    hint text,
    context text,
    attempted_query text,
    attempt integer NOT NULL DEFAULT 1
);
CREATE INDEX error_log_target_idx ON silver.error_log (target_table, occurred_at);
CREATE INDEX error_log_occurred_idx ON silver.error_log (occurred_at);
COMMENT ON TABLE silver.error_log IS 'One row per failure. Kept 30 days.';
COMMENT ON COLUMN silver.error_log.id IS 'Number of the failure.';
COMMENT ON COLUMN silver.error_log.target_table IS 'The rollup''s table.';
COMMENT ON COLUMN silver.error_log.occurred_at IS 'When it failed.';
COMMENT ON COLUMN silver.error_log.error_code IS 'SQLSTATE.';
COMMENT ON COLUMN silver.error_log.error_message IS 'Message of the error.';
COMMENT ON COLUMN silver.error_log.detail IS 'Detail of the error.';
COMMENT ON COLUMN silver.error_log.hint IS 'Hint of the error.';
COMMENT ON COLUMN silver.error_log.context IS 'Where in the code it arose.';
COMMENT ON COLUMN silver.error_log.attempted_query IS 'The query that the rollup stands for.';
COMMENT ON COLUMN silver.error_log.attempt IS 'Which attempt in a row it was.';

-- The machinery -------------------------------------------------------------------

CREATE TABLE rollup_engine.change_log (
    source_id integer NOT NULL,
    -- No number of a sequence: a dump's data may be loaded where triggers have logged its load.
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    PRIMARY KEY (source_id, id),
    CHECK (from_time < to_time)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000,
    vacuum_truncate = false
);
COMMENT ON TABLE rollup_engine.change_log IS 'Time ranges that writers touched, logged in their own transaction; from -infinity to infinity stands for everything.';

CREATE TABLE rollup_engine.stale_range (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollup_id integer NOT NULL,
    cell timestamptz NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    CHECK (isfinite(from_time) AND isfinite(to_time) AND from_time < to_time AND cell <= from_time)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000,
    vacuum_truncate = false
);
CREATE INDEX stale_range_rollup_idx ON rollup_engine.stale_range (rollup_id, cell, from_time);
COMMENT ON TABLE rollup_engine.stale_range IS 'Where a rollup''s table does not hold what its source says: whole buckets, each row inside one cell.';

CREATE TABLE rollup_engine.failed_bucket (
    rollup_id integer NOT NULL,
    bucket timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_retry_at timestamptz NOT NULL,
    error_code text NOT NULL,
    error_message text NOT NULL,
    PRIMARY KEY (rollup_id, bucket)
);
COMMENT ON TABLE rollup_engine.failed_bucket IS 'Buckets that cannot be stored for what is in them; they stay stale while the rest is stored, and are tried again with a backoff of their own.';

CREATE TABLE rollup_engine.rollup_partition (
    rollup_id integer NOT NULL,
    partition regclass NOT NULL,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    made_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    generation bigint NOT NULL DEFAULT 9223372036854775807,
    PRIMARY KEY (rollup_id, partition)
);
CREATE INDEX rollup_partition_generation_idx ON rollup_engine.rollup_partition (rollup_id, generation);
COMMENT ON TABLE rollup_engine.rollup_partition IS 'Partitions of rollup tables, noted before anything is stored in them: a plan that does not know one yet computes its range from the source.';
COMMENT ON COLUMN rollup_engine.rollup_partition.made_by IS 'The transaction that noted it.';
COMMENT ON COLUMN rollup_engine.rollup_partition.generation IS 'Plans of this and later generations of the rollup know it; the largest number until a later transaction sets it.';

CREATE MATERIALIZED VIEW rollup_engine.restored AS SELECT pg_current_xact_id() AS ended_by;
COMMENT ON MATERIALIZED VIEW rollup_engine.restored IS 'The transaction that ended the restore of this database, or made it. Nothing else is to refresh it.';

CREATE TABLE rollup_engine.partition_set (
    relation regclass PRIMARY KEY,
    control name NOT NULL,
    chunk_interval interval NOT NULL,
    is_source boolean NOT NULL,
    is_named boolean NOT NULL DEFAULT false,
    partman_parent text
);
COMMENT ON TABLE rollup_engine.partition_set IS 'Partitioned tables that maintenance makes partitions for: every rollup table, and sources by partition_source.';
COMMENT ON COLUMN rollup_engine.partition_set.is_named IS 'Whether somebody named the width: then sizing leaves it alone.';
COMMENT ON COLUMN rollup_engine.partition_set.partman_parent IS 'Its key in pg_partman''s part_config; NULL when its partitions are native.';

CREATE TABLE rollup_engine.retention (
    relation regclass PRIMARY KEY,
    keep interval CHECK (keep > '0'),
    archive boolean NOT NULL DEFAULT false,
    sealed_before timestamptz NOT NULL DEFAULT '-infinity',
    sealed_by xid8
);
COMMENT ON TABLE rollup_engine.retention IS 'Tables, sources and rollups, whose old partitions are dropped.';
COMMENT ON COLUMN rollup_engine.retention.keep IS 'NULL when it is kept for ever by now; the border of what is gone stays on record.';
COMMENT ON COLUMN rollup_engine.retention.sealed_before IS 'Partitions that end before this may be dropped.';
COMMENT ON COLUMN rollup_engine.retention.sealed_by IS 'Transaction that set it: snapshots older than that still read what is to be dropped.';

CREATE TABLE rollup_engine.upgrade (
    began_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE rollup_engine.upgrade IS
'Holds a row while a migrate is under way, or has ended half way: then nothing is drained, refreshed or maintained.';

CREATE TABLE rollup_engine.generated_text (
    name text PRIMARY KEY,
    digest text NOT NULL
);
COMMENT ON TABLE rollup_engine.generated_text IS
'Functions and views that were generated, capture_1 of a source, live_1 and view_1 of a rollup, each with the md5 of its text: what reads otherwise after an upgrade is written anew.';

CREATE TABLE rollup_engine.noted_right (
    position integer NOT NULL,
    statement text PRIMARY KEY
);
COMMENT ON TABLE rollup_engine.noted_right IS 'Owners of and rights on what the migrations made, as statements in the order to run them.';

-- The catalogue of aggregates -------------------------------------------------------
-- {value} is the source column, {time} the time column, {state} the parent's column of
-- that state and {type} its type; {own} the schema of a type that brings its own aggregate.

CREATE TABLE rollup_engine.aggregate_state (
    name text PRIMARY KEY,
    from_source text NOT NULL,
    from_state text NOT NULL
);
COMMENT ON TABLE rollup_engine.aggregate_state IS 'Partial states: how each is computed from rows, and from the states of a parent.';

INSERT INTO rollup_engine.aggregate_state (name, from_source, from_state) VALUES
    ('count', 'count({value})', 'sum({state})::{type}'),
    ('sum', 'sum({value})', 'sum({state})::{type}'),
    ('min', '{own}min({value})', '{own}min({state})'),
    ('max', '{own}max({value})', '{own}max({state})'),
    ('first', '(array_agg({value} ORDER BY {time}))[1]', '(array_agg({state} ORDER BY row_first_time))[1]'),
    ('last', '(array_agg({value} ORDER BY {time} DESC))[1]', '(array_agg({state} ORDER BY row_last_time DESC))[1]');

CREATE TABLE rollup_engine.aggregate (
    name text PRIMARY KEY,
    states text[] NOT NULL,
    finish text,
    numeric_only boolean NOT NULL
);
COMMENT ON TABLE rollup_engine.aggregate IS 'Aggregates that metrics may name: the states they need, and the expression over those that finishes them (NULL: the state of that name is the result).';

INSERT INTO rollup_engine.aggregate (name, states, finish, numeric_only) VALUES
    ('count', '{count}', NULL, false),
    ('sum', '{sum}', NULL, true),
    ('min', '{min}', NULL, false),
    ('max', '{max}', NULL, false),
    ('avg', '{count,sum}', '{sum} / nullif({count}, 0)', true),
    ('first', '{first}', NULL, false),
    ('last', '{last}', NULL, false);

-- pg_restore refreshes materialized views after all else, in parallel as well: a restored one holds when.
-- What functions hand to each other ------------------------------------------------

CREATE TYPE rollup_engine.refresh_batch AS (
    outcome text,
    from_time timestamptz,
    to_time timestamptz,
    buckets bigint,
    rows_written bigint,
    rows_deleted bigint,
    ranges tstzmultirange,
    cells timestamptz[],
    error_code text,
    error_message text
);
COMMENT ON TYPE rollup_engine.refresh_batch IS
'What became of a batch: refreshed, nothing (to do in that cell), busy (another worker has the cell), waiting (for the parent), prepared (its partitions were made: commit and call again), bucket_failed (one bucket cannot be stored).';

CREATE TYPE rollup_engine.refresh_step_result AS (
    outcome text,
    cell timestamptz,
    batch rollup_engine.refresh_batch,
    error_code text,
    error_message text
);
COMMENT ON TYPE rollup_engine.refresh_step_result IS 'What a step did in which cell; outcome NULL when no cell is left to try.';

CREATE TYPE rollup_engine.failure AS (code text, message text, detail text, hint text, context text);
COMMENT ON TYPE rollup_engine.failure IS 'An error as it was caught.';

CREATE TYPE rollup_engine.undrained AS (source_id integer, outcome text, error_code text, error_message text);
COMMENT ON TYPE rollup_engine.undrained IS 'A source whose changes were not taken in, and why: busy, which is no error, or failed.';

CREATE TYPE rollup_engine.run_result AS (
    target text,
    status text,
    buckets bigint,
    rows_written bigint,
    rows_deleted bigint,
    ranges_left bigint,
    duration interval,
    error_code text,
    error_message text
);
COMMENT ON TYPE rollup_engine.run_result IS 'What a run did for a rollup.';

CREATE TYPE rollup_engine.old_partition AS (member regclass, title text, path text, from_time timestamptz, to_time timestamptz);
COMMENT ON TYPE rollup_engine.old_partition IS 'A partition that may go: its time, and all that this rests on.';

CREATE TYPE rollup_engine.maintenance_action AS (target text, action text, detail text);
COMMENT ON TYPE rollup_engine.maintenance_action IS 'A thing that maintenance did.';

CREATE TYPE rollup_engine.bell AS ();
COMMENT ON TYPE rollup_engine.bell IS 'Locked by hear_invalidations, and by nothing for longer than a call.';

RESET ROLE;
