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

-- As before, but no window is dropped that begins where windows are kept (chunks need not be days), and two
-- may drop the same day.
CREATE OR REPLACE PROCEDURE helios_prune(before timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    parent  text;
    until   timestamptz;
    command text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['windows', 'window_templates', 'events', 'metrics'] LOOP
        until := CASE
            WHEN parent LIKE 'window%' THEN least(before, (SELECT raw_from FROM rollup_state)) ELSE before
        END;
        FOR command IN
            SELECT format('DROP TABLE IF EXISTS %I', child.relname) FROM pg_inherits
            JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = parent::regclass AND child.relispartition
              AND child.relname < format('%s_%s', parent, to_char(until AT TIME ZONE 'UTC', 'YYYYMMDD'))
            UNION ALL
            SELECT format('SELECT drop_chunks(%L::regclass, older_than => %L::timestamptz)', parent, until)
            FROM pg_class WHERE oid = parent::regclass AND relkind = 'r'
        LOOP
            BEGIN
                SET LOCAL lock_timeout = '2s';
                EXECUTE command;
            EXCEPTION WHEN lock_not_available THEN
                RAISE WARNING 'left for the next time: %', command;
            END;
            COMMIT;
        END LOOP;
    END LOOP;
    DELETE FROM anomalies WHERE decided_at < before;
    DELETE FROM templates WHERE last_seen < before;
END
$$;
