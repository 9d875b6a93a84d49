-- Tables that came back from files. Which file it is from stands in the comment of a table, which goes
-- with it to other names, into its table again, and into a dump; the number of a table does not.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE OR REPLACE FUNCTION rollup_engine.restored_mark(p_file text) RETURNS text
    LANGUAGE sql IMMUTABLE
RETURN 'restored from ' || p_file;
COMMENT ON FUNCTION rollup_engine.restored_mark(text) IS 'Comment of a table that came back from a file.';

CREATE OR REPLACE FUNCTION rollup_engine.restored_tables() RETURNS TABLE (file_id bigint, relation regclass)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.id, c.oid
    FROM silver.archive_log AS l
    JOIN pg_description AS d ON d.description = rollup_engine.restored_mark(l.file) AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
    JOIN pg_class AS c ON c.oid = d.objoid AND c.relkind IN ('r', 'p')
    WHERE pg_get_userbyid(c.relowner) = l.owned_by OR pg_has_role(c.relowner, '${owner_role}', 'USAGE')
$$;
COMMENT ON FUNCTION rollup_engine.restored_tables() IS 'Tables that came back from files, by whatever name. Strangers may comment on theirs as they like.';

CREATE OR REPLACE FUNCTION rollup_engine.restored_name(p_partition_name text, p_id bigint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_id IN (SELECT file_id FROM rollup_engine.restored_tables()) THEN NULL
        WHEN rollup_engine.relation_called(p_partition_name) NOT IN (SELECT relation FROM rollup_engine.restored_tables() UNION ALL SELECT relation FROM rollup_engine.detached_partition)
            IS NOT FALSE THEN p_partition_name
        WHEN octet_length(concat(n.parts[2], '_', p_id)) < 64 THEN format('%I.%I', n.parts[1], concat(n.parts[2], '_', p_id))
        ELSE format('%I.%I', n.parts[1], concat('restored_', p_id))
    END
    FROM parse_ident(p_partition_name) AS n (parts)
$$;
COMMENT ON FUNCTION rollup_engine.restored_name(text, bigint) IS
'The name that a partition comes back under: its own, but where that is one of another that came back, or waits to be archived; NULL where it is back.';

RESET ROLE;
