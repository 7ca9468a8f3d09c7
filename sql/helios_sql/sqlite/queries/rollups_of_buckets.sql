-- The rollups of a step that begin within `width_s` of the given times of services (a JSON array of pairs).
SELECT
    r.start_us, r.service, r.signal, r.events, r.errors, r.warnings, r.levels,
    r.unparsed, r.bytes_in, r.latency_count, r.latency_sum_us, r.latency, r.endpoints, r.templates_overflow
FROM json_each(:buckets) AS buckets
CROSS JOIN rollups AS r  -- in this order: for each bucket one search of the index
WHERE r.service = json_extract(buckets.value, '$[0]') AND r.step_s = :step_s
  AND r.start_us >= json_extract(buckets.value, '$[1]') AND r.start_us < json_extract(buckets.value, '$[1]') + :width_s * 1000000
