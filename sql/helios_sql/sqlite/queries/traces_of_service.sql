-- The traces of the sampled events of one service in [from_us, to_us).
SELECT DISTINCT trace_id FROM events
WHERE service = :service AND time_us >= :from_us AND time_us < :to_us AND trace_id <> ''
LIMIT :limit
