-- Partitions of the user's own tables are made as if the user, or pg_partman, had made them: with
-- the same keys, owner, replica identity and sub-partitions, and watched from their first row on.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.bound_literal(p_set rollup_engine.partition_set, p_time timestamptz) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
    SELECT CASE WHEN p_set.time_unit IS NULL THEN quote_literal(p_time)
        WHEN b.type = 'integer'::regtype  -- as far as those go
        THEN format('integer %L', greatest(-2147483648, least(2147483647, ceil(rollup_engine.time_number(p_time, p_set.time_unit)))))
        ELSE rollup_engine.number_literal(p_time, b.type, p_set.time_unit) END
    FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS b (type)
    WHERE a.attrelid = p_set.relation AND a.attname = p_set.control
$$;
COMMENT ON FUNCTION rollup_engine.bound_literal(rollup_engine.partition_set, timestamptz) IS 'A time as a constant of the column that a source is divided by.';

CREATE OR REPLACE FUNCTION rollup_engine.control_time(p_set rollup_engine.partition_set) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rollup_engine.time_expression(p_set.control, b.type, p_set.time_unit)
    FROM pg_attribute AS a CROSS JOIN LATERAL rollup_engine.base_type(a.atttypid) AS b (type)
    WHERE a.attrelid = p_set.relation AND a.attname = p_set.control
$$;
COMMENT ON FUNCTION rollup_engine.control_time(rollup_engine.partition_set) IS 'The column that a source is divided by, as timestamptz.';
DROP FUNCTION IF EXISTS rollup_engine.utc_expression(name, regtype, text);

CREATE OR REPLACE FUNCTION rollup_engine.default_partition(p_relation regclass) RETURNS regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT nullif(partdefid, 0)::regclass FROM pg_partitioned_table WHERE partrelid = p_relation
$$;
COMMENT ON FUNCTION rollup_engine.default_partition(regclass) IS 'The default partition of a table, NULL when it has none.';

CREATE OR REPLACE FUNCTION rollup_engine.share_owner(p_relation regclass, p_partition regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner constant regrole := (SELECT relowner FROM pg_class WHERE oid = p_relation);
BEGIN
    IF v_owner <> (SELECT relowner FROM pg_class WHERE oid = p_partition) THEN
        -- From PostgreSQL 16 on, who has all rights of a role may be barred from acting as it.
        IF current_setting('server_version_num')::integer >= 160000 AND NOT pg_has_role(v_owner, 'SET') THEN
            PERFORM rollup_engine.fail('TR004', format('partitions of %s are to be of %s, as whom %I may not act', p_relation, v_owner, current_user),
                format('GRANT %s TO %I WITH SET TRUE', v_owner, current_user));
        END IF;
        EXECUTE format('ALTER TABLE %s OWNER TO %s', p_partition, v_owner);
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.share_owner(regclass, regclass) IS 'Gives a partition that somebody made for a table to the owner of the table.';

-- What pg_partman would give a partition of a set that it knows: the keys of its template table,
-- which the partitioned table cannot have, and the rights on it.
CREATE OR REPLACE FUNCTION rollup_engine.apply_template(p_relation regclass, p_schema name, p_name name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_partman constant text := rollup_engine.partman_schema();
    v_config record;
BEGIN
    IF v_partman IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT parent_table, to_regclass(template_table) IS NOT NULL AS has_template, inherit_privileges FROM %s.part_config WHERE parent_table = $1', v_partman)
    INTO v_config
    USING rollup_engine.partman_key(p_relation);
    IF v_config.has_template THEN
        EXECUTE format('SELECT %s.inherit_template_properties($1, $2, $3)', v_partman) USING v_config.parent_table, p_schema, p_name;
    END IF;
    IF v_config.inherit_privileges THEN
        EXECUTE format('SELECT %s.apply_privileges(n.nspname, c.relname, $1, $2) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $3', v_partman)
        USING p_schema, p_name, p_relation;
    END IF;
END
$$;
COMMENT ON FUNCTION rollup_engine.apply_template(regclass, name, name) IS 'Gives a new partition what pg_partman is configured to give those of the set.';

CREATE OR REPLACE FUNCTION rollup_engine.can_divide_like(p_relation regclass, p_partition regclass) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- By other columns than the table itself: bounds of time hold in one partition only.
    SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = p_partition AND 0 <> ALL (partattrs::smallint[]))
        AND NOT EXISTS (
            SELECT FROM pg_partitioned_table AS p
            JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::smallint[])
            WHERE p.partrelid = p_partition AND a.attname = rollup_engine.partition_column(p_relation))
$$;
COMMENT ON FUNCTION rollup_engine.can_divide_like(regclass, regclass) IS 'Whether a new partition of a table can be divided as that one is.';

-- A partition of the user's table, empty and not attached yet; it belongs to whom the table does.
CREATE OR REPLACE FUNCTION rollup_engine.create_like_source(p_relation regclass, p_name name, p_sibling regclass DEFAULT NULL) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
AS $$
DECLARE
    v_class pg_class;
    v_schema name;
    v_name text;
    v_divided constant boolean := rollup_engine.can_divide_like(p_relation, p_sibling);
    v_part record;
