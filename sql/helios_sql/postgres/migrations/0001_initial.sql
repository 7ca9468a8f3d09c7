-- Latencies are integer microseconds. What is measured stands in tables by day: hypertables of TimescaleDB
-- where it is installed, declarative partitions without it (helios_make_days makes these). Names are in
-- the order of their bytes, as in SQLite.
DO $$
DECLARE
    timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    by_start  text := CASE WHEN timescale THEN '' ELSE ' PARTITION BY RANGE (start_time)' END;
    by_time   text := CASE WHEN timescale THEN '' ELSE ' PARTITION BY RANGE (time)' END;
BEGIN
    -- One row for each delta that was applied: a window is the sum of its rows.
    EXECUTE 'CREATE TABLE windows (
        start_time         timestamptz NOT NULL,
        duration_ms        integer     NOT NULL,
        service            text COLLATE "C" NOT NULL,
        host               text        NOT NULL,
        signal             smallint    NOT NULL,
        events             bigint      NOT NULL,
        errors             bigint      NOT NULL,
        warnings           bigint      NOT NULL,
        levels             bigint[]    NOT NULL,  -- counts by level number
        unparsed           bigint      NOT NULL,
        bytes_in           bigint      NOT NULL,
        latency_count      bigint      NOT NULL,
        latency_sum_us     bigint      NOT NULL,
        latency            bytea,                 -- helios.v1.LatencyHistogram
        endpoints          bytea,                 -- helios.v1.DistinctCount
        templates_overflow bigint      NOT NULL
    )' || by_start;

    -- Template ids are the contract''s unsigned 64-bit numbers, stored as signed ones of the same bits.
    EXECUTE 'CREATE TABLE window_templates (
        service     text COLLATE "C" NOT NULL,
        template_id bigint      NOT NULL,
        start_time  timestamptz NOT NULL,
        count       bigint      NOT NULL
    )' || by_start;

    EXECUTE 'CREATE TABLE events (
        time         timestamptz NOT NULL,
        service      text COLLATE "C" NOT NULL,
        level        smallint    NOT NULL,
        message      text        NOT NULL,
        latency_us   bigint,
        endpoint     text        NOT NULL,
        trace_id     text        NOT NULL,
        span_id      text        NOT NULL,
        host         text        NOT NULL,
        signal       smallint    NOT NULL,
        attributes   jsonb       NOT NULL,
        template_id  bigint      NOT NULL,
        counted      smallint    NOT NULL,
        idem_key     bytea       NOT NULL,
        content_hash bytea       NOT NULL,
        UNIQUE (time, idem_key)
    )' || by_time;

    EXECUTE 'CREATE TABLE metrics (
        time    timestamptz      NOT NULL,
        name    text COLLATE "C" NOT NULL,
        service text COLLATE "C" NOT NULL,
        host    text             NOT NULL,
        value   double precision NOT NULL,
        labels  jsonb            NOT NULL
    )' || by_time;

    IF timescale THEN
        PERFORM create_hypertable('windows', by_range('start_time', INTERVAL '1 day'), create_default_indexes => false);
        PERFORM create_hypertable(
            'window_templates', by_range('start_time', INTERVAL '1 day'), create_default_indexes => false
        );
        PERFORM create_hypertable('events', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
        PERFORM create_hypertable('metrics', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
    END IF;
END
$$;

CREATE INDEX windows_service_start ON windows (service, start_time);
CREATE INDEX windows_start ON windows (start_time);
CREATE INDEX window_templates_service_start ON window_templates (service, start_time);
CREATE INDEX events_service_time ON events (service, time);
CREATE INDEX events_errors ON events (service, time) WHERE level >= 4;
CREATE INDEX events_trace ON events USING hash (trace_id) WHERE trace_id <> '';  -- of any length
CREATE INDEX events_template ON events (service, template_id, time) WHERE template_id <> 0;
CREATE INDEX events_attributes ON events USING gin (attributes jsonb_path_ops);
CREATE INDEX metrics_name_time ON metrics (name, service, time);

CREATE TABLE templates (
    service     text COLLATE "C" NOT NULL,
    template_id bigint      NOT NULL,
    level       smallint    NOT NULL,
    text        text        NOT NULL,
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    PRIMARY KEY (service, template_id)
);

-- What was applied of each agent's incarnation: see helios_core.store.ledger. NULL before the first.
CREATE TABLE ledger (
    agent_id    bytea   NOT NULL,
    incarnation bytea   NOT NULL,
    partition   integer NOT NULL,
    state       bytea,
    PRIMARY KEY (agent_id, incarnation, partition)
);

-- How far the records of raw events were applied.
CREATE TABLE positions (
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition)
);

CREATE TABLE anomalies (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    service    text COLLATE "C" NOT NULL,
    state      text COLLATE "C" NOT NULL,  -- fired, raised, resolved
    severity   text        NOT NULL,
    decided_at timestamptz NOT NULL,  -- end of the horizon that decided it
    document   jsonb       NOT NULL   -- helios_core.alerts.Alert
);
CREATE INDEX anomalies_service_time ON anomalies (service, decided_at);
CREATE INDEX anomalies_time ON anomalies (decided_at);

CREATE TABLE incidents (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    state       text COLLATE "C" NOT NULL,  -- triggered, acknowledged, resolved
    severity    text        NOT NULL,
    opened_at   timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    resolved_at timestamptz,
    document    jsonb       NOT NULL   -- helios_reporter.incidents.Incident
);
CREATE INDEX incidents_opened ON incidents (opened_at);

CREATE TABLE reports (
    incident_id text COLLATE "C" NOT NULL,
    revision    integer     NOT NULL,
    created_at  timestamptz NOT NULL,
    generator   text        NOT NULL,  -- rules, llm
    document    jsonb       NOT NULL,
    markdown    text        NOT NULL,
    PRIMARY KEY (incident_id, revision)
);

-- Makes room for these days (UTC) in the tables by day; hypertables do it by themselves. A table is made
-- beside its parent and attached: unlike PARTITION OF that waits for no reader or writer, and none for it.
CREATE PROCEDURE helios_make_days(days date[])
LANGUAGE plpgsql AS $$
DECLARE
    home   oid := (SELECT relnamespace FROM pg_class WHERE oid = 'windows'::regclass);
    parent text;
    day    date;
    made   name;
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'windows'::regclass) <> 'p' THEN
        RETURN;
    END IF;
    FOREACH day IN ARRAY days LOOP
        FOREACH parent IN ARRAY ARRAY['windows', 'window_templates', 'events', 'metrics'] LOOP
            made := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN EXISTS (SELECT FROM pg_class WHERE relname = made AND relnamespace = home);
            PERFORM pg_advisory_xact_lock(hashtext('helios_make_days'));
            IF NOT EXISTS (SELECT FROM pg_class WHERE relname = made AND relnamespace = home) THEN
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', made, parent);
                EXECUTE format(
                    'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent, made, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00'
                );
            END IF;
            COMMIT;
        END LOOP;
    END LOOP;
END
$$;

-- Drops the days that lie before `before` as a whole, each in a transaction of its own, and what else is older.
-- A day that somebody reads for longer (a dump) is left for the next time: who waits for a table to drop it
-- holds up everybody else.
CREATE PROCEDURE helios_prune(before timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    parent  text;
    command text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['windows', 'window_templates', 'events', 'metrics'] LOOP
        FOR command IN
            SELECT format('DROP TABLE %I', child.relname) FROM pg_inherits
            JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = parent::regclass AND child.relispartition
              AND child.relname < format('%s_%s', parent, to_char(before AT TIME ZONE 'UTC', 'YYYYMMDD'))
            UNION ALL
            SELECT format('SELECT drop_chunks(%L::regclass, older_than => %L::timestamptz)', parent, before)
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
