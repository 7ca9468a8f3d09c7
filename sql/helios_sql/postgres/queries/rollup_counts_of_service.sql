-- The rollups of one service and step that start in [from_us, to_us), with what a chart needs of them.
SELECT start_time AS start_us, signal, events, errors, latency
FROM rollups
WHERE service = :service AND step_s = :step_s AND start_time >= :from_us AND start_time < :to_us
ORDER BY start_time
