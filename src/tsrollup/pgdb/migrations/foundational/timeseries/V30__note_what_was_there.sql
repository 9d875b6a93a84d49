-- Which sealed partitions of rollups hold rows, so that one that a restore has left out is told from
-- one that was always empty; and what a table with retention, or that maintenance makes partitions
-- for, was called: nothing is dropped of one whose name is another table's by now, and what is gone is named.
-- Where tables were known by their numbers: after a restore those tell nothing, even where they are the same.
-- And of what type a column was; since when a state is known, which came after time was sealed; which rollups were out of reach;
-- and which tables a view read, that may be gone.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";
SELECT rollup_engine.lock_tables('{silver.rollup_config,rollup_engine.source,rollup_engine.source_partition,rollup_engine.rollup_partition,rollup_engine.retention,rollup_engine.partition_set,rollup_engine.rollup_column,rollup_engine.source_column}');

-- A dump leaves out what is generated: whoever loads its row makes it anew.
CREATE FUNCTION rollup_engine.new_mark() RETURNS uuid
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN gen_random_uuid();
END
$$;
COMMENT ON FUNCTION rollup_engine.new_mark() IS 'A mark that no other database has. Not immutable, but said to be, as nothing else is generated.';
CREATE TABLE rollup_engine.restore_mark (id integer PRIMARY KEY CHECK (id = 1), mark uuid GENERATED ALWAYS AS (rollup_engine.new_mark()) STORED);
COMMENT ON TABLE rollup_engine.restore_mark IS 'What tells a database from those that are made of its dumps; a standby, a template and pg_upgrade keep it.';
INSERT INTO rollup_engine.restore_mark (id) VALUES (1);
CREATE TYPE rollup_engine.numbering AS (mark uuid, version integer);
COMMENT ON TYPE rollup_engine.numbering IS 'Where numbers of tables, columns and transactions mean what they did: the mark of the database, and the version of its server.';
ALTER TABLE rollup_engine.source ADD COLUMN noted_in rollup_engine.numbering;
COMMENT ON COLUMN rollup_engine.source.noted_in IS 'Where its shape was noted; NULL before the first time since this is known.';
ALTER TABLE rollup_engine.noted_right ADD COLUMN noted_in rollup_engine.numbering;
COMMENT ON COLUMN rollup_engine.noted_right.noted_in IS 'Where it was noted.';

ALTER TABLE rollup_engine.source ADD COLUMN tables_read regclass[];
COMMENT ON COLUMN rollup_engine.source.tables_read IS 'The tables that were read through it when its windows were last read: itself, or those of a view; NULL with triggers, or before the first time.';
ALTER TABLE rollup_engine.source ADD COLUMN names_read text[];
COMMENT ON COLUMN rollup_engine.source.names_read IS 'What those, and those before, were called at such times.';
ALTER TABLE rollup_engine.rollup_partition ADD COLUMN held boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN rollup_engine.rollup_partition.held IS 'Whether there were rows in it when it was sealed.';

ALTER TABLE rollup_engine.retention ADD COLUMN relation_name text;
COMMENT ON COLUMN rollup_engine.retention.relation_name IS 'What it was called when its retention was set; NULL for rollups that were created with theirs.';
ALTER TABLE rollup_engine.retention ADD COLUMN noted_in rollup_engine.numbering;
COMMENT ON COLUMN rollup_engine.retention.noted_in IS 'Where relation_name was noted.';
ALTER TABLE rollup_engine.retention ADD COLUMN was_exchanged boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN rollup_engine.retention.was_exchanged IS 'Whether relation_name was seen to be the name of another table: it waits until it is set again.';
ALTER TABLE rollup_engine.retention ADD COLUMN last_border timestamptz;
COMMENT ON COLUMN rollup_engine.retention.last_border IS 'Where it was sealed last: before sealed_before, when that was for a rollup that came later.';
ALTER TABLE rollup_engine.retention ADD COLUMN set_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN rollup_engine.retention.set_at IS 'Since when it is kept so long, at the latest since the migration that knew.';
UPDATE rollup_engine.retention AS t SET relation_name = c.oid::regclass::text FROM pg_class AS c WHERE c.oid = t.relation;

ALTER TABLE rollup_engine.partition_set ADD COLUMN relation_name text;
COMMENT ON COLUMN rollup_engine.partition_set.relation_name IS 'What it was called when it was handed over.';
UPDATE rollup_engine.partition_set AS t SET relation_name = c.oid::regclass::text FROM pg_class AS c WHERE c.oid = t.relation;

-- 0.1.0 gave a part that was handed over partitions of now, where it holds nothing.
UPDATE rollup_engine.source_partition SET to_time = from_time WHERE to_time < from_time;
-- In a copy one that was dropped may have the number of another one, and is to be restored beside it.
ALTER TABLE rollup_engine.source_partition DROP CONSTRAINT source_partition_pkey, ADD PRIMARY KEY (source_id, partition, from_time, to_time);

ALTER TABLE rollup_engine.source_column ADD COLUMN seen jsonb;
COMMENT ON COLUMN rollup_engine.source_column.seen IS
'What it was when a drain last saw it: its type, as it is called, by number and modifier, its collation and what that sorts by, and the expression that it is generated by.';
-- Of these, releases that knew no better noted what it is called, and a collation or parts in other words.
UPDATE rollup_engine.source_column AS c SET seen = jsonb_build_object('called', t.called)
FROM rollup_engine.source AS s JOIN rollup_engine.source_shape AS n ON n.source_id = s.id AND n.member = s.relation
CROSS JOIN LATERAL (SELECT key, replace(value, ' "default"', '') FROM jsonb_each_text(n.columns)) AS t (name, called)
WHERE c.source_id = s.id AND c.current_name = t.name AND t.called !~ '"|  ';

ALTER TABLE rollup_engine.rollup_column ADD COLUMN known_since timestamptz;
COMMENT ON COLUMN rollup_engine.rollup_column.known_since IS 'Time that was sealed before when it came, here or in what it is made of, and of which it therefore knows nothing; NULL for none.';

ALTER TABLE silver.rollup_config ADD COLUMN missed_changes boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN silver.rollup_config.missed_changes IS
'Whether its table was out of reach when its source was altered or had been restored: the next run that reaches it computes it anew.';

RESET ROLE;
