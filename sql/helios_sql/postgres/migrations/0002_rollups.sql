-- Windows added up over their hosts and over a minute, five minutes and an hour: exact, as windows are.
CREATE TABLE rollups (
    step_s             integer     NOT NULL,  -- 60, 300 or 3600
    start_time         timestamptz NOT NULL,
    service            text COLLATE "C" NOT NULL,
    signal             smallint    NOT NULL,
    events             bigint      NOT NULL,
    errors             bigint      NOT NULL,
    warnings           bigint      NOT NULL,
    levels             bigint[]    NOT NULL,
    unparsed           bigint      NOT NULL,
    bytes_in           bigint      NOT NULL,
    latency_count      bigint      NOT NULL,
    latency_sum_us     bigint      NOT NULL,
    latency            bytea,
    endpoints          bytea,
    templates_overflow bigint      NOT NULL,
    PRIMARY KEY (service, step_s, start_time, signal)
);
CREATE INDEX rollups_step_start ON rollups (step_s, start_time);

-- The minutes of services whose rollups are older than their windows.
CREATE TABLE rollup_pending (
    service    text COLLATE "C" NOT NULL,
    start_time timestamptz NOT NULL,
    marks      bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (service, start_time)
);
INSERT INTO rollup_pending (service, start_time)
SELECT DISTINCT service, date_bin('1 minute', start_time, TIMESTAMPTZ '1970-01-01 00:00:00+00') FROM windows;

-- Windows that begin before are not kept: late ones are added to the rollups at once. One row.
CREATE TABLE rollup_state (
    raw_from timestamptz NOT NULL
);
INSERT INTO rollup_state VALUES (TIMESTAMPTZ '1970-01-01 00:00:00+00');
