-- Sources in whose catalogue nothing was left to do or to complain of, so that runs and the monitor
-- need not look again until it changes.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE TABLE rollup_engine.quiet_source (
    source_id integer PRIMARY KEY,
    trace numeric NOT NULL,
    has_strays boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE rollup_engine.quiet_source IS 'Sources where a run found everything of the catalogue taken in and in order.';
COMMENT ON COLUMN rollup_engine.quiet_source.trace IS 'What catalogue_traces said of the source just before: while it says the same, nothing has changed.';
COMMENT ON COLUMN rollup_engine.quiet_source.has_strays IS 'Whether its tables have capture triggers still that others have replaced: a run that commits drops them.';

RESET ROLE;
