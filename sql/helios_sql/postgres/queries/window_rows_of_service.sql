-- The deltas of one service that start in [from_us, to_us).
SELECT
    start_time AS start_us, duration_ms, host, signal, array_to_json(levels)::text AS levels, unparsed, bytes_in,
    latency, endpoints
FROM windows
WHERE service = :service AND start_time >= :from_us AND start_time < :to_us
ORDER BY start_time
