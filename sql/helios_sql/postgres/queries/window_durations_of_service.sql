-- The durations and signals of the windows of one service that start in [from_us, to_us).
SELECT DISTINCT duration_ms, signal
FROM windows
WHERE service = :service AND start_time >= :from_us AND start_time < :to_us
ORDER BY duration_ms, signal
