-- What retention moved aside, and which files hold what was archived of it since.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{rollup_engine.retention}');

ALTER TABLE rollup_engine.retention ADD COLUMN id integer GENERATED ALWAYS AS IDENTITY UNIQUE;
COMMENT ON COLUMN rollup_engine.retention.id IS 'Number of the table, whatever it is called by then.';

CREATE TABLE rollup_engine.detached_partition (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL UNIQUE,
    partition_name text NOT NULL,
    source_table text NOT NULL,
    retention_id integer,
    from_time timestamptz NOT NULL,
    to_time timestamptz NOT NULL,
    bound text NOT NULL,
    sort_by name[] NOT NULL,
    detached_at timestamptz NOT NULL DEFAULT now(),
    attempt_location text,
    attempt_file text,
    attempt_by text
);
COMMENT ON TABLE rollup_engine.detached_partition IS 'Partitions that retention moved to an archive schema, and that are still there.';
COMMENT ON COLUMN rollup_engine.detached_partition.partition_name IS 'What it was called then: what has another name by now is somebody else''s business.';
COMMENT ON COLUMN rollup_engine.detached_partition.retention_id IS 'Number of the table that it was a partition of, which is another when a table of that name was made again.';
COMMENT ON COLUMN rollup_engine.detached_partition.sort_by IS 'Dimensions of the rollup that read it, and its time column.';
COMMENT ON COLUMN rollup_engine.detached_partition.attempt_location IS 'Where the last attempt to archive it wrote.';
COMMENT ON COLUMN rollup_engine.detached_partition.attempt_file IS 'What that one wrote to: while it stands here, the file counts for nothing.';
COMMENT ON COLUMN rollup_engine.detached_partition.attempt_by IS 'The database that did: a copy of it does not touch that file.';

CREATE TABLE silver.archive_log (
    id bigint PRIMARY KEY,
    source_table text NOT NULL,
    retention_id integer,
    partition_name text NOT NULL,
    from_time timestamptz CHECK (isfinite(from_time)),
    to_time timestamptz CHECK (isfinite(to_time)),
    bound text NOT NULL,
    owned_by name NOT NULL,
    detached_at timestamptz NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    location text NOT NULL,
    file text NOT NULL,
    file_bytes bigint NOT NULL,
    checksum text NOT NULL,
    row_count bigint NOT NULL,
    table_bytes bigint NOT NULL,
    restored_at timestamptz,
    restored_as text,
    replaced_by bigint
);
CREATE INDEX archive_log_source_idx ON silver.archive_log (source_table, from_time);
COMMENT ON TABLE silver.archive_log IS 'One row per partition that was written to a file and dropped. Kept for ever.';
COMMENT ON COLUMN silver.archive_log.id IS 'Number of the file.';
COMMENT ON COLUMN silver.archive_log.source_table IS 'The table that it was a partition of, by the name of then.';
COMMENT ON COLUMN silver.archive_log.retention_id IS 'Its number in rollup_engine.retention, which stays when it is renamed.';
COMMENT ON COLUMN silver.archive_log.partition_name IS 'The partition, by its name in the archive schema.';
COMMENT ON COLUMN silver.archive_log.from_time IS 'Start of its range, which is sealed; NULL where it had no border.';
COMMENT ON COLUMN silver.archive_log.to_time IS 'End of its range; NULL where it had no border.';
COMMENT ON COLUMN silver.archive_log.bound IS 'Its range as ATTACH PARTITION takes it.';
COMMENT ON COLUMN silver.archive_log.owned_by IS 'Who owned it, and owns it when it comes back.';
COMMENT ON COLUMN silver.archive_log.detached_at IS 'When retention took it out of its table.';
COMMENT ON COLUMN silver.archive_log.archived_at IS 'When the file was verified and the table dropped.';
COMMENT ON COLUMN silver.archive_log.location IS 'The folder or bucket that the file is in.';
COMMENT ON COLUMN silver.archive_log.file IS 'Path of the file below that.';
COMMENT ON COLUMN silver.archive_log.file_bytes IS 'Size of the file.';
COMMENT ON COLUMN silver.archive_log.checksum IS 'SHA-256 of the file, in hex.';
COMMENT ON COLUMN silver.archive_log.row_count IS 'Rows in the file.';
COMMENT ON COLUMN silver.archive_log.table_bytes IS 'What the table took in PostgreSQL, with indexes.';
COMMENT ON COLUMN silver.archive_log.restored_at IS 'When it was last brought back.';
COMMENT ON COLUMN silver.archive_log.restored_as IS 'The name that it came back under. The table may have another by now: its comment says from which file it is.';
COMMENT ON COLUMN silver.archive_log.replaced_by IS 'The file that took the place of this one: its restored table was attached again, and archived again.';

RESET ROLE;
