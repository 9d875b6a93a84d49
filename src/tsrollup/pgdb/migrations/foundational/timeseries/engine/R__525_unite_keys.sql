-- ALTER TYPE ... DROP ATTRIBUTE changes what a stored key equals, and how keys are sorted, and tells no index.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.united_rows_sql(p_rollup silver.rollup_config) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_rollup silver.rollup_config := p_rollup;
    v_expressions text;
    v_columns text;
BEGIN
    -- As if it read itself.
    v_rollup.parent_id := p_rollup.id;
    v_rollup.source_table := p_rollup.target_table;
    v_rollup.row_sql := NULL;
    SELECT string_agg(expression, ', ' ORDER BY position), string_agg(quote_ident(column_name), ', ' ORDER BY position)
    INTO v_expressions, v_columns
    FROM rollup_engine.plan_columns(v_rollup, 'timestamptz') WHERE kind <> 'finished';
    RETURN rollup_engine.fill($sql$
WITH counted AS (
    SELECT tableoid, ctid, count(*) OVER (PARTITION BY {key}) AS rows FROM {target}
), removed AS (
    DELETE FROM {target} AS t USING counted AS c
    WHERE c.rows > 1 AND t.tableoid = c.tableoid AND t.ctid = c.ctid
    RETURNING t.*
)
INSERT INTO {target} ({columns}) SELECT {expressions} FROM removed GROUP BY {groups}
$sql$, jsonb_build_object('target', p_rollup.target_table, 'key', rollup_engine.column_names(p_rollup.id, '{bucket,dimension}'),
        'columns', v_columns, 'expressions', v_expressions, 'groups', rollup_engine.group_list(p_rollup)));
END
$$;
COMMENT ON FUNCTION rollup_engine.united_rows_sql(silver.rollup_config) IS 'Adds up the rows of a rollup that have one key.';

CREATE OR REPLACE FUNCTION rollup_engine.unite_keys(p_rollup silver.rollup_config) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- Indexes are in the order that the lost attribute gave them: they find some rows and miss others.
    SET enable_indexscan = off
    SET enable_indexonlyscan = off
    SET enable_bitmapscan = off
AS $$
DECLARE
    v_leaf regclass;
BEGIN
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', p_rollup.target_table);  -- before its rows: a refresh does so as well
    PERFORM rollup_engine.set_refreshing(true);
    EXECUTE rollup_engine.united_rows_sql(p_rollup);
    PERFORM rollup_engine.set_refreshing(false);
    FOR v_leaf IN SELECT c.oid FROM rollup_engine.partition_tree(p_rollup.target_table) AS t (member) JOIN pg_class AS c ON c.oid = t.member AND c.relkind = 'r' LOOP
        EXECUTE format('REINDEX TABLE %s', v_leaf);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_engine.unite_keys(silver.rollup_config) IS
'As the type of a dimension loses an attribute, keys become equal, sealed ones too, and the order of all changes: rows are added up, indexes made anew.';

RESET ROLE;