BEGIN
    SELECT * INTO v_class FROM pg_class WHERE oid = p_relation;
    SELECT nspname INTO v_schema FROM pg_namespace WHERE oid = v_class.relnamespace;
    v_name := format('%I.%I', v_schema, p_name);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', v_name, p_relation)
        || CASE WHEN v_divided THEN ' PARTITION BY ' || pg_get_partkeydef(p_sibling) ELSE '' END
        || coalesce((SELECT format(' TABLESPACE %I', spcname) FROM pg_tablespace WHERE oid = v_class.reltablespace), '');
    PERFORM rollup_engine.share_owner(p_relation, v_name::regclass);
    IF v_divided THEN
        FOR v_part IN
            SELECT c.oid::regclass AS id, pg_get_expr(c.relpartbound, c.oid) AS bound,
                CASE WHEN starts_with(c.relname, s.relname || '_') THEN substr(c.relname, length(s.relname) + 2) ELSE c.relname END AS suffix
            FROM pg_inherits AS i
            JOIN pg_class AS c ON c.oid = i.inhrelid
            JOIN pg_class AS s ON s.oid = i.inhparent
            WHERE i.inhparent = p_sibling AND NOT i.inhdetachpending
        LOOP
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s %s', v_name,
                rollup_engine.create_like_source(p_relation, rollup_engine.free_name(p_relation, p_name, v_part.suffix), v_part.id), v_part.bound);
        END LOOP;
    ELSE
        PERFORM rollup_engine.apply_template(p_relation, v_schema, p_name);
    END IF;
    RETURN v_name::regclass;
END
$$;
COMMENT ON FUNCTION rollup_engine.create_like_source(regclass, name, regclass) IS 'A new table with the columns, constraints and indexes of a source, divided as a partition of it is.';

-- A published table without one refuses UPDATE and DELETE.
CREATE OR REPLACE FUNCTION rollup_engine.share_identity(p_relation regclass, p_partition regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_leaf regclass;
    v_index name;
    v_identity text := (SELECT relreplident FROM pg_class WHERE oid = p_relation);
BEGIN
    -- Given to each partition, the table itself may have none.
    IF v_identity = 'd' AND EXISTS (
        SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = p_relation AND c.relreplident = 'f')
    THEN
        v_identity := 'f';
    END IF;
    FOR v_leaf IN SELECT rollup_engine.partition_tree(p_partition) LOOP
        SELECT c.relname INTO v_index
        FROM pg_index AS x
        JOIN pg_partition_tree(x.indexrelid) AS t ON true
        JOIN pg_index AS y ON y.indexrelid = t.relid AND y.indrelid = v_leaf
        JOIN pg_class AS c ON c.oid = y.indexrelid
        WHERE x.indrelid = p_relation AND x.indisreplident;
        IF v_identity = 'f' THEN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', v_leaf);
        ELSIF v_identity = 'i' AND v_index IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', v_leaf, v_index);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.share_identity(regclass, regclass) IS 'Gives an attached partition the replica identity of its table, or of its siblings.';

-- In the transaction that makes a partition nobody has written to it: there is nothing stale in it.
CREATE OR REPLACE FUNCTION rollup_engine.watch_partition(p_relation regclass, p_partition regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source rollup_engine.source;
BEGIN
    FOR v_source IN SELECT * FROM rollup_engine.source WHERE relation IN (SELECT pg_partition_ancestors(p_relation)) LOOP
        PERFORM rollup_engine.add_triggers(v_source, m) FROM rollup_engine.partition_tree(p_partition) AS m;
        INSERT INTO rollup_engine.source_partition (source_id, partition, from_time, to_time)
        SELECT v_source.id, m.member, m.from_time, m.to_time
        FROM rollup_engine.partition_bounds(v_source.relation, v_source.time_column) AS m WHERE m.member IN (SELECT rollup_engine.partition_tree(p_partition))
        ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.watch_partition(regclass, regclass) IS 'Captures the changes of a partition that was made just now.';

CREATE OR REPLACE FUNCTION rollup_engine.ensure_default_partition(p_relation regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_partition regclass;
BEGIN
    IF rollup_engine.default_partition(p_relation) IS NOT NULL THEN
        RETURN;
    END IF;
    v_partition := rollup_engine.create_like_source(p_relation,
        rollup_engine.free_name(p_relation, (SELECT relname FROM pg_class WHERE oid = p_relation), 'default'));
    PERFORM rollup_engine.change_table('ALTER TABLE', p_relation, format('ATTACH PARTITION %s DEFAULT', v_partition));
    PERFORM rollup_engine.share_identity(p_relation, v_partition);
    PERFORM rollup_engine.watch_partition(p_relation, v_partition);
END
$$;
COMMENT ON FUNCTION rollup_engine.ensure_default_partition(regclass) IS 'Gives a source a default partition, so that no write fails for want of one.';

RESET ROLE;
