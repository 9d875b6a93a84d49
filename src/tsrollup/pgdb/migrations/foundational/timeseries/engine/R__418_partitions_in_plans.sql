-- Partitions that plans do not know.
--
-- A statement is planned in one snapshot and run in a newer one, and a plan lives as long as its
-- transaction. One that was made before a partition came, and that runs after it was filled and
-- its range cleared, would miss its rows. So every plan carries the generation of partitions that
-- it knows, and a read takes the ranges of later ones for stale. Nobody waits for anybody, and
-- statements on a standby are right as well.
--
-- A partition gets its generation in a later transaction than the one that noted it: a
-- transaction is visible a moment before others hear of what it changed in the catalogue.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.hear_invalidations() RETURNS bigint
    LANGUAGE plpgsql STABLE PARALLEL SAFE  -- the planner asks: it is parsed and planned once a session
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A session listens when it gets a lock that it did not hold.
    RETURN pg_relation_size('rollup_engine.bell'::regclass);
END
$$;
COMMENT ON FUNCTION rollup_engine.hear_invalidations() IS 'From here on the session plans with every partition that came by transactions which are visible to it and have ended.';

CREATE OR REPLACE FUNCTION rollup_engine.planned_partitions(p_rollup_id integer) RETURNS bigint
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- hypopg shows its indexes to a plan only until the first query that ends meanwhile.
    IF current_setting('tsrollup.advising', true) = 'on' THEN
        RETURN 0;
    END IF;
    PERFORM rollup_engine.hear_invalidations();
    RETURN coalesce((
        SELECT max(generation) FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation < 9223372036854775807), 0);
END
$$;
COMMENT ON FUNCTION rollup_engine.planned_partitions(integer) IS
'The generation of partitions that the plan being made knows. Immutable so that the planner asks, just before it looks at the partitions, and keeps the answer with the plan.';

CREATE OR REPLACE FUNCTION rollup_engine.has_unnoted_partitions(p_table regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_inherits AS i WHERE i.inhparent = p_table
            AND i.inhrelid NOT IN (
                SELECT p.partition FROM rollup_engine.rollup_partition AS p
                JOIN silver.rollup_config AS r ON r.id = p.rollup_id AND r.target_table = p_table))
$$;
COMMENT ON FUNCTION rollup_engine.has_unnoted_partitions(regclass) IS 'Whether somebody else made partitions: pg_partman, a change of their width, people.';

CREATE OR REPLACE FUNCTION rollup_engine.note_partitions(p_table regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config;
    v_gone tstzmultirange;
    v_came tstzmultirange;
BEGIN
    SELECT * INTO v_rollup FROM silver.rollup_config WHERE target_table = p_table;
    WITH gone AS (
        DELETE FROM rollup_engine.rollup_partition AS p
        WHERE rollup_id = v_rollup.id AND (partition, from_time, to_time) NOT IN (
            SELECT m.member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_table, 'bucket') AS m)
        RETURNING from_time, to_time
    )
    SELECT coalesce(range_agg(tstzrange(from_time, to_time)), '{}') INTO v_gone FROM gone;
    WITH came AS (
        INSERT INTO rollup_engine.rollup_partition (rollup_id, partition, from_time, to_time)
        SELECT v_rollup.id, m.member, m.from_time, m.to_time FROM rollup_engine.partition_bounds(p_table, 'bucket') AS m
        WHERE m.member <> p_table
        ON CONFLICT DO NOTHING
        RETURNING partition, from_time, to_time
    ), guarded AS MATERIALIZED (
        SELECT *, rollup_engine.guard_table(partition) FROM came
    )
    -- Nothing was stored there before it was noted: rows came with it.
    SELECT coalesce(range_agg(tstzrange(from_time, to_time)) FILTER (WHERE pg_relation_size(partition) > 0), '{}') INTO v_came FROM guarded;
    IF NOT isempty(v_gone + v_came) THEN
        PERFORM rollup_engine.mark_touched(v_rollup, v_gone + v_came);
        PERFORM rollup_engine.mark_lost(v_rollup, v_gone - v_came);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.note_partitions(regclass) IS
'Notes and guards the partitions of a rollup table, and has computed anew what went or came with some that people detached, dropped or attached; the caller holds the lock of whoever attaches one.';

CREATE OR REPLACE FUNCTION rollup_engine.unsettled_partitions(p_rollup_id integer) RETURNS SETOF rollup_engine.rollup_partition
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        SELECT * FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation = 9223372036854775807
            AND made_by IS DISTINCT FROM pg_current_xact_id_if_assigned();
END
$$;
COMMENT ON FUNCTION rollup_engine.unsettled_partitions(integer) IS 'Partitions that other transactions noted, and that sessions may not have heard of yet.';

CREATE OR REPLACE FUNCTION rollup_engine.settle_partitions(p_rollup_id integer) RETURNS boolean
    LANGUAGE plpgsql STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table constant regclass := (
        SELECT c.oid FROM silver.rollup_config AS r JOIN pg_class AS c ON c.oid = r.target_table WHERE r.id = p_rollup_id);
BEGIN
    IF v_table IS NULL OR NOT EXISTS (SELECT FROM rollup_engine.unsettled_partitions(p_rollup_id)) THEN
        RETURN false;
    END IF;
    -- Whoever attached one holds this lock until all have been told.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', v_table);
    UPDATE rollup_engine.rollup_partition
    SET generation = 1 + (
        SELECT coalesce(max(generation), 0) FROM rollup_engine.rollup_partition
        WHERE rollup_id = p_rollup_id AND generation < 9223372036854775807)
    WHERE rollup_id = p_rollup_id AND partition IN (SELECT partition FROM rollup_engine.unsettled_partitions(p_rollup_id));
    -- Changes nothing, but has plans made again that were made in between.
    EXECUTE (
        SELECT format('ALTER TABLE ONLY %s ALTER bucket SET STATISTICS %s', v_table, coalesce(attstattarget, -1))
        FROM pg_attribute WHERE attrelid = v_table AND attname = 'bucket');
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;  -- until a later step finds it free, these ranges are read live
END
$$;
COMMENT ON FUNCTION rollup_engine.settle_partitions(integer) IS 'Gives partitions that came by earlier transactions their generation, so that plans count on them; false when there was nothing to do.';

RESET ROLE;
