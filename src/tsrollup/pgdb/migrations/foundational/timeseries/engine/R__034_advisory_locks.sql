-- Advisory locks: what each of them is for, and who holds one.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.lock_key(p_kind text, p_name text DEFAULT '') RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN hashtextextended('tsrollup ' || p_kind || CASE WHEN p_name <> '' THEN ' ' || p_name ELSE '' END, 0);
COMMENT ON FUNCTION rollup_engine.lock_key(text, text) IS
'Key of an advisory lock: source (drains and registers), cell (stores it), target (creates it), grants (in a schema), archive and restore (of a partition), apply (a file), maintenance, upgrade (waits for runs), regenerate.';

CREATE OR REPLACE FUNCTION rollup_engine.advisory_locks() RETURNS TABLE (key bigint, pid integer, virtualtransaction text)
    LANGUAGE sql STABLE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.classid::bigint << 32 | l.objid::bigint, l.pid, l.virtualtransaction
    FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
$$;
COMMENT ON FUNCTION rollup_engine.advisory_locks() IS 'Advisory locks that others hold in this database; without a session those of prepared transactions.';

CREATE OR REPLACE FUNCTION rollup_engine.prepared_name(p_virtualtransaction text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- It has no session, but its own number locked as well.
    SELECT x.gid
    FROM pg_locks AS own JOIN pg_prepared_xacts AS x ON x.transaction = own.transactionid AND x.database = current_database()
    WHERE own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = p_virtualtransaction
$$;
COMMENT ON FUNCTION rollup_engine.prepared_name(text) IS 'The name of the prepared transaction that has a virtual number in pg_locks; NULL when there is none.';

CREATE OR REPLACE FUNCTION rollup_engine.source_lock_key(p_source_id integer) RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN rollup_engine.lock_key('source', p_source_id::text);
COMMENT ON FUNCTION rollup_engine.source_lock_key(integer) IS 'Advisory lock of whoever drains a source, or registers a rollup of it.';

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_source(p_source_id integer) RETURNS boolean
    LANGUAGE sql
RETURN pg_try_advisory_xact_lock(rollup_engine.source_lock_key(p_source_id));
COMMENT ON FUNCTION rollup_engine.try_lock_source(integer) IS 'Held by whoever drains a source, or registers a rollup of it.';

CREATE OR REPLACE FUNCTION rollup_engine.cell_lock_key(p_rollup_id integer, p_cell timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE
RETURN rollup_engine.lock_key('cell', concat(p_rollup_id, ' ', extract(epoch FROM p_cell)));
COMMENT ON FUNCTION rollup_engine.cell_lock_key(integer, timestamptz) IS 'Advisory lock of whoever refreshes a cell of a rollup.';

CREATE OR REPLACE FUNCTION rollup_engine.try_lock_cell(p_rollup_id integer, p_cell timestamptz) RETURNS boolean
    LANGUAGE sql
RETURN pg_try_advisory_xact_lock(rollup_engine.cell_lock_key(p_rollup_id, p_cell));
COMMENT ON FUNCTION rollup_engine.try_lock_cell(integer, timestamptz) IS 'Keeps an older recompute from overwriting a newer one: held until the batch is committed.';

RESET ROLE;
