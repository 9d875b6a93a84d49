-- Where reads begin in the change log: behind what drains have settled. A snapshot that stays open
-- keeps those rows, dead as they are, in the way of everybody.

SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL ROLE "${owner_role}";

ALTER TABLE rollup_engine.change_log ADD COLUMN writer xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX change_log_writer_idx ON rollup_engine.change_log (source_id, writer);
COMMENT ON COLUMN rollup_engine.change_log.writer IS 'The transaction that wrote what it speaks of.';

CREATE TABLE rollup_engine.log_border (
    source_id integer NOT NULL,
    writer xid8 NOT NULL,
    noted_by xid,
    PRIMARY KEY (source_id, writer)
);
COMMENT ON TABLE rollup_engine.log_border IS 'Which part of the change log of a source is settled.';
COMMENT ON COLUMN rollup_engine.log_border.writer IS 'Who sees this row sees nothing of earlier transactions in the log: a drain took it, with all that they wrote.';
COMMENT ON COLUMN rollup_engine.log_border.noted_by IS 'The xmin of this row: where it is another one, the row was restored, and says nothing of the transactions here.';

RESET ROLE;
