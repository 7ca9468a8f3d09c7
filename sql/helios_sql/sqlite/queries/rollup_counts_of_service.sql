-- The rollups of one service and step that start in [from_us, to_us), with what a chart needs of them.
SELECT start_us, signal, events, errors, latency
FROM rollups
WHERE service = :service AND step_s = :step_s AND start_us >= :from_us AND start_us < :to_us
ORDER BY start_us
