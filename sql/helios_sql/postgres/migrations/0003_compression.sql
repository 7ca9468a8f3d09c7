-- Days that are over for a week are kept compressed where TimescaleDB can do it: not without it, and not in its
-- edition under the Apache licence. May be called again, as when the licence has come later.
CREATE PROCEDURE helios_compress()
LANGUAGE plpgsql AS $$
DECLARE
    settings record;
BEGIN
    IF coalesce(current_setting('timescaledb.license', true), '') <> 'timescale'
       OR NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN;
    END IF;
    FOR settings IN
        -- By time, so that a minute of a service is in one batch of a thousand rows, however many hosts it has.
        -- Templates are looked at by the half hour: together their ids and counts take half the room.
        SELECT * FROM (VALUES
            ('windows',          'service',       'start_time'),
            ('window_templates', 'service',       'template_id, start_time'),
            ('events',           'service',       'time'),
            ('metrics',          'service, name', 'time')
        ) AS wanted (hypertable, segmentby, orderby)
        -- Tables that were made before the extension was there stay partitions; what is on stays as it is.
        JOIN timescaledb_information.hypertables AS h ON h.hypertable_name = wanted.hypertable
        WHERE to_regclass(wanted.hypertable) = format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass
          AND NOT h.compression_enabled
    LOOP
        -- Of a row that comes late the unique index of `events` has to be looked up in compressed batches: in
        -- those of its service alone, when that is part of it. The hash in idem_key has it in it anyway.
        IF settings.hypertable = 'events' THEN
            ALTER TABLE events
                DROP CONSTRAINT events_time_idem_key_key,
                ADD CONSTRAINT events_time_idem_key_key UNIQUE (time, idem_key, service);
        END IF;
        EXECUTE format(
            'ALTER TABLE %I SET (timescaledb.compress, timescaledb.compress_segmentby = %L, '
            'timescaledb.compress_orderby = %L)',
            settings.hypertable, settings.segmentby, settings.orderby
        );
        -- Not while everybody is starting after the migration: a day that is being compressed takes no rows.
        PERFORM add_compression_policy(
            settings.hypertable::regclass,
            compress_after => INTERVAL '7 days',
            schedule_interval => INTERVAL '12 hours',
            initial_start => now() + INTERVAL '1 hour'
        );
    END LOOP;
END
$$;

CALL helios_compress();
