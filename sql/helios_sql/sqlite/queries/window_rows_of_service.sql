-- The deltas of one service that start in [from_us, to_us).
SELECT start_us, duration_ms, host, signal, levels, unparsed, bytes_in, latency, endpoints
FROM windows
WHERE service = :service AND start_us >= :from_us AND start_us < :to_us
ORDER BY start_us
