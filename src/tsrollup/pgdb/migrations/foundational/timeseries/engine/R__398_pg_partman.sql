-- Finding pg_partman: where it is, whether it may be called, which sets are its own.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.partman_schema() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n.nspname::regnamespace::text
    FROM pg_extension AS e
    JOIN pg_namespace AS n ON n.oid = e.extnamespace
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'part_config'
    WHERE e.extname = 'pg_partman'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'INSERT')
        AND rollup_engine.stranger_in_extension(e.extname) IS NULL
$$;
COMMENT ON FUNCTION rollup_engine.partman_schema() IS 'Where pg_partman is, NULL when it is missing, not for this role, or a stranger''s.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_out_of_reach() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN s.stranger IS NOT NULL
        THEN format('have a superuser own pg_partman and what is in %s; or, is role %s to be trusted, make it a member of %I', v.schema, s.stranger, '${owner_role}')
        ELSE format('GRANT USAGE, CREATE ON SCHEMA %1$s TO %2$I; GRANT ALL ON ALL TABLES IN SCHEMA %1$s TO %2$I', v.schema, '${owner_role}') END
    FROM pg_extension AS e
    CROSS JOIN LATERAL (SELECT e.extnamespace::regnamespace AS schema) AS v
    CROSS JOIN LATERAL rollup_engine.stranger_in_extension(e.extname) AS s (stranger)
    WHERE e.extname = 'pg_partman' AND (s.stranger IS NOT NULL OR NOT has_schema_privilege('${owner_role}', e.extnamespace, 'USAGE') OR NOT EXISTS (
        SELECT FROM pg_class AS c
        WHERE c.relnamespace = e.extnamespace AND c.relname = 'part_config' AND has_table_privilege('${owner_role}', c.oid, 'INSERT')))
$$;
COMMENT ON FUNCTION rollup_engine.partman_out_of_reach() IS 'What to do so that pg_partman can be asked what it removes, and told what is gone; NULL when it can be, or is not there.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_key(p_relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- It knows tables by unquoted names, and puts them into SQL between apostrophes.
    SELECT n.nspname || '.' || c.relname
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = p_relation AND (n.nspname || c.relname) !~ '[.'']'
$$;
COMMENT ON FUNCTION rollup_engine.partman_key(regclass) IS 'The name pg_partman knows a table by, NULL when it cannot.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_knows(p_key text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_known boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s.part_config WHERE parent_table = $1)', rollup_engine.partman_schema())
    INTO v_known
    USING p_key;
    RETURN v_known;
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_knows(text) IS 'Whether that name is registered with pg_partman.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_keys(p_relation regclass) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(rollup_engine.partman_key(m))
    FROM rollup_engine.partition_tree(p_relation) AS m JOIN pg_partitioned_table AS p ON p.partrelid = m
$$;
COMMENT ON FUNCTION rollup_engine.partman_keys(regclass) IS 'The names pg_partman knows a table, and those below it that are divided in turn, by.';

CREATE OR REPLACE FUNCTION rollup_engine.is_named_by_partman(p_partition regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT relname ~ '_p[0-9]{4}' FROM pg_class WHERE oid = p_partition
$$;
COMMENT ON FUNCTION rollup_engine.is_named_by_partman(regclass) IS 'Whether a partition has a name as pg_partman gives them: all that tells where that cannot be asked.';

CREATE OR REPLACE FUNCTION rollup_engine.check_partman_lets_go(p_relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.partman_schema() IS NULL AND rollup_engine.is_named_by_partman(p_relation)
        AND EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = p_relation AND partstrat = 'r') AND rollup_engine.partman_out_of_reach() IS NOT NULL
    THEN
        PERFORM rollup_engine.fail('TR004', format('pg_partman, which may have divided %s and stops for all tables where it does not find one, is out of reach', p_relation),
            rollup_engine.partman_out_of_reach());
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.check_partman_lets_go(regclass) IS 'An error where a partition that is divided by ranges in turn, as pg_partman does it, is to go, and that cannot be told.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_goes_on_from(p_relation regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.partman_schema() IS NULL THEN
        RETURN rollup_engine.partman_out_of_reach() IS NOT NULL AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = p_relation AND rollup_engine.is_named_by_partman(inhrelid));
    END IF;
    RETURN coalesce(rollup_engine.partman_knows(rollup_engine.partman_key(p_relation)), false);
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_goes_on_from(regclass) IS 'Whether pg_partman wants a table to have a last partition, without which its maintenance stops for all tables; or may want it, where it cannot be asked.';

-- That of 0.1.0 did not say which it was.
DROP FUNCTION IF EXISTS rollup_engine.partman_retention(regclass);
CREATE FUNCTION rollup_engine.partman_retention(p_relation regclass, OUT keep text, OUT archive boolean)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rollup_engine.partman_schema() IS NOT NULL THEN
        EXECUTE rollup_engine.fill($sql$
            SELECT keep, archive FROM (
                SELECT parent_table, retention, retention_keep_table OR retention_schema IS NOT NULL FROM {partman}.part_config
                UNION ALL
                SELECT sub_parent, sub_retention, sub_retention_keep_table OR sub_retention_schema IS NOT NULL FROM {partman}.part_config_sub
            ) AS k (name, keep, archive)
            WHERE name = ANY ($1) AND keep IS NOT NULL ORDER BY array_position($1, name) LIMIT 1
            $sql$, jsonb_build_object('partman', rollup_engine.partman_schema()))
        INTO keep, archive
        USING rollup_engine.partman_keys(p_relation);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_retention(regclass) IS
'After how long pg_partman by itself removes partitions of a table, and whether it keeps them aside; NULL when it does not.';

CREATE OR REPLACE FUNCTION rollup_engine.partman_removes_any() RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found boolean := false;
BEGIN
    IF rollup_engine.partman_schema() IS NOT NULL THEN
        EXECUTE rollup_engine.fill($sql$
            SELECT EXISTS (SELECT FROM {partman}.part_config WHERE retention IS NOT NULL)
                OR EXISTS (SELECT FROM {partman}.part_config_sub WHERE sub_retention IS NOT NULL)
            $sql$, jsonb_build_object('partman', rollup_engine.partman_schema()))
        INTO v_found;
    END IF;
    RETURN v_found;
END
$$;
COMMENT ON FUNCTION rollup_engine.partman_removes_any() IS 'Whether pg_partman by itself removes partitions of any table.';

CREATE OR REPLACE FUNCTION rollup_engine.is_partmans(p_set rollup_engine.partition_set) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Its configuration does not follow a table that is renamed.
    IF p_set.partman_parent IS DISTINCT FROM rollup_engine.partman_key(p_set.relation) OR rollup_engine.partman_schema() IS NULL THEN
        RETURN false;
    END IF;
    RETURN coalesce(rollup_engine.partman_knows(p_set.partman_parent), false);
END
$$;
COMMENT ON FUNCTION rollup_engine.is_partmans(rollup_engine.partition_set) IS 'Whether pg_partman makes the partitions of a table; otherwise they are native.';

RESET ROLE;
