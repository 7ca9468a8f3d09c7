-- The windows that begin in the given minutes of services.
SELECT
    w.start_time AS start_us, w.service, w.signal, w.events, w.errors, w.warnings, array_to_json(w.levels)::text AS levels,
    w.unparsed, w.bytes_in, w.latency_count, w.latency_sum_us, w.latency, w.endpoints, w.templates_overflow
FROM unnest(:services::text[], :starts::timestamptz[]) AS minutes (service, start_time)
JOIN windows AS w
    ON w.service = minutes.service
    AND w.start_time >= minutes.start_time AND w.start_time < minutes.start_time + INTERVAL '1 minute'
