-- The tail: the newest buckets of a source, which are stale anyway while they are written. They are
-- ordinary stale ranges of every rollup, and barred from being stored; so writers log nothing there.
--
-- Writers learn the tail from a function, tail_1 of source 1. Who locks a table hears of all that was
-- committed before, and knows the function as it is then; who has locked it earlier may know an older
-- one for as long as his transaction lasts. So what the tail leaves behind stays barred until everybody
-- who held the source locked after the move was committed is gone. What he wrote is seen by whoever
-- computes it then; who came later has logged it.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.write_tail(p_source_id integer, p_range tstzrange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
BEGIN
    -- It is inlined, and the plan made anew when it is replaced: a constant costs nothing.
    EXECUTE rollup_engine.fill('CREATE OR REPLACE FUNCTION rollup_engine.tail_{id}() RETURNS tstzrange LANGUAGE sql STABLE PARALLEL SAFE AS {body}',
        jsonb_build_object('id', p_source_id, 'body', quote_literal(format('SELECT %L::pg_catalog.tstzrange', p_range))));
    -- The condition of a row trigger is made ready anew for each statement: what is immutable then becomes a constant.
    -- In an older snapshot, who writes may read before the tail was there.
    EXECUTE coalesce((
        SELECT rollup_engine.fill($sql$
CREATE OR REPLACE FUNCTION rollup_engine.tail_edges_{id}() RETURNS {type}[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS {body}
$sql$, jsonb_build_object('id', p_source_id, 'type', t.type, 'body', quote_literal(rollup_engine.fill($body$
BEGIN
    RETURN CASE WHEN pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed' THEN {edges}::pg_catalog.{type}[] ELSE '{infinity,infinity}'::pg_catalog.{type}[] END;
END
$body$, jsonb_build_object('edges', quote_literal(ARRAY[coalesce(lower(p_range), 'infinity'), coalesce(upper(p_range), 'infinity')]), 'type', t.type)))))
        FROM rollup_engine.source AS s CROSS JOIN LATERAL (SELECT CASE s.time_type WHEN 'timestamptz'::regtype THEN 'timestamptz' ELSE 'timestamp' END AS type) AS t
        WHERE s.id = p_source_id AND s.inserts_by_row IS NOT NULL), 'SELECT');
    PERFORM rollup_engine.give_generated_rights(format('tail_edges_%s', p_source_id));
END
$$;
COMMENT ON FUNCTION rollup_engine.write_tail(integer, tstzrange) IS 'Tells writers of the tail of a source.';

CREATE OR REPLACE FUNCTION rollup_engine.written_tail(p_source_id integer) RETURNS tstzrange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_range tstzrange;
BEGIN
    EXECUTE format('SELECT rollup_engine.tail_%s()', p_source_id) INTO v_range;
    RETURN v_range;
EXCEPTION WHEN undefined_function THEN
    RETURN NULL;  -- its writers log everything
END
$$;
COMMENT ON FUNCTION rollup_engine.written_tail(integer) IS 'The tail that writers know of; NULL when somebody has dropped the function.';

CREATE OR REPLACE FUNCTION rollup_engine.write_missing_tails() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.write_tail(id, coalesce(rollup_engine.written_tail(id), 'empty')) FROM rollup_engine.source
    WHERE change_tracking = 'trigger' AND (to_regprocedure(format('rollup_engine.tail_%s()', id)) IS NULL
        OR inserts_by_row IS NOT NULL AND to_regprocedure(format('rollup_engine.tail_edges_%s()', id)) IS NULL)
$$;
COMMENT ON FUNCTION rollup_engine.write_missing_tails() IS 'Has the capture functions of all sources find a tail: those of a new one, or of a release without.';

CREATE OR REPLACE FUNCTION rollup_engine.barred(p_source_id integer) RETURNS tstzmultirange
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Volatile, for a snapshot newer than the claim.
    RETURN coalesce((SELECT barred FROM rollup_engine.tail WHERE source_id = p_source_id), '{}');
END
$$;
COMMENT ON FUNCTION rollup_engine.barred(integer) IS 'Time that no rollup of a source may store for now.';

CREATE OR REPLACE FUNCTION rollup_engine.waits_from(p_source_id integer) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT lower(barred) FROM rollup_engine.tail WHERE source_id = p_source_id AND waits_since > clock_timestamp() - interval '2 minutes');
END
$$;
COMMENT ON FUNCTION rollup_engine.waits_from(integer) IS
'From where more than the tail of a source is barred, for a moment; NULL when no more is, or for so long that people should know.';

-- Who may still write to a former tail -----------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.writers_of(p_source rollup_engine.source) RETURNS SETOF text
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    -- This transaction as well: what it locked earlier it does not hear of again. Each looked up once, however many tables it holds.
    WITH family AS MATERIALIZED (
        SELECT rollup_engine.source_family(p_source.relation)::oid AS member
        UNION
        SELECT g.tgrelid FROM rollup_engine.capture_triggers(p_source) AS g
    ), holder AS MATERIALIZED (
        SELECT DISTINCT l.pid, l.virtualtransaction
        FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
        WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted AND l.relation IN (SELECT member FROM family)
    )
    -- A prepared one has another virtual number after a crash or a failover, the name it was given stays.
    SELECT CASE WHEN pid IS NULL THEN 'prepared ' || coalesce(rollup_engine.prepared_name(virtualtransaction), virtualtransaction) ELSE virtualtransaction END
    FROM holder
$$;
COMMENT ON FUNCTION rollup_engine.writers_of(rollup_engine.source) IS 'Transactions that hold a table of a source as writers do, prepared ones as well.';

CREATE OR REPLACE FUNCTION rollup_engine.remaining_writers(p_noted text[], p_now text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Where one is no longer a session's, any that is prepared may be it.
    SELECT ARRAY(
        SELECT w FROM unnest(p_now) AS w
        WHERE p_noted IS NULL OR w = ANY (p_noted)
            OR w LIKE 'prepared %' AND EXISTS (SELECT FROM unnest(p_noted) AS n WHERE n NOT LIKE 'prepared %' AND n <> ALL (p_now)))
$$;
COMMENT ON FUNCTION rollup_engine.remaining_writers(text[], text[]) IS 'Of the writers that were noted, NULL for anybody, those that may be among those of now.';

CREATE OR REPLACE FUNCTION rollup_engine.settle_tail(p_source rollup_engine.source) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_tail rollup_engine.tail;
    v_writers text[];
    v_until timestamptz;
BEGIN
    SELECT * INTO v_tail FROM rollup_engine.tail WHERE source_id = p_source.id AND waits_since IS NOT NULL;
    IF NOT FOUND THEN
        RETURN true;
    ELSIF v_tail.moved_by = pg_current_xact_id_if_assigned() THEN
        RETURN false;  -- nobody has heard of it yet
    END IF;
    v_writers := rollup_engine.remaining_writers(v_tail.writers, ARRAY(SELECT rollup_engine.writers_of(p_source)));
    -- Most are done in a moment: after a move they are waited for, so that what it left behind can be stored.
    v_until := CASE WHEN v_tail.writers IS NULL THEN clock_timestamp() + interval '100 milliseconds' ELSE '-infinity' END;
    WHILE v_writers <> '{}' AND clock_timestamp() < v_until LOOP
        PERFORM pg_sleep(0.002);
        v_writers := rollup_engine.remaining_writers(v_writers, ARRAY(SELECT rollup_engine.writers_of(p_source)));
    END LOOP;
    UPDATE rollup_engine.tail
    SET writers = v_writers, barred = CASE v_writers WHEN '{}' THEN tstzmultirange(range) ELSE barred END,
        waits_since = CASE WHEN v_writers <> '{}' THEN waits_since END
    WHERE source_id = p_source.id;
    RETURN v_writers = '{}';
END
$$;
COMMENT ON FUNCTION rollup_engine.settle_tail(rollup_engine.source) IS
'Lets go of what is barred besides the tail, once nobody writes there without logging it; true when no more is barred. Only with the lock of the source, which whoever moves the tail holds until all sessions can hear of it.';

CREATE OR REPLACE FUNCTION rollup_engine.settle_tails() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    FOR v_source IN
        SELECT s.* FROM rollup_engine.tail AS t JOIN rollup_engine.source AS s ON s.id = t.source_id
        WHERE t.waits_since IS NOT NULL AND t.writers IS NULL ORDER BY s.id
    LOOP
        PERFORM rollup_engine.settle_tail(v_source) WHERE rollup_engine.try_lock_source(v_source.id);
    END LOOP;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION rollup_engine.settle_tails() IS 'Settles the tails that were moved just now; true when there were any, whose sources are locked until the end of the transaction.';

-- Moving it ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rollup_engine.wanted_tail(p_source_id integer, p_now timestamptz) RETURNS tstzrange
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- From what is about to be stored, of whichever rollup comes first, to a little ahead of the clock: runs
    -- that come once in two minutes move it in time, and reads compute few buckets that are empty. Where much
    -- waits to be stored, the newest part of it is enough.
    RETURN CASE WHEN t.from_time < t.to_time THEN tstzrange(t.from_time, t.to_time) ELSE 'empty' END
    FROM (
        SELECT greatest(max(rollup_engine.bucket_start(r, rollup_engine.time_before(p_now, least(r.settle_delay, 1000 * r.bucket_width)))), max(r.sealed_before)) AS from_time,
            min(rollup_engine.bucket_ceil(r, p_now + least(interval '2 minutes', 8 * r.bucket_width))) AS to_time
        FROM silver.rollup_config AS r
        WHERE source_id = p_source_id AND NOT rollup_engine.has_lost_zone(r) AND p_now > lower(rollup_engine.calendar()) + settle_delay AND p_now < upper(rollup_engine.calendar()) - interval '30 days'
    ) AS t;
END
$$;
COMMENT ON FUNCTION rollup_engine.wanted_tail(integer, timestamptz) IS 'The tail that suits a source at a time.';

CREATE OR REPLACE FUNCTION rollup_engine.holds_rows(p_source rollup_engine.source, p_range tstzrange) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET row_security = off
AS $$
DECLARE
    v_found boolean := false;
BEGIN
    IF isfinite(lower(p_range)) AND rollup_engine.has_time_index(p_source.relation, p_source.time_column) THEN
        EXECUTE rollup_engine.fill('SELECT EXISTS (SELECT FROM {source} WHERE {column} >= {from} AND {column} < {to})', jsonb_build_object(
            'source', p_source.relation, 'column', quote_ident(p_source.time_column),
            'from', rollup_engine.time_literal(lower(p_range), p_source.time_type, p_source.time_unit),
            'to', rollup_engine.time_literal(upper(p_range), p_source.time_type, p_source.time_unit)))
        INTO v_found;
    END IF;
    RETURN v_found;
END
$$;
COMMENT ON FUNCTION rollup_engine.holds_rows(rollup_engine.source, tstzrange) IS 'Whether an index finds rows of a source in a range.';

CREATE OR REPLACE FUNCTION rollup_engine.change_tail(p_source_id integer, p_tail rollup_engine.tail, p_range tstzrange) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_barred constant tstzmultirange := p_tail.barred + tstzmultirange(p_range);
BEGIN
    -- What was in its range is stale already, and cannot have been stored.
    PERFORM rollup_engine.mark_barred(
        ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source_id), tstzmultirange(p_range) - tstzmultirange(p_tail.range))
    WHERE NOT p_range <@ p_tail.range;
    PERFORM rollup_engine.write_tail(p_source_id, p_range);
    UPDATE rollup_engine.tail
    SET range = p_range, barred = v_barred, moved_by = pg_current_xact_id(), writers = NULL,
        waits_since = CASE WHEN v_barred <> tstzmultirange(p_range) THEN coalesce(waits_since, clock_timestamp()) END
    WHERE source_id = p_source_id;
END
$$;
COMMENT ON FUNCTION rollup_engine.change_tail(integer, rollup_engine.tail, tstzrange) IS
'Gives a source another tail: in one transaction it is stale, barred, and told to writers.';

CREATE OR REPLACE FUNCTION rollup_engine.move_tail(p_source rollup_engine.source, p_logged tstzmultirange, p_now timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_written constant tstzrange := rollup_engine.written_tail(p_source.id);
    v_wanted tstzrange := CASE WHEN isfinite(p_now) THEN rollup_engine.wanted_tail(p_source.id, p_now) ELSE 'empty' END;
    -- Where all is logged, nobody may have written anything there.
    v_is_written constant boolean := p_logged && v_wanted AND isfinite(lower(p_logged));
    v_tail rollup_engine.tail;
BEGIN
    SELECT * INTO v_tail FROM rollup_engine.tail WHERE source_id = p_source.id;
    IF NOT FOUND THEN
        IF NOT v_is_written AND isempty(v_written) THEN
            RETURN;
        END IF;
        INSERT INTO rollup_engine.tail (source_id) VALUES (p_source.id) RETURNING * INTO v_tail;
    END IF;
    IF v_written IS DISTINCT FROM v_tail.range THEN
        -- Schema and data of a dump may be of two times.
        v_tail.barred := v_tail.barred + tstzmultirange(coalesce(v_written, 'empty'));
        PERFORM rollup_engine.mark_barred(ARRAY(SELECT id FROM silver.rollup_config WHERE source_id = p_source.id), v_tail.barred);
        PERFORM rollup_engine.change_tail(p_source.id, v_tail, 'empty');
        RETURN;
    ELSIF NOT rollup_engine.settle_tail(p_source) THEN
        -- A transaction that lasts must not keep more and more from being stored.
        IF v_tail.waits_since < clock_timestamp() - interval '2 minutes' AND NOT isempty(v_tail.range) THEN
            PERFORM rollup_engine.change_tail(p_source.id, v_tail, 'empty');
        END IF;
        RETURN;
    END IF;
    SELECT * INTO v_tail FROM rollup_engine.tail WHERE source_id = p_source.id;
    IF p_now IS NULL OR p_now = '-infinity'
        OR lower(v_wanted) = lower(v_tail.range) AND p_now + (upper(v_wanted) - p_now) / 2 < upper(v_tail.range)
    THEN
        RETURN;  -- it suits for a while
    ELSIF NOT (v_is_written OR rollup_engine.holds_rows(p_source,
        tstzrange(lower(v_wanted) - (upper(v_wanted) - lower(v_wanted)), upper(v_wanted))))
    THEN
        v_wanted := 'empty';
    END IF;
    IF v_wanted <> v_tail.range THEN
        PERFORM rollup_engine.change_tail(p_source.id, v_tail, v_wanted);
    ELSIF isempty(v_wanted) THEN
        DELETE FROM rollup_engine.tail WHERE source_id = p_source.id;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.move_tail(rollup_engine.source, tstzmultirange, timestamptz) IS
'Moves the tail with the clock; a source that is not written there has none.';

RESET ROLE;
