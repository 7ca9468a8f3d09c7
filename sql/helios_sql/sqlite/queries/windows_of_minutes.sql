-- The windows that begin in the given minutes of services (a JSON array of pairs).
SELECT
    w.start_us, w.service, w.signal, w.events, w.errors, w.warnings, w.levels,
    w.unparsed, w.bytes_in, w.latency_count, w.latency_sum_us, w.latency, w.endpoints, w.templates_overflow
FROM json_each(:buckets) AS minutes
CROSS JOIN windows AS w  -- in this order: for each bucket one search of the index
WHERE w.service = json_extract(minutes.value, '$[0]')
  AND w.start_us >= json_extract(minutes.value, '$[1]') AND w.start_us < json_extract(minutes.value, '$[1]') + 60000000
