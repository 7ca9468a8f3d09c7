-- Windows added up over their hosts and over a minute, five minutes and an hour: exact, as windows are.
CREATE TABLE rollups (
    step_s             INTEGER NOT NULL,  -- 60, 300 or 3600
    start_us           INTEGER NOT NULL,
    service            TEXT    NOT NULL,
    signal             INTEGER NOT NULL,
    events             INTEGER NOT NULL,
    errors             INTEGER NOT NULL,
    warnings           INTEGER NOT NULL,
    levels             TEXT    NOT NULL,
    unparsed           INTEGER NOT NULL,
    bytes_in           INTEGER NOT NULL,
    latency_count      INTEGER NOT NULL,
    latency_sum_us     INTEGER NOT NULL,
    latency            BLOB,
    endpoints          BLOB,
    templates_overflow INTEGER NOT NULL,
    PRIMARY KEY (service, step_s, start_us, signal)
) WITHOUT ROWID;
CREATE INDEX rollups_step_start ON rollups (step_s, start_us);

-- The minutes of services whose rollups are older than their windows.
CREATE TABLE rollup_pending (
    service  TEXT    NOT NULL,
    start_us INTEGER NOT NULL,
    PRIMARY KEY (service, start_us)
) WITHOUT ROWID;
INSERT INTO rollup_pending
SELECT DISTINCT service, start_us / 60000000 * 60000000 FROM windows;

-- Windows that begin before are not kept: late ones are added to the rollups at once. One row.
CREATE TABLE rollup_state (
    raw_from_us INTEGER NOT NULL
);
INSERT INTO rollup_state VALUES (0);
