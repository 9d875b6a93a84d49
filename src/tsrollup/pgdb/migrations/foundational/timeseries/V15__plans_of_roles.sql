-- A plan that rests on what one role may read is that role's.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE TABLE rollup_engine.plan_of_role (id integer PRIMARY KEY);
ALTER TABLE rollup_engine.plan_of_role ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE rollup_engine.plan_of_role IS
'Always empty. A query that names it is planned anew for each role, since it has row level security; the join itself is planned away.';

RESET ROLE;
