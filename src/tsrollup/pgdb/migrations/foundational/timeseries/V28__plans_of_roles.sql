-- A plan that rests on what one role may read is that role's.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE TABLE rollup_engine.plan_of_role (id integer) PARTITION BY RANGE (id);
ALTER TABLE rollup_engine.plan_of_role ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE rollup_engine.plan_of_role IS
'Holds nothing, and has no partitions, so that a plan leaves it out and a dump reads no rows of it. A query that names it is planned anew for each role, since it has row level security.';

CREATE TYPE rollup_engine.open_plan AS (from_time timestamptz, to_time timestamptz, parts bigint);
COMMENT ON TYPE rollup_engine.open_plan IS
'What a plan of a live view knows: from when to when it reads stale buckets from the source itself, and the set of partitions that it reads them from.';

RESET ROLE;
