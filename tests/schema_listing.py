"""All relations, types and routines of tsrollup with their columns and rights, as text."""

import psycopg

RELATIONS = """
    SELECT format('%s %s', CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.oid::regclass),
           ARRAY(
               SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attnotnull THEN 'not null' END,
                   CASE WHEN a.attidentity <> '' THEN 'identity' END,
                   CASE a.attgenerated WHEN 's' THEN 'generated' ELSE 'default ' END
                       || pg_get_expr(d.adbin, d.adrelid))
               FROM pg_attribute AS a
               LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               ORDER BY a.attnum)
           || ARRAY(
               SELECT pg_get_constraintdef(oid) FROM pg_constraint
               WHERE conrelid = c.oid AND contype IN ('c', 'f', 'p', 'u')
               ORDER BY 1)
           || ARRAY(
               SELECT pg_get_indexdef(indexrelid) FROM pg_index
               WHERE indrelid = c.oid AND NOT indisprimary AND NOT indisunique
               ORDER BY 1)
           || ARRAY(
               SELECT pg_get_triggerdef(oid) FROM pg_trigger
               WHERE tgrelid = c.oid AND NOT tgisinternal
               ORDER BY 1)
           || ARRAY(
               SELECT format('%s to %s', string_agg(privilege_type, ', ' ORDER BY privilege_type),
                   CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END)
               FROM aclexplode(c.relacl) WHERE grantee <> c.relowner
               GROUP BY grantee ORDER BY 1)
    FROM pg_class AS c
    WHERE c.relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
        AND c.relkind IN ('r', 'v') AND NOT c.relispartition
        AND c.relname NOT LIKE 'schema_history%'
"""
TYPES = """
    SELECT format('type %s', c.oid::regclass), ARRAY(
        SELECT format('%s %s', attname, format_type(atttypid, atttypmod)) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum)
    FROM pg_class AS c
    WHERE c.relnamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
        AND c.relkind = 'c'
"""
ROUTINES = """
    SELECT format('routine %s.%s(%s)', p.pronamespace::regnamespace, p.proname,
               pg_get_function_arguments(p.oid)),
           ARRAY[
               'returns ' || pg_get_function_result(p.oid),
               concat_ws(' ', l.lanname,
                   CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' END,
                   CASE WHEN p.prosecdef THEN 'security definer' END,
                   CASE p.proparallel WHEN 's' THEN 'parallel safe' END)]
           || ARRAY(
               SELECT format('execute to %s',
                   CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END)
               FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))
               WHERE grantee <> p.proowner ORDER BY 1)
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace IN ('silver'::regnamespace, 'rollup_engine'::regnamespace)
"""


def listing(db: psycopg.Connection) -> str:
    db.execute("SET search_path = pg_catalog")
    parts = []
    for query in (RELATIONS, TYPES, ROUTINES):
        for title, lines in sorted(db.execute(query).fetchall()):
            parts.append("\n    ".join([title, *(line for line in lines if line)]))
    return "\n".join(parts) + "\n"
