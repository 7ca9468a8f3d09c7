-- The rollups of a step that begin within `width_s` of the given times of services. OFFSET 0: as for windows.
SELECT
    r.start_time AS start_us, r.service, r.signal, r.events, r.errors, r.warnings,
    array_to_json(r.levels)::text AS levels, r.unparsed, r.bytes_in, r.latency_count, r.latency_sum_us,
    r.latency, r.endpoints, r.templates_overflow
FROM unnest(:services::text[], :starts::timestamptz[]) AS buckets (service, start_time)
CROSS JOIN LATERAL (
    SELECT * FROM rollups AS i
    WHERE i.service = buckets.service AND i.step_s = :step_s
      AND i.start_time >= buckets.start_time
      AND i.start_time < buckets.start_time + make_interval(secs => :width_s)
    OFFSET 0
) AS r
