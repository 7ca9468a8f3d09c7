-- The deltas of one service that start in [from_us, to_us), with what a chart needs of them.
SELECT start_us, duration_ms, signal, events, errors, latency
FROM windows
WHERE service = :service AND start_us >= :from_us AND start_us < :to_us
ORDER BY start_us
