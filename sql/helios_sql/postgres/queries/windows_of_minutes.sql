-- The windows that begin in the given minutes of services. OFFSET 0 keeps the planner from joining by service alone.
SELECT
    w.start_time AS start_us, w.service, w.signal, w.events, w.errors, w.warnings,
    array_to_json(w.levels)::text AS levels, w.unparsed, w.bytes_in, w.latency_count, w.latency_sum_us,
    w.latency, w.endpoints, w.templates_overflow
FROM unnest(:services::text[], :starts::timestamptz[]) AS minutes (service, start_time)
CROSS JOIN LATERAL (
    SELECT * FROM windows AS i
    WHERE i.service = minutes.service
      AND i.start_time >= minutes.start_time AND i.start_time < minutes.start_time + INTERVAL '1 minute'
    OFFSET 0
) AS w
