-- When the buckets of a rollup are not those of its parent.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE TABLE rollup_engine.uneven_time (
    rollup_id integer PRIMARY KEY,
    ranges tstzmultirange NOT NULL
);
COMMENT ON TABLE rollup_engine.uneven_time IS
'Of rollups whose buckets go by another calendar than those of their parents: when they are not made of whole ones. As long as there is no data then, nothing is wrong.';

RESET ROLE;
