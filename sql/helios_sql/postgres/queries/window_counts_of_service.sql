-- The deltas of one service that start in [from_us, to_us), with what a chart needs of them.
SELECT start_time AS start_us, duration_ms, signal, events, errors, latency
FROM windows
WHERE service = :service AND start_time >= :from_us AND start_time < :to_us
ORDER BY start_time
