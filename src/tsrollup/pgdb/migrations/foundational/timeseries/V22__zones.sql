-- What rollups rest on whose buckets go by a time zone.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

CREATE TABLE rollup_engine.uneven_time (
    rollup_id integer PRIMARY KEY,
    ranges tstzmultirange NOT NULL
);
COMMENT ON TABLE rollup_engine.uneven_time IS
'Of rollups whose buckets go by another calendar than those of their parents: when they are not made of whole ones. As long as there is no data then, nothing is wrong.';

CREATE TABLE rollup_engine.zone_rules (
    rollup_id integer NOT NULL,
    timezone text NOT NULL,
    digest text NOT NULL,
    missed_from timestamptz,
    PRIMARY KEY (rollup_id, timezone)
);
COMMENT ON TABLE rollup_engine.zone_rules IS 'The time zones that a rollup goes by, with a digest of when their clocks change, as it was when buckets were computed.';
COMMENT ON COLUMN rollup_engine.zone_rules.missed_from IS 'From when on changes came, or rows are missing after a restore, while the server did not know the zone; NULL for none.';

RESET ROLE;
